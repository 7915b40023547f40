// Checks of attention, forward, backward and over a paged cache.
#include <algorithm>
#include <cmath>

#include "ops/check.h"

using namespace gatun;

namespace {

constexpr int64_t kLargestHead = 512;

// The query-key pairs that one head looks at.
double visible_pairs(int64_t queries, int64_t keys, bool causal) {
  if (!causal) return static_cast<double>(queries) * static_cast<double>(keys);
  // query i sees min(keys, i + 1 + keys - queries) of them, none where that is below 0
  const auto q = static_cast<double>(queries), k = static_cast<double>(keys);
  return k >= q ? q * (k - q) + q * (q + 1) / 2 : k * (k + 1) / 2;
}

float scale_or_default(Call& call, double scale, int64_t head) {
  call.finite("scale", scale);
  if (scale != 0) return static_cast<float>(scale);
  return head == 0 ? 1 : static_cast<float>(1 / std::sqrt(static_cast<double>(head)));
}

// q [B, H, Tq, D] against k and v [B, Hkv, Tk, D].
void check_heads(Call& call, const Operand& q, const Operand& k, const Operand& v) {
  call.floating({q});
  call.rank(q, 4, 4);
  call.rank(k, 4, 4);
  call.same_dtype(k, q);
  call.same(v, k);
  if (k->shape[0] != q->shape[0])
    call.error("q is %s, k is %s: the batch sizes are %lld and %lld", ShapeText(*q.view).text,
               ShapeText(*k.view).text, static_cast<long long>(q->shape[0]),
               static_cast<long long>(k->shape[0]));
  if (k->shape[3] != q->shape[3])
    call.error("q is %s, k is %s: the head sizes are %lld and %lld", ShapeText(*q.view).text,
               ShapeText(*k.view).text, static_cast<long long>(q->shape[3]),
               static_cast<long long>(k->shape[3]));
}

void check_groups(Call& call, const Operand& q, int64_t kv_heads) {
  const int64_t heads = q->shape[1];
  if (kv_heads == 0 || heads % kv_heads != 0)
    call.error("q has %lld heads, k and v have %lld: a multiple of them is wanted",
               static_cast<long long>(heads), static_cast<long long>(kv_heads));
  if (q->shape[3] < 1 || q->shape[3] > kLargestHead)
    call.error("the head size is %lld, 1 to %lld are possible", static_cast<long long>(q->shape[3]),
               static_cast<long long>(kLargestHead));
}

gatun_attention_args options_or_default(Call& call, const gatun_attention_args* options) {
  gatun_attention_args chosen = {};
  if (options == nullptr) return chosen;
  chosen = call.options("args", options);
  call.flag("args->causal", chosen.causal);
  call.flag("args->dq_atomic", chosen.dq_atomic);
  return chosen;
}

void check_lengths(Call& call, const Operand& lengths, int64_t batch) {
  call.dtype(lengths, GATUN_I32);
  call.shape(lengths, {batch}, "(one for each row of the batch)");
}

// What forward and backward check of their options and of the operands they share; fills those of
// `args` that come from the options. Returns the query-key pairs of all heads: packed, those of
// sequences of equal length, since their lengths are on the device.
template <typename Args>
double check_options(Call& call, const gatun_attention_args& chosen, const Operand& q,
                     const Operand& k, const Operand& v, const Operand& lse, Args& args) {
  const Operand lengths = call.optional_source("lengths", chosen.lengths, args.lengths);
  const Operand q_starts = call.optional_source("q_starts", chosen.q_starts, args.q_starts);
  const Operand k_starts = call.optional_source("k_starts", chosen.k_starts, args.k_starts);
  check_heads(call, q, k, v);
  check_groups(call, q, k->shape[1]);
  call.dtype(lse, GATUN_F32);
  call.rows(lse, q);
  check_lengths(call, lengths, q->shape[0]);
  if (static_cast<bool>(q_starts) != static_cast<bool>(k_starts))
    call.error("%s is null and %s is not: packed sequences have both",
               (q_starts ? k_starts : q_starts).name, (q_starts ? q_starts : k_starts).name);
  int64_t sequences = 1;
  if (q_starts) {
    if (lengths)
      call.error(
          "lengths and q_starts are given: packed sequences are as long as their starts say");
    if (q->shape[0] != 1)
      call.error("q is %s with q_starts: packed sequences lie in one row, the batch size is 1",
                 ShapeText(*q.view).text);
    for (const Operand& starts : {q_starts, k_starts}) {
      call.dtype(starts, GATUN_I32);
      call.rank(starts, 1, 1);
    }
    call.same_shape(k_starts, q_starts);
    sequences = q_starts->shape[0] - 1;
    if (sequences < 0)
      call.error("q_starts is [0]: the starts of S sequences are S + 1, the last one their end");
  }
  args.causal = chosen.causal != 0;
  args.scale = scale_or_default(call, chosen.scale, q->shape[3]);
  const int64_t each = std::max<int64_t>(sequences, 1);
  return static_cast<double>(q->shape[0] * q->shape[1] * sequences) *
         visible_pairs(q->shape[2] / each, k->shape[2] / each, args.causal);
}

struct Pages {
  int64_t kv_heads, slots;
  int64_t capacity;  // slots that one row can have
};

Pages check_pages(Call& call, const Operand& k_pages, const Operand& v_pages,
                  const Operand& page_table, int64_t batch, int64_t head) {
  call.floating({k_pages});
  call.rank(k_pages, 4, 4);
  call.same(v_pages, k_pages);
  const int64_t pages = k_pages->shape[0], slots = k_pages->shape[2];
  if (slots < 1) call.error("k_pages is %s: a page has no slots", ShapeText(*k_pages.view).text);
  if (k_pages->shape[3] != head)
    call.error("k_pages is %s, its head size is %lld and %lld is wanted",
               ShapeText(*k_pages.view).text, static_cast<long long>(k_pages->shape[3]),
               static_cast<long long>(head));
  call.dtype(page_table, GATUN_I32);
  call.rank(page_table, 2, 2);
  if (page_table) {
    if (page_table->shape[0] != batch)
      call.error("page_table is %s, the batch has %lld rows", ShapeText(*page_table.view).text,
                 static_cast<long long>(batch));
  } else if (pages < batch) {
    call.error("k_pages has %lld pages for %lld rows: without a page_table each row owns one",
               static_cast<long long>(pages), static_cast<long long>(batch));
  }
  return {k_pages->shape[1], slots, page_table ? page_table->shape[1] * slots : slots};
}

}  // namespace

