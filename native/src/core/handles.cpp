#include "core/handles.h"

#include <sched.h>

#include "core/error.h"

namespace gatun {

const char* kind_name(Kind kind) {
  switch (kind) {
    case Kind::kDevice:
      return "device";
    case Kind::kStream:
      return "stream";
    case Kind::kEvent:
      return "event";
    case Kind::kBuffer:
      return "buffer";
    case Kind::kGraph:
      return "graph";
  }
  return "handle";
}

HandleTable& devices() {
  static HandleTable& table = *new HandleTable(Kind::kDevice);
  return table;
}
HandleTable& streams() {
  static HandleTable& table = *new HandleTable(Kind::kStream);
  return table;
}
HandleTable& events() {
  static HandleTable& table = *new HandleTable(Kind::kEvent);
  return table;
}
HandleTable& graphs() {
  static HandleTable& table = *new HandleTable(Kind::kGraph);
  return table;
}

HandleTable& buffers() {
  static HandleTable& table = *new HandleTable(Kind::kBuffer);
  return table;
}

void HandleTable::yield() { sched_yield(); }

uint64_t HandleTable::open(const Words& words) {
  std::lock_guard lock(mutex_);
  uint32_t index = free_;
  if (index == kNone) {
    index = count_.load(std::memory_order_relaxed);
    if (index > kMaxIndex)
      fail(GATUN_OUT_OF_MEMORY, "%u %ss are open, the most there can be", kMaxIndex + 1,
           kind_name(kind_));
    std::atomic<Slot*>& chunk = chunks_[index >> kChunkBits];
    if (chunk.load(std::memory_order_relaxed) == nullptr)
      chunk.store(new Slot[kChunkSize], std::memory_order_release);
    count_.store(index + 1, std::memory_order_release);
  } else {
    free_ = at(index).next_free;
  }
  Slot& slot = at(index);
  for (int i = 0; i < kWords; ++i) slot.words[i].store(words.word[i], std::memory_order_release);
  // pins of callers that look up a dead handle may come and go meanwhile: they are kept
  const uint64_t before = slot.state.fetch_add(uint64_t{1} << 32, std::memory_order_acq_rel);
  return make(static_cast<uint32_t>(before >> 32) + 1, index);
}

bool HandleTable::close(uint64_t handle, Words* words) {
  Slot* slot = find(handle);
  if (slot == nullptr) return false;
  const uint32_t generation = generation_of(handle);
  uint64_t state = slot->state.load(std::memory_order_acquire);
  do {
    if (state >> 32 != generation) return false;
  } while (!slot->state.compare_exchange_weak(state, state + (uint64_t{1} << 32),
                                              std::memory_order_acq_rel));
  while (static_cast<uint32_t>(slot->state.load(std::memory_order_acquire)) != 0) yield();
  for (int i = 0; i < kWords; ++i) words->word[i] = slot->words[i].load(std::memory_order_relaxed);
  if (generation != UINT32_MAX) {  // else retired: the next generation would be 1 again
    std::lock_guard lock(mutex_);
    slot->next_free = free_;
    free_ = static_cast<uint32_t>(handle) & kMaxIndex;
  }
  return true;
}

void HandleTable::explain(uint64_t handle, const char* op, const char* argument) const {
  const char* kind = kind_name(kind_);
  const auto hex = static_cast<unsigned long long>(handle);
  if (handle == 0) fail(GATUN_INVALID_HANDLE, "%s: %s is 0, not a %s", op, argument, kind);
  const uint64_t other = handle >> 56;
  if (other != static_cast<uint64_t>(kind_)) {
    if (other >= 1 && other <= 5)
      fail(GATUN_INVALID_HANDLE, "%s: %s 0x%016llx is a %s handle, a %s was wanted", op, argument,
           hex, kind_name(static_cast<Kind>(other)), kind);
    fail(GATUN_INVALID_HANDLE, "%s: %s 0x%016llx is not a handle of this library", op, argument,
         hex);
  }
  const Slot* slot = find(handle);
  if (slot != nullptr && slot->state.load(std::memory_order_acquire) >> 32 >= generation_of(handle))
    fail(GATUN_INVALID_HANDLE, "%s: %s: %s 0x%016llx was %s", op, argument, kind, hex,
         kind_ == Kind::kBuffer ? "freed" : "closed");
  fail(GATUN_INVALID_HANDLE, "%s: %s: there never was a %s 0x%016llx", op, argument, kind, hex);
}

}  // namespace gatun
