/* gatun.h is C11, and its structs have the layout that bindings in other languages were made for.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "gatun.h"

#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), "sizeof " #type " moved")
#define AT(type, field, offset) \
  _Static_assert(offsetof(type, field) == (offset), #type "." #field " moved")

SIZE(gatun_status, 4);
SIZE(gatun_device, 8);
SIZE(gatun_stream, 8);
SIZE(gatun_event, 8);
SIZE(gatun_buffer, 8);

SIZE(gatun_device_options, 24);
AT(gatun_device_options, threads, 4);
AT(gatun_device_options, simd, 8);
AT(gatun_device_options, reserved, 12);
AT(gatun_device_options, memory_budget_bytes, 16);

SIZE(gatun_device_info, 320);
AT(gatun_device_info, threads, 4);
AT(gatun_device_info, simd, 8);
AT(gatun_device_info, sm_count, 12);
AT(gatun_device_info, memory_budget_bytes, 16);
AT(gatun_device_info, memory_used_bytes, 24);
AT(gatun_device_info, memory_reserved_bytes, 32);
AT(gatun_device_info, memory_peak_bytes, 40);
AT(gatun_device_info, buffers, 48);
AT(gatun_device_info, ops, 56);
AT(gatun_device_info, ops_missing, 60);
AT(gatun_device_info, name, 64);
AT(gatun_device_info, description, 128);

SIZE(gatun_tensor, 128);
AT(gatun_tensor, struct_size, 0);
AT(gatun_tensor, dtype, 4);
AT(gatun_tensor, rank, 8);
AT(gatun_tensor, reserved, 12);
AT(gatun_tensor, buffer, 16);
AT(gatun_tensor, offset_bytes, 24);
AT(gatun_tensor, shape, 32);
AT(gatun_tensor, stride, 80);

SIZE(gatun_profile_entry, 72);
AT(gatun_profile_entry, calls, 40);
AT(gatun_profile_entry, nanos, 48);
AT(gatun_profile_entry, bytes, 56);
AT(gatun_profile_entry, flops, 64);

SIZE(gatun_philox, 24);
AT(gatun_philox, site, 8);
AT(gatun_philox, micro_batch, 12);
AT(gatun_philox, step, 16);

SIZE(gatun_matmul_args, 56);
AT(gatun_matmul_args, transpose_a, 4);
AT(gatun_matmul_args, transpose_b, 8);
AT(gatun_matmul_args, accumulate, 12);
AT(gatun_matmul_args, epilogue, 16);
AT(gatun_matmul_args, gelu_erf, 20);
AT(gatun_matmul_args, alpha, 24);
AT(gatun_matmul_args, precision, 28);
AT(gatun_matmul_args, bias, 32);
AT(gatun_matmul_args, preactivation, 40);
AT(gatun_matmul_args, residual, 48);

SIZE(gatun_attention_args, 40);
AT(gatun_attention_args, causal, 4);
AT(gatun_attention_args, scale, 8);
AT(gatun_attention_args, dq_atomic, 12);
AT(gatun_attention_args, lengths, 16);
AT(gatun_attention_args, q_starts, 24);
AT(gatun_attention_args, k_starts, 32);

SIZE(gatun_cross_entropy_args, 32);
AT(gatun_cross_entropy_args, ignore_index, 4);
AT(gatun_cross_entropy_args, label_smoothing, 8);
AT(gatun_cross_entropy_args, write_gradient, 12);
AT(gatun_cross_entropy_args, factor, 16);
AT(gatun_cross_entropy_args, accumulate, 24);
AT(gatun_cross_entropy_args, reserved, 28);

SIZE(gatun_adamw_args, 104);
AT(gatun_adamw_args, count, 4);
AT(gatun_adamw_args, weights, 8);
AT(gatun_adamw_args, gradients, 16);
AT(gatun_adamw_args, m, 24);
AT(gatun_adamw_args, v, 32);
AT(gatun_adamw_args, copies, 40);
AT(gatun_adamw_args, decay, 48);
AT(gatun_adamw_args, learning_rate, 56);
AT(gatun_adamw_args, step, 64);
AT(gatun_adamw_args, clip, 72);
AT(gatun_adamw_args, beta1, 80);
AT(gatun_adamw_args, beta2, 88);
AT(gatun_adamw_args, eps, 96);

SIZE(gatun_sample_args, 24);
AT(gatun_sample_args, temperature, 4);
AT(gatun_sample_args, top_k, 8);
AT(gatun_sample_args, top_p, 12);
AT(gatun_sample_args, min_p, 16);
AT(gatun_sample_args, reserved, 20);

_Static_assert(GATUN_OK == 0 && GATUN_INTERNAL == 8, "the status values moved");
_Static_assert(GATUN_F32 == 0 && GATUN_I64 == 6, "the dtype values moved");
_Static_assert(GATUN_OTHER == 0 && GATUN_WORKSPACE == 6, "the purpose values moved");

int main(void) {
  gatun_device device = 0;
  gatun_status status;
  if (gatun_abi_version() != GATUN_ABI_VERSION) return 1;
  if (strlen(gatun_version()) == 0) return 2;
  gatun_nop();
  status = gatun_device_open("cpu", NULL, &device);
  if (status != GATUN_OK) {
    fprintf(stderr, "%s\n", gatun_last_error());
    return 3;
  }
  if (gatun_device_close(device) != GATUN_OK) return 4;
  if (gatun_device_close(device) != GATUN_INVALID_HANDLE) return 5;
  return 0;
}
