// attention_forward: a task is a block of queries of one head.
#include "core/backend.h"
#include "cpu/dispatch.h"
#include "cpu/level/attention.h"
#include "cpu/level/backend.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

template <typename T>
void forward(Context& context, const AttentionForward& op) {
  const int64_t batches = op.q.shape[0], heads = op.q.shape[1], queries = op.q.shape[2];
  const int64_t columns = op.q.shape[3], keys = op.k.shape[2];
  const int64_t group = heads / std::max<int64_t>(op.k.shape[1], 1);
  const float factor = static_cast<float>(scale_of(op.scale, columns) * kLog2E);
  const int64_t blocks = (queries + kQueries - 1) / kQueries;
  const int64_t tasks = batches * heads * blocks;
  if (tasks == 0 || columns == 0) return;

  const double work = 2.0 * static_cast<double>(batches * heads * columns) *
                      static_cast<double>(queries) * static_cast<double>(keys);
  const int threads = work < kParallelWork || tasks == 1 ? 1 : context.threads;
  const int64_t floats = AttendScratch::floats(columns);
  auto* const workspace =
      static_cast<float*>(context.workspace(static_cast<size_t>(floats * threads) * sizeof(float)));

  // A task's result does not depend on who runs it, so the loop may be dynamic: causal blocks
  // differ in length. The longest of a head come first.
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t first = (blocks - 1 - task % blocks) * kQueries;
    const int64_t h = task / blocks % heads, b = task / blocks / heads;
    const int64_t kv = h / group;
    Carver carver(workspace + floats * thread_number());
    const AttendScratch scratch(carver, columns);
    const int rows = static_cast<int>(std::min<int64_t>(kQueries, queries - first));
    const T* const k = op.k.as<T>() + b * op.k.stride[0] + kv * op.k.stride[1];
    const T* const v = op.v.as<T>() + b * op.v.stride[0] + kv * op.v.stride[1];
    float* const lse =
        op.lse ? op.lse.as<float>() + b * op.lse.stride[0] + h * op.lse.stride[1] + first : nullptr;
    const Sight sight{visible_keys(op.lengths, b, keys),
                      op.causal ? first + keys - queries + 1 : kSeesAll};
    attend<T>(
        scratch,
        op.out.as<T>() + b * op.out.stride[0] + h * op.out.stride[1] + first * op.out.stride[2],
        op.out.stride[2], lse,
        op.q.as<T>() + b * op.q.stride[0] + h * op.q.stride[1] + first * op.q.stride[2],
        op.q.stride[2], rows, columns, factor, sight, [&](int64_t j, int64_t n) {
          KeyBlock block;
          block.k = as_rows(scratch.keys, k + j * op.k.stride[2], op.k.stride[2], n, columns,
                            &block.k_row);
          block.v = as_rows(scratch.values, v + j * op.v.stride[2], op.v.stride[2], n, columns,
                            &block.v_row);
          return block;
        });
  }
}

}  // namespace

void attention_forward(Context& context, const AttentionForward& op) {
  with_float(op.q.dtype, [&]<typename T>() { forward<T>(context, op); });
}

}  // namespace gatun::cpu::GATUN_LEVEL
