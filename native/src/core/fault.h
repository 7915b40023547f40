// The first failure of work that was already enqueued, until a wait reports it.
#pragma once

#include <atomic>
#include <cstdio>
#include <mutex>

#include "core/driver.h"

namespace gatun {

class PendingFault {
 public:
  // Keeps the first one.
  void record(gatun_status status, const char* message) noexcept {
    std::lock_guard lock(mutex_);
    if (pending_.load(std::memory_order_relaxed)) return;
    fault_.status = status;
    std::snprintf(fault_.message, sizeof fault_.message, "%s", message);
    pending_.store(true, std::memory_order_release);
  }

  // Moves a pending fault to `failure`; GATUN_OK if there is none.
  gatun_status take(Failure& failure) noexcept {
    if (!pending_.load(std::memory_order_acquire)) return GATUN_OK;
    std::lock_guard lock(mutex_);
    if (!pending_.load(std::memory_order_relaxed)) return GATUN_OK;
    failure = fault_;
    pending_.store(false, std::memory_order_relaxed);
    return failure.status;
  }

 private:
  std::mutex mutex_;
  std::atomic<bool> pending_{false};
  Failure fault_;
};

}  // namespace gatun