extern "C" {

gatun_status gatun_attention_forward(gatun_stream stream, const gatun_tensor* out_,
                                     const gatun_tensor* lse_, const gatun_tensor* q_,
                                     const gatun_tensor* k_, const gatun_tensor* v_,
                                     const gatun_attention_args* options) {
  return guard([&] {
    Call call(Op::attention_forward, stream);
    const gatun_attention_args chosen = options_or_default(call, options);
    AttentionForward args;
    const Operand out = call.destination("out", out_, args.out);
    const Operand lse = call.optional_destination("lse", lse_, args.lse);
    const Operand q = call.source("q", q_, args.q);
    const Operand k = call.source("k", k_, args.k);
    const Operand v = call.source("v", v_, args.v);
    const double pairs = check_options(call, chosen, q, k, v, lse, args);
    call.same(out, q);
    call.submit(args, 4 * pairs * static_cast<double>(q->shape[3]));
  });
}

gatun_status gatun_attention_backward(gatun_stream stream, const gatun_tensor* dq_,
                                      const gatun_tensor* dk_, const gatun_tensor* dv_,
                                      const gatun_tensor* dout_, const gatun_tensor* out_,
                                      const gatun_tensor* lse_, const gatun_tensor* q_,
                                      const gatun_tensor* k_, const gatun_tensor* v_,
                                      const gatun_attention_args* options, uint32_t accumulate) {
  return guard([&] {
    Call call(Op::attention_backward, stream);
    const gatun_attention_args chosen = options_or_default(call, options);
    AttentionBackward args;
    const Operand dq = call.optional_destination("dq", dq_, args.dq);
    const Operand dk = call.optional_destination("dk", dk_, args.dk);
    const Operand dv = call.optional_destination("dv", dv_, args.dv);
    const Operand dout = call.source("dout", dout_, args.dout);
    const Operand out = call.source("out", out_, args.out);
    const Operand lse = call.source("lse", lse_, args.lse);
    const Operand q = call.source("q", q_, args.q);
    const Operand k = call.source("k", k_, args.k);
    const Operand v = call.source("v", v_, args.v);
    const double pairs = check_options(call, chosen, q, k, v, lse, args);
    call.same(dq, q);
    call.same(dk, k);
    call.same(dv, v);
    call.same(dout, q);
    call.same(out, q);
    call.mask(accumulate, 3);
    args.dq_atomic = chosen.dq_atomic != 0;
    args.accumulate = accumulate;
    call.submit(args, 10 * pairs * static_cast<double>(q->shape[3]),
                accumulated(accumulate, 0, args.dq) + accumulated(accumulate, 1, args.dk) +
                    accumulated(accumulate, 2, args.dv));
  });
}

gatun_status gatun_kv_append(gatun_stream stream, const gatun_tensor* k_pages_,
                             const gatun_tensor* v_pages_, const gatun_tensor* k_,
                             const gatun_tensor* v_, const gatun_tensor* page_table_,
                             const gatun_tensor* lengths_) {
  return guard([&] {
    Call call(Op::kv_append, stream);
    KvAppend args;
    const Operand k_pages = call.updated("k_pages", k_pages_, args.k_pages);
    const Operand v_pages = call.updated("v_pages", v_pages_, args.v_pages);
    const Operand k = call.source("k", k_, args.k);
    const Operand v = call.source("v", v_, args.v);
    const Operand page_table = call.optional_source("page_table", page_table_, args.page_table);
    const Operand lengths = call.source("lengths", lengths_, args.lengths);
    call.floating({k});
    call.rank(k, 4, 4);
    call.same(v, k);
    const Pages pages = check_pages(call, k_pages, v_pages, page_table, k->shape[0], k->shape[3]);
    if (k->shape[1] != pages.kv_heads)
      call.error("k is %s, k_pages is %s: %lld and %lld heads", ShapeText(args.k).text,
                 ShapeText(args.k_pages).text, static_cast<long long>(k->shape[1]),
                 static_cast<long long>(pages.kv_heads));
    check_lengths(call, lengths, k->shape[0]);
    // of the pages only the slots that are written
    const double written =
        2 * elements_of(args.k) * static_cast<double>(dtype_size(args.k_pages.dtype));
    call.submit(args, 0, written - bytes_of(args.k_pages) - bytes_of(args.v_pages));
  });
}

gatun_status gatun_attention_decode(gatun_stream stream, const gatun_tensor* out_,
                                    const gatun_tensor* q_, const gatun_tensor* k_pages_,
                                    const gatun_tensor* v_pages_, const gatun_tensor* page_table_,
                                    const gatun_tensor* lengths_, double scale) {
  return guard([&] {
    Call call(Op::attention_decode, stream);
    AttentionDecode args;
    const Operand out = call.destination("out", out_, args.out);
    const Operand q = call.source("q", q_, args.q);
    const Operand k_pages = call.source("k_pages", k_pages_, args.k_pages);
    const Operand v_pages = call.source("v_pages", v_pages_, args.v_pages);
    const Operand page_table = call.optional_source("page_table", page_table_, args.page_table);
    const Operand lengths = call.source("lengths", lengths_, args.lengths);
    call.floating({q});
    call.rank(q, 4, 4);
    call.same(out, q);
    const Pages pages = check_pages(call, k_pages, v_pages, page_table, q->shape[0], q->shape[3]);
    check_groups(call, q, pages.kv_heads);
    check_lengths(call, lengths, q->shape[0]);
    args.scale = scale_or_default(call, scale, q->shape[3]);
    // The lengths are on the device: work and traffic are those of full pages, an upper bound.
    const double pairs = static_cast<double>(q->shape[0] * q->shape[1] * q->shape[2]) *
                         static_cast<double>(pages.capacity);
    call.submit(args, 4 * pairs * static_cast<double>(q->shape[3]));
  });
}

}  // extern "C"
