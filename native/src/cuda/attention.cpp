// Attention on CUDA: kernels/attention.cu and attention_decode.cu behind the ops.
#include "attention.h"

#include <climits>
#include <cmath>

#include "cuda/backend.h"
#include "cuda/layout.h"

namespace gatun::cuda {

namespace {

kernels::HeadRows head_rows(const View& view) {
  return {view.data, view.stride[0], view.stride[1], view.stride[2]};
}
kernels::HeadStatistic head_statistic(const View& view) {
  return {view.as<float>(), view.stride[0], view.stride[1]};
}

// What kernels count in 32 bits, with room for a tile beyond the end.
int size_of(const char* op, const char* what, int64_t size) {
  if (size > INT_MAX / 2)
    fail(GATUN_UNSUPPORTED, "%s: %lld %s, cuda takes up to %d", op, static_cast<long long>(size),
         what, INT_MAX / 2);
  return static_cast<int>(size);
}

int columns_of(const char* op, const View& q) {
  if (q.shape[3] > kernels::kAttentionMostColumns)
    fail(GATUN_UNSUPPORTED, "%s: the head size is %lld, cuda takes up to %d; run it on cpu", op,
         static_cast<long long>(q.shape[3]), kernels::kAttentionMostColumns);
  return static_cast<int>(q.shape[3]);
}

// A scale too small for f32 is 0 here; the cpu device then takes the default, too.
float scale_of(float scale, int columns) {
  return scale != 0 ? scale : static_cast<float>(1 / std::sqrt(static_cast<double>(columns)));
}

template <typename Args>
kernels::AttentionShape shape_of(const Context& context, const char* op, const Args& args) {
  kernels::AttentionShape shape = {};
  shape.batch = size_of(op, "rows of the batch", args.q.shape[0]);
  shape.heads = size_of(op, "heads", args.q.shape[1]);
  shape.group = static_cast<int>(args.q.shape[1] / args.k.shape[1]);
  shape.queries = size_of(op, "queries", args.q.shape[2]);
  shape.keys = size_of(op, "keys", args.k.shape[2]);
  shape.columns = columns_of(op, args.q);
  shape.lengths = args.lengths ? args.lengths.template as<int32_t>() : nullptr;
  shape.causal = args.causal;
  shape.scale = scale_of(args.scale, shape.columns);
  if (args.q_starts)
    shape.packed = {args.q_starts.template as<int32_t>(), args.k_starts.template as<int32_t>(),
                    size_of(op, "starts", args.q_starts.shape[0]) - 1, faults_of(context)};
  return shape;
}

template <typename Args>
kernels::Pages pages_of(const char* op, const Args& args) {
  kernels::Pages pages = {};
  pages.pages = size_of(op, "pages", args.k_pages.shape[0]);
  pages.slots = size_of(op, "slots of a page", args.k_pages.shape[2]);
  int64_t row_pages = 1;
  if (args.page_table) {
    pages.table = args.page_table.template as<int32_t>();
    pages.stride = args.page_table.stride[0];
    row_pages = args.page_table.shape[1];
  }
  pages.capacity = size_of(op, "slots of a row", row_pages * pages.slots);
  return pages;
}

}  // namespace

void attention_forward(Context& context, const AttentionForward& args) {
  const char* op = "attention_forward";
  kernels::AttentionForward p = {};
  p.shape = shape_of(context, op, args);
  p.q = head_rows(args.q);
  p.k = head_rows(args.k);
  p.v = head_rows(args.v);
  p.out = head_rows(args.out);
  p.lse = head_statistic(args.lse);
  p.scratch = scratch<char>(context, kernels::attention_forward_scratch_bytes(p.shape));
  check_launch(op, kernels::attention_forward(stream_of(context), element_type(args.q.dtype), p));
}

void attention_backward(Context& context, const AttentionBackward& args) {
  const char* op = "attention_backward";
  kernels::AttentionBackward p = {};
  p.shape = shape_of(context, op, args);
  p.dq = head_rows(args.dq);
  p.dk = head_rows(args.dk);
  p.dv = head_rows(args.dv);
  p.dout = head_rows(args.dout);
  p.out = head_rows(args.out);
  p.q = head_rows(args.q);
  p.k = head_rows(args.k);
  p.v = head_rows(args.v);
  p.lse = head_statistic(args.lse);
  p.add_dq = adds(args.accumulate, 0);
  p.add_dk = adds(args.accumulate, 1);
  p.add_dv = adds(args.accumulate, 2);
  p.dq_atomic = args.dq_atomic;
  const kernels::ElementType type = element_type(args.q.dtype);
  p.scratch = scratch<char>(context, kernels::attention_backward_scratch_bytes(type, p));
  check_launch(op, kernels::attention_backward(stream_of(context), type, p));
}

void kv_append(Context& context, const KvAppend& args) {
  const char* op = "kv_append";
  kernels::KvAppend p = {};
  p.k_pages = head_rows(args.k_pages);
  p.v_pages = head_rows(args.v_pages);
  p.k = head_rows(args.k);
  p.v = head_rows(args.v);
  p.pages = pages_of(op, args);
  p.lengths = args.lengths.as<int32_t>();
  p.batch = size_of(op, "rows of the batch", args.k.shape[0]);
  p.heads = size_of(op, "heads", args.k.shape[1]);
  p.tokens = size_of(op, "tokens", args.k.shape[2]);
  p.columns = size_of(op, "columns", args.k.shape[3]);
  p.faults = faults_of(context);
  check_launch(op, kernels::kv_append(stream_of(context), element_type(args.k_pages.dtype),
                                      element_type(args.k.dtype), p));
}

void attention_decode(Context& context, const AttentionDecode& args) {
  const char* op = "attention_decode";
  kernels::AttentionDecode p = {};
  p.out = head_rows(args.out);
  p.q = head_rows(args.q);
  p.k_pages = head_rows(args.k_pages);
  p.v_pages = head_rows(args.v_pages);
  p.pages = pages_of(op, args);
  p.lengths = args.lengths.as<int32_t>();
  p.batch = size_of(op, "rows of the batch", args.q.shape[0]);
  p.heads = size_of(op, "heads", args.q.shape[1]);
  p.group = static_cast<int>(args.q.shape[1] / args.k_pages.shape[1]);
  p.queries = size_of(op, "queries", args.q.shape[2]);
  size_of(op, "queries of a group", p.group * args.q.shape[2]);
  p.columns = columns_of(op, args.q);
  p.scale = scale_of(args.scale, p.columns);
  p.faults = faults_of(context);
  const kernels::ElementType type = element_type(args.q.dtype);
  const kernels::ElementType pages_type = element_type(args.k_pages.dtype);
  const int sm_count = multiprocessors();
  p.partials = scratch<float>(
      context, kernels::attention_decode_scratch_bytes(type, pages_type, p, sm_count));
  check_launch(op, kernels::attention_decode(stream_of(context), type, pages_type, p, sm_count));
}

}  // namespace gatun::cuda
