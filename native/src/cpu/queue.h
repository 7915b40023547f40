// The in-order queue of a cpu device: a bounded ring that any thread may add to and one thread
// takes from. Each slot carries a sequence number (Vyukov's bounded queue), so that adding is one
// compare-and-swap and one exchange, without a lock; the futex is only touched when somebody
// sleeps.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/op.h"

namespace gatun::cpu {

// Sleeping and waking on a 32-bit word (futex(2)).
void sleep_while(const std::atomic<uint32_t>& word, uint32_t value);
void wake_all(const std::atomic<uint32_t>& word);

// Of CLOCK_MONOTONIC.
int64_t now_nanos();

inline void relax() { __builtin_ia32_pause(); }

class Queue {
 public:
  // 256 steps are several layers of a model: enough for the caller to run ahead, and the ring
  // (0.3 MB) stays in the L2 cache.
  static constexpr uint64_t kCapacity = 256;

  struct Task {
    // Runs and destroys what `storage` holds; must not throw.
    void (*run)(void* owner, Task& task);
    int32_t op;  // what `run` makes of it
    alignas(16) std::byte storage[kMaxArgs];
  };

  Queue();

  // Adds a task: fill(task) writes it. Waits while the ring is full. Returns its ticket, > 0, or 0
  // if the ring is full and frozen.
  template <typename Fill>
  uint64_t add(Fill fill) {
    uint64_t position = tail_.load(std::memory_order_relaxed);
    Slot* slot;
    while (true) {
      slot = &slots_[position % kCapacity];
      const uint64_t sequence = slot->sequence.load(std::memory_order_acquire);
      if (sequence == position) {
        if (tail_.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) break;
      } else if (sequence < position) {
        if (frozen()) return 0;
        // not for this slot alone: two threads that follow each other slot by slot spend their time
        // passing cache lines
        wait(position - kCapacity + kCapacity / 8);
        position = tail_.load(std::memory_order_relaxed);
      } else {
        position = tail_.load(std::memory_order_relaxed);
      }
    }
    fetch_for_writing(slots_[(position + kAhead) % kCapacity]);
    fill(slot->task);
    // sequentially consistent: either the worker sees the task, or this thread sees it asleep
    slot->sequence.exchange(position + 1, std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_seq_cst) != 0) wake_worker();
    return position + 1;
  }

  // The ticket of the newest task.
  uint64_t last() const { return tail_.load(std::memory_order_acquire); }
  // All tasks up to this ticket have run.
  uint64_t completed() const { return completed_.load(std::memory_order_acquire); }

  // Waits on the calling thread until the task of this ticket has run, or the queue is frozen.
  void wait(uint64_t ticket);

  // Ends all work, for good: returns when the worker is between two tasks (after 10 s in any case),
  // where it stays. For the end of the process (cpu/leaving.h).
  void freeze();
  bool frozen() const { return frozen_.load(std::memory_order_acquire); }

  // The worker's side: runs tasks for ever, until one calls stop().
  void work(void* owner);
  void stop() { stopped_ = true; }

 private:
  struct alignas(64) Slot {
    std::atomic<uint64_t> sequence;
    Task task;
  };

  // The worker's core holds the lines of a slot that it has emptied. Asking for those of a later
  // slot now takes that wait (three lines, about 100 ns) out of a later call.
  static constexpr uint64_t kAhead = 4;
  static void fetch_for_writing(const Slot& slot) {
    const char* line = reinterpret_cast<const char*>(&slot);
    for (int i = 0; i < 3; ++i) asm volatile("prefetchw %0" : : "m"(line[64 * i]));
  }

  void wake_worker();

  Slot slots_[kCapacity];
  alignas(64) std::atomic<uint64_t> tail_{0};
  alignas(64) std::atomic<uint64_t> completed_{0};
  alignas(64) std::atomic<uint32_t> asleep_{0};
  alignas(64) std::atomic<uint64_t> wake_at_{UINT64_MAX};  // the lowest ticket somebody sleeps for
  std::atomic<uint32_t> finished_{0};  // counts wake-ups of waiters: the word they sleep on
  std::atomic<bool> frozen_{false};
  std::atomic<bool> busy_{false};  // the worker runs a task
  bool stopped_ = false;           // the worker's own
};

}  // namespace gatun::cpu
