// What a kernel can find wrong in its data: an id beyond the table, a target beyond the vocabulary.
// It goes on with something harmless and reports; the next wait turns the report into an error.
#pragma once

#include <cstdint>

namespace gatun::kernels {

// Kind, op, sentence on the reported values (int64, in order).
#define GATUN_FAULTS(FAULT)                                                                        \
  FAULT(kEmbeddingId, "embedding", "id %lld at [%lld,%lld] is not in [0, %lld)")                   \
  FAULT(kEmbeddingPosition, "embedding", "position %lld at [%lld,%lld] is not in [0, %lld)")       \
  FAULT(kCrossEntropyTarget, "cross_entropy",                                                      \
        "target %lld of row %lld is not in [0, %lld) and not the ignored index %lld")              \
  FAULT(kArgMaxNan, "argmax", "all %lld logits of row %lld are NaN")                               \
  FAULT(kSampleNothing, "sample",                                                                  \
        "row %lld has no logit above -infinity to draw from (%lld logits)")                        \
  FAULT(kAdamWStep, "adamw", "step is %lld, wanted 1 or more: count it up before the update")      \
  FAULT(                                                                                           \
      kAttentionQueryStart, "attention",                                                           \
      "q_starts[%lld] is %lld, wanted %lld to %lld: starts ascend from 0 and end within the rows") \
  FAULT(                                                                                           \
      kAttentionKeyStart, "attention",                                                             \
      "k_starts[%lld] is %lld, wanted %lld to %lld: starts ascend from 0 and end within the rows") \
  FAULT(kAppendPage, "kv_append", "page %lld of slot %lld of row %lld is not in [0, %lld)")        \
  FAULT(kAppendSlot, "kv_append",                                                                  \
        "slot %lld of row %lld is not in [0, %lld), the slots of its pages")                       \
  FAULT(kDecodePage, "attention_decode", "page %lld of slot %lld of row %lld is not in [0, %lld)") \
  FAULT(kDecodeSlot, "attention_decode",                                                           \
        "slot %lld of row %lld is not in [0, %lld), the slots of its pages")

enum class FaultKind : int32_t {
  kNone,
#define FAULT(kind, op, sentence) kind,
  GATUN_FAULTS(FAULT)
#undef FAULT
};

// In host memory that kernels reach, so that a wait reads it without a copy. `kind` is written
// last.
struct FaultRecord {
  FaultKind kind;
  int64_t value[4];
};

// Where a kernel reports to (report_fault of tile.cuh): the first report of a device is kept until
// a wait has taken it.
struct FaultSink {
  uint32_t* taken;  // on the device; 0: the record is free
  FaultRecord* record;
};

}  // namespace gatun::kernels
