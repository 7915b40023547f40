// Launchers of attention.cu and attention_decode.cu: raw device addresses and strides in,
// cudaError_t out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "fault.h"
#include "rows.h"

namespace gatun::kernels {

// [batch][head][row][columns], strides in elements; the columns of a row lie side by side.
struct HeadRows {
  void* data;
  int64_t batch, head, row;
};

// [batch][head][row] of f32, the rows side by side.
struct HeadStatistic {
  float* data;
  int64_t batch, head;
};

// Sequences one after another in the only row of a batch: sequence s has the rows starts[s] up to
// starts[s + 1], of queries and of keys, and its own mask; rows from starts[count] on belong to
// none and see nothing. Starts that do not ascend from 0 to the number of rows at most are put
// right and reported.
struct PackedSequences {
  const int32_t *q_starts, *k_starts;  // [count + 1]; null: each row of the batch is a sequence
  int count;
  FaultSink faults;
};

// What forward and backward share: q [batch, heads, queries, columns] against k and v
// [batch, heads / group, keys, columns]. Key j is seen by query i if j < lengths[b] (null: keys)
// and, where causal, j <= i + keys - queries. A window, a soft cap or a bias would stand here.
struct AttentionShape {
  int batch, heads, group, queries, keys, columns;
  const int32_t* lengths;
  bool causal;
  float scale;             // not 0
  PackedSequences packed;  // without lengths
};

// scratch: of attention_forward_scratch_bytes, aligned to 16.
struct AttentionForward {
  AttentionShape shape;
  HeadRows q, k, v, out;
  HeadStatistic lse;  // data may be null
  void* scratch;
};

size_t attention_forward_scratch_bytes(const AttentionShape& shape);

// GATUN_UNSUPPORTED beyond: the columns that forward, backward and decode can take.
constexpr int kAttentionMostColumns = 256;

cudaError_t attention_forward(cudaStream_t stream, ElementType type, const AttentionForward& args);

// dq, dk, dv like q, k, v; each may be null (data), add_… says whether it is added to. dq_atomic:
// dq by atomic additions in f32, in any order; no difference in f32, beyond 128 columns, or without
// dk and dv. scratch: of attention_backward_scratch_bytes, aligned to 16.
struct AttentionBackward {
  AttentionShape shape;
  HeadRows dq, dk, dv, dout, out, q, k, v;
  HeadStatistic lse;
  void* scratch;
  bool add_dq, add_dk, add_dv, dq_atomic;
  // set by the launcher
  float* statistics;
  float* dq_sums;          // null: dq has a kernel of its own
  int64_t padded_queries;  // of a head in both
  int padded_columns;      // of dq_sums
};

size_t attention_backward_scratch_bytes(ElementType type, const AttentionBackward& args);

cudaError_t attention_backward(cudaStream_t stream, ElementType type,
                               const AttentionBackward& args);

// Of attention_f32.cu, for the others.
cudaError_t attention_forward_f32(cudaStream_t stream, const AttentionForward& args);
cudaError_t attention_backward_f32(cudaStream_t stream, const AttentionBackward& args);

// ---- over a paged cache ----

// Slot s of row b lies in page table[b * stride + s / slots], without a table in page b. A cache
// is HeadRows with pages for the batch and slots for the rows.
struct Pages {
  const int32_t* table;
  int64_t stride;
  int pages;     // that exist
  int slots;     // of a page
  int capacity;  // slots that one row can have
};

// k, v [batch, heads, tokens, columns] to slots lengths[b] … of each row b. A slot or page out of
// range is dropped and reported.
struct KvAppend {
  HeadRows k_pages, v_pages, k, v;
  Pages pages;
  const int32_t* lengths;
  int batch, heads, tokens, columns;
  FaultSink faults;
};

cudaError_t kv_append(cudaStream_t stream, ElementType pages_type, ElementType type,
                      const KvAppend& args);

// q, out [batch, heads, queries, columns] over a cache of heads / group heads: query i of row b
// sees slots 0 … lengths[b] + i. partials: scratch of attention_decode_scratch_bytes, aligned
// to 16. A page out of range counts as zeros and is reported.
struct AttentionDecode {
  HeadRows out, q, k_pages, v_pages;
  Pages pages;
  const int32_t* lengths;
  int batch, heads, group, queries, columns;
  float scale;  // not 0
  FaultSink faults;
  float* partials;
  int splits;  // set by the launcher
};

size_t attention_decode_scratch_bytes(ElementType type, ElementType pages_type,
                                      const AttentionDecode& args, int sm_count);

cudaError_t attention_decode(cudaStream_t stream, ElementType type, ElementType pages_type,
                             const AttentionDecode& args, int sm_count);

}  // namespace gatun::kernels
