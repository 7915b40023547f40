// Generation-tagged handles: what a caller holds instead of a pointer.
//
//   handle = kind (8 bits) | generation (32 bits) | index (24 bits)
//
// A slot's generation is odd while it is live and grows by one on each open and each close, so a
// closed handle never matches again (a slot whose generations are used up is retired). Slots stand
// in chunks that are never moved or freed, so any 64-bit value can be looked up safely.
//
// Word 0 of every slot is its device's address, word 1 the object itself (for a buffer the memory),
// word 5 its device's handle.
// Looking up takes no lock. Two ways:
//   pin()   for objects (device, stream, event): the object stays until the pin goes;
//           close() makes the handle dead at once, then waits for the pins.
//   read()  for buffers: a consistent copy of the slot's words. The memory behind it may be freed a
//           moment later by another thread; the devices keep such addresses mapped (cpu/pool.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "gatun.h"

namespace gatun {

enum class Kind : uint32_t { kDevice = 1, kStream = 2, kEvent = 3, kBuffer = 4, kGraph = 5 };

const char* kind_name(Kind kind);

class HandleTable {
 public:
  static constexpr int kIndexBits = 24;
  static constexpr int kChunkBits = 12;
  static constexpr uint32_t kMaxIndex = (1u << kIndexBits) - 1;
  static constexpr int kWords = 6;

  struct alignas(64) Slot {
    std::atomic<uint64_t> state{0};  // generation << 32 | pins
    std::atomic<uint64_t> words[kWords] = {};
    uint32_t next_free = 0;
  };
  struct Words {
    uint64_t word[kWords];
  };

  explicit HandleTable(Kind kind) : kind_(kind) {}
  ~HandleTable() {
    for (std::atomic<Slot*>& chunk : chunks_) delete[] chunk.load();
  }

  // Opens a slot. Throws Error when 2^24 handles are live, bad_alloc when memory is out.
  uint64_t open(const Words& words);

  // True if this call closed the handle (and `words` has what it held); false if it was not live.
  // Waits until nobody pins the slot.
  bool close(uint64_t handle, Words* words);

  // A pinned slot, or null if the handle is not live.
  Slot* pin(uint64_t handle) const {
    Slot* slot = find(handle);
    if (slot == nullptr) return nullptr;
    const uint64_t before = slot->state.fetch_add(1, std::memory_order_acq_rel);
    if (static_cast<uint32_t>(before >> 32) == generation_of(handle)) return slot;
    slot->state.fetch_sub(1, std::memory_order_release);
    return nullptr;
  }
  static void unpin(Slot* slot) { slot->state.fetch_sub(1, std::memory_order_release); }

  // Copies a live slot's words; false if the handle is not live.
  bool read(uint64_t handle, Words* words) const {
    const Slot* slot = find(handle);
    if (slot == nullptr) return false;
    const uint32_t generation = generation_of(handle);
    if (slot->state.load(std::memory_order_acquire) >> 32 != generation) return false;
    for (int i = 0; i < kWords; ++i)
      words->word[i] = slot->words[i].load(std::memory_order_acquire);
    return slot->state.load(std::memory_order_relaxed) >> 32 == generation;
  }

  // Throws an Error that says what is wrong with a handle that is not live: "fill: out: buffer
  // 0x0400000100000007 was freed".
  [[noreturn]] void explain(uint64_t handle, const char* op, const char* argument) const;

  // Waits until each live slot for which `mine` holds was seen without a pin.
  template <typename Mine>
  void wait_for_pins(Mine mine) const {
    const uint32_t count = count_.load(std::memory_order_acquire);
    for (uint32_t i = 0; i < count; ++i) {
      const Slot& slot = at(i);
      while (true) {
        const uint64_t state = slot.state.load(std::memory_order_acquire);
        if ((state >> 32 & 1) == 0 || static_cast<uint32_t>(state) == 0) break;
        if (!mine(slot)) break;
        yield();
      }
    }
  }

  // Calls f(handle) for each live slot for which `mine` holds.
  template <typename Mine, typename F>
  void each(Mine mine, F f) const {
    const uint32_t count = count_.load(std::memory_order_acquire);
    for (uint32_t i = 0; i < count; ++i) {
      const Slot& slot = at(i);
      const uint64_t generation = slot.state.load(std::memory_order_acquire) >> 32;
      if ((generation & 1) != 0 && mine(slot)) f(make(static_cast<uint32_t>(generation), i));
    }
  }

 private:
  static constexpr uint32_t kChunkSize = 1u << kChunkBits;
  static constexpr uint32_t kChunks = 1u << (kIndexBits - kChunkBits);

  static uint32_t generation_of(uint64_t handle) {
    return static_cast<uint32_t>(handle >> kIndexBits);
  }
  uint64_t make(uint32_t generation, uint32_t index) const {
    return static_cast<uint64_t>(kind_) << 56 | static_cast<uint64_t>(generation) << kIndexBits |
           index;
  }
  Slot& at(uint32_t index) const {
    return chunks_[index >> kChunkBits].load(std::memory_order_acquire)[index & (kChunkSize - 1)];
  }
  // Null unless the handle is of this kind, names an existing slot and an odd generation.
  Slot* find(uint64_t handle) const {
    const uint32_t index = static_cast<uint32_t>(handle) & kMaxIndex;
    if (handle >> 56 != static_cast<uint64_t>(kind_) || (handle >> kIndexBits & 1) == 0)
      return nullptr;
    Slot* chunk = chunks_[index >> kChunkBits].load(std::memory_order_acquire);
    return chunk == nullptr ? nullptr : &chunk[index & (kChunkSize - 1)];
  }
  static void yield();

  const Kind kind_;
  std::atomic<Slot*> chunks_[kChunks] = {};
  std::atomic<uint32_t> count_{0};  // slots ever used
  std::mutex mutex_;                // open, close
  uint32_t free_ = kNone;           // list through next_free
  static constexpr uint32_t kNone = UINT32_MAX;
};

// The tables of the process; never destroyed, since threads may outlive main.
HandleTable& devices();
HandleTable& streams();
HandleTable& events();
HandleTable& graphs();
HandleTable& buffers();

// A pin as an object.
class Pin {
 public:
  Pin(HandleTable& table, uint64_t handle) : slot_(table.pin(handle)) {}
  ~Pin() {
    if (slot_ != nullptr) HandleTable::unpin(slot_);
  }
  Pin(Pin&& other) noexcept : slot_(other.slot_) { other.slot_ = nullptr; }
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;
  explicit operator bool() const { return slot_ != nullptr; }
  template <typename T>
  T* object() const {
    return reinterpret_cast<T*>(slot_->words[1].load(std::memory_order_relaxed));
  }

 private:
  HandleTable::Slot* slot_;
};

}  // namespace gatun
