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
  const Sequences sequences(context, op);
  const int64_t blocks = sequences.blocks(kQueries);
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
    const int64_t h = task / blocks % heads, kv = h / group;
    const auto [at, first] =
        sequences.block(task / blocks / heads, blocks - 1 - task % blocks, kQueries);
    if (first >= at.queries) continue;  // packed
    Carver carver(workspace + floats * thread_number());
    const AttendScratch scratch(carver, columns);
    const int rows = static_cast<int>(std::min<int64_t>(kQueries, at.queries - first));
    const int64_t row = at.first_query + first;
    const T* const k = head_of<const T>(op.k, at.batch, kv, at.first_key);
    const T* const v = head_of<const T>(op.v, at.batch, kv, at.first_key);
    float* const lse =
        op.lse ? op.lse.as<float>() + at.batch * op.lse.stride[0] + h * op.lse.stride[1] + row
               : nullptr;
    const Sight sight{at.visible, op.causal ? first + at.keys - at.queries + 1 : kSeesAll};
    attend<T>(scratch, head_of<T>(op.out, at.batch, h, row), op.out.stride[2], lse,
              head_of<const T>(op.q, at.batch, h, row), op.q.stride[2], rows, columns, factor,
              sight, [&](int64_t j, int64_t n) {
                KeyBlock block;
                block.k = as_rows(scratch.keys, k + j * op.k.stride[2], op.k.stride[2], n, columns,
                                  &block.k_row);
                block.v = as_rows(scratch.values, v + j * op.v.stride[2], op.v.stride[2], n,
                                  columns, &block.v_row);
                return block;
              });
  }
}

}  // namespace

void attention_forward(Context& context, const AttentionForward& op) {
  with_float(op.q.dtype, [&]<typename T>() { forward<T>(context, op); });
}

}  // namespace gatun::cpu::GATUN_LEVEL
