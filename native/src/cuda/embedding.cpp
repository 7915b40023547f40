// Embedding on CUDA: kernels/embedding.cu behind the ops.
#include "embedding.h"

#include <algorithm>

#include "cuda/backend.h"
#include "cuda/layout.h"

namespace gatun::cuda {

namespace {

kernels::Tokens tokens_of(const Context& context, const View& ids, const View& start) {
  return {ids.as<const int32_t>(),
          start.as<const int32_t>(),
          ids.size(1),
          ids.size(0),
          {ids.step(1), ids.step(0)},
          start.step(0),
          faults_of(context)};
}

void check_count(const char* op, const char* what, int64_t count) {
  if (count > kernels::kEmbeddingMost)
    fail(GATUN_UNSUPPORTED, "%s: %lld %s, cuda takes up to %lld", op, static_cast<long long>(count),
         what, static_cast<long long>(kernels::kEmbeddingMost));
}

}  // namespace

void embedding_forward(Context& context, const EmbeddingForward& args) {
  const char* op = "embedding_forward";
  kernels::EmbeddingForward p = {};
  p.tokens = tokens_of(context, args.ids, args.start);
  check_count(op, "tokens", p.tokens.batch * p.tokens.length);
  p.out = args.out.data;
  p.table = args.table.data;
  p.positions = args.positions.data;
  p.columns = args.out.size(0);
  p.table_rows = args.table.size(1);
  p.position_rows = args.positions.size(1);
  p.out_step[0] = args.out.step(2);
  p.out_step[1] = args.out.step(1);
  p.table_step = args.table.step(1);
  p.positions_step = args.positions.step(1);
  check_launch(op, kernels::embedding_forward(stream_of(context), element_type(args.out.dtype), p));
}

void embedding_backward(Context& context, const EmbeddingBackward& args) {
  const char* op = "embedding_backward";
  kernels::EmbeddingBackward p = {};
  p.tokens = tokens_of(context, args.ids, args.start);
  p.dout = args.dout.data;
  p.columns = args.dout.size(0);
  p.dout_step[0] = args.dout.step(2);
  p.dout_step[1] = args.dout.step(1);
  const int64_t tokens = p.tokens.batch * p.tokens.length;
  check_count(op, "tokens", tokens);
  p.scratch = context.workspace(
      std::max<size_t>(1, kernels::embedding_backward_scratch_bytes(tokens, p.columns)));
  // one after the other, in the same scratch
  for (bool by_position : {false, true}) {
    const View& gradient = by_position ? args.dpositions : args.dtable;
    if (!gradient || gradient.elements() == 0) continue;
    p.by_position = by_position;
    p.add = adds(args.accumulate, by_position ? 1 : 0);
    p.gradient = gradient.data;
    p.rows = gradient.size(1);
    p.gradient_step = gradient.step(1);
    check_count(op, "rows", p.rows);
    check_launch(op, kernels::embedding_backward(stream_of(context), element_type(gradient.dtype),
                                                 element_type(args.dout.dtype), p));
  }
}

}  // namespace gatun::cuda
