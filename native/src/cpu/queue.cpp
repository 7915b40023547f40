#include "cpu/queue.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

namespace gatun::cpu {

int64_t now_nanos() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1000000000 + t.tv_nsec;
}

namespace {

// As long as it takes to enqueue the next op from a language runtime, and a futex wake-up costs
// about as much; longer would take the core from the threads that feed this queue.
constexpr int64_t kWorkerSpinNanos = 50000;
// A waiting thread has nothing to do, but its core may have.
constexpr int64_t kWaiterSpinNanos = 20000;

}  // namespace

void sleep_while(const std::atomic<uint32_t>& word, uint32_t value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void wake_all(const std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

Queue::Queue() {
  for (uint64_t i = 0; i < kCapacity; ++i) slots_[i].sequence.store(i, std::memory_order_relaxed);
}

void Queue::wake_worker() {
  if (asleep_.exchange(0, std::memory_order_seq_cst) != 0) wake_all(asleep_);
}

void Queue::wait(uint64_t ticket) {
  if (completed_.load(std::memory_order_acquire) >= ticket) return;
  const int64_t until = now_nanos() + kWaiterSpinNanos;
  do {
    if (completed_.load(std::memory_order_acquire) >= ticket) return;
    // Each look takes the line from the worker, which writes it after every task; and the worker
    // may be waiting for this very core.
    sched_yield();
  } while (now_nanos() < until);
  while (true) {
    const uint32_t seen = finished_.load(std::memory_order_seq_cst);
    uint64_t lowest = wake_at_.load(std::memory_order_seq_cst);
    while (ticket < lowest &&
           !wake_at_.compare_exchange_weak(lowest, ticket, std::memory_order_seq_cst)) {
    }
    if (completed_.load(std::memory_order_seq_cst) >= ticket || frozen()) return;
    sleep_while(finished_, seen);
  }
}

void Queue::freeze() {
  frozen_.store(true, std::memory_order_seq_cst);
  const int64_t until = now_nanos() + 10000000000;
  while (busy_.load(std::memory_order_seq_cst) && now_nanos() < until) usleep(50);
  finished_.fetch_add(1, std::memory_order_seq_cst);
  wake_all(finished_);
}

void Queue::work(void* owner) {
  for (uint64_t position = 0; !stopped_; ++position) {
    Slot& slot = slots_[position % kCapacity];
    const auto ready = [&] {
      return slot.sequence.load(std::memory_order_acquire) == position + 1;
    };
    if (!ready()) {
      const int64_t until = now_nanos() + kWorkerSpinNanos;
      bool found = false;
      while (!found && now_nanos() < until) {
        for (int i = 0; i < 64 && !found; ++i) {
          relax();
          found = ready();
        }
        if (!found) sched_yield();  // to a caller on this core
      }
      while (!found) {
        asleep_.store(1, std::memory_order_seq_cst);
        found = slot.sequence.load(std::memory_order_seq_cst) == position + 1;
        if (!found) sleep_while(asleep_, 1);
        asleep_.store(0, std::memory_order_relaxed);
        found = found || ready();
      }
    }
    // either this thread sees frozen_, or freeze() sees it busy
    busy_.store(true, std::memory_order_seq_cst);
    if (frozen_.load(std::memory_order_seq_cst)) {
      busy_.store(false, std::memory_order_seq_cst);
      while (true) pause();
    }
    slot.task.run(owner, slot.task);
    busy_.store(false, std::memory_order_release);
    slot.sequence.store(position + kCapacity, std::memory_order_release);
    completed_.store(position + 1, std::memory_order_seq_cst);
    if (position + 1 >= wake_at_.load(std::memory_order_seq_cst)) {
      // All sleepers wake and those that wait for later tasks say so again. One that registers
      // between these two lines finds finished_ changed and does not sleep.
      wake_at_.exchange(UINT64_MAX, std::memory_order_seq_cst);
      finished_.fetch_add(1, std::memory_order_seq_cst);
      wake_all(finished_);
    }
  }
}

}  // namespace gatun::cpu
