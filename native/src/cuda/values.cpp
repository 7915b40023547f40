// Moving and making values on CUDA: kernels/values.cu behind the ops.
#include "values.h"

#include <algorithm>
#include <bit>

#include "cuda/backend.h"
#include "cuda/layout.h"
#include "ops/scalar.h"

namespace gatun::cuda {

namespace {

int element_bytes(int32_t dtype) {
  switch (dtype) {
    case GATUN_U8:
    case GATUN_I8:
      return 1;
    case GATUN_F16:
    case GATUN_BF16:
      return 2;
    case GATUN_I64:
      return 8;
    default:
      return 4;
  }
}

uint64_t bits_of(int32_t dtype, double value) {
  const float rounded = static_cast<float>(value);
  switch (dtype) {
    case GATUN_F32:
      return std::bit_cast<uint32_t>(rounded);
    case GATUN_F16:
      return cpu::from_float<cpu::f16>(rounded).bits;
    case GATUN_BF16:
      return cpu::from_float<cpu::bf16>(rounded).bits;
    case GATUN_U8:
      return to_integer<uint8_t>(value);
    case GATUN_I8:
      return static_cast<uint64_t>(to_integer<int8_t>(value));
    case GATUN_I32:
      return static_cast<uint64_t>(to_integer<int32_t>(value));
    default:
      return static_cast<uint64_t>(to_integer<int64_t>(value));
  }
}

kernels::Random random_of(const Random& args) {
  kernels::Random p = {};
  p.out = args.out.data;
  p.philox = philox_source(args.philox);
  p.runs = run_layout({&args.out}, Order::kRowMajor);
  return p;
}

// The ends of [low, high) as T rounds them; rounding reaches neither `high` nor below `low`.
template <typename T>
void set_ends(kernels::Random& p, double low, double high) {
  p.smallest = smallest_from<T>(low);
  p.largest = std::max(p.smallest, largest_below<T>(high));
}

}  // namespace

void fill(Context& context, const Fill& args) {
  kernels::Fill p = {};
  p.out = args.out.data;
  p.bits = bits_of(args.out.dtype, args.value);
  p.runs = run_layout({&args.out}, Order::kAny);
  check_launch("fill", kernels::fill(stream_of(context), element_bytes(args.out.dtype), p));
}

void copy(Context& context, const Copy& args) {
  kernels::Copy p = {};
  p.out = args.out.data;
  p.src = args.src.data;
  p.runs = run_layout({&args.out, &args.src}, Order::kAny);
  const cudaStream_t stream = stream_of(context);
  const int32_t to = args.out.dtype, from = args.src.dtype;
  cudaError_t error;
  if (to == from)
    error = kernels::copy(stream, element_bytes(to), p);
  else if (to == GATUN_I32 || to == GATUN_I64)
    error = kernels::cast_integers(stream, to == GATUN_I64, p);
  else
    error = kernels::cast(stream, element_type(to), element_type(from), p);
  check_launch("copy", error);
}

void random_uniform(Context& context, const Random& args) {
  kernels::Random p = random_of(args);
  p.shift = static_cast<float>(args.a);
  p.scale = static_cast<float>(args.b - args.a);
  switch (args.out.dtype) {
    case GATUN_F32:
      set_ends<float>(p, args.a, args.b);
      break;
    case GATUN_F16:
      set_ends<cpu::f16>(p, args.a, args.b);
      break;
    default:
      set_ends<cpu::bf16>(p, args.a, args.b);
  }
  check_launch("random_uniform",
               kernels::random_uniform(stream_of(context), element_type(args.out.dtype), p));
}

void random_normal(Context& context, const Random& args) {
  kernels::Random p = random_of(args);
  p.shift = static_cast<float>(args.a);
  p.scale = static_cast<float>(args.b);
  check_launch("random_normal",
               kernels::random_normal(stream_of(context), element_type(args.out.dtype), p));
}

void add(Context& context, const Add& args) {
  kernels::Add p = {};
  p.out = args.out.data;
  p.a = args.a.data;
  p.b = args.b.data;
  p.runs = run_layout({&args.out, &args.a, &args.b}, Order::kAny);
  check_launch("add", kernels::add(stream_of(context), element_type(args.out.dtype), p));
}

void increment(Context& context, const Increment& args) {
  kernels::Increment p = {};
  p.out = args.out.data;
  p.by = args.by;
  p.runs = run_layout({&args.out}, Order::kAny);
  check_launch("increment", kernels::increment(stream_of(context), args.out.dtype == GATUN_I64, p));
}

}  // namespace gatun::cuda
