// A device's memory account: the budget, what is taken of it and for what.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "gatun.h"

namespace gatun {

constexpr int kPurposes = GATUN_WORKSPACE + 1;

// "weights", "kv cache", …
const char* purpose_name(int purpose);

// "1.21 GB", "640 kB", "12 bytes"; units of 10^3, as memory is sold.
struct Bytes {
  char text[32];
  explicit Bytes(int64_t bytes);
};

// Failures asked for by the environment, for tests: GATUN_FAULT=alloc:k, launch:k or copy:k makes
// the k-th (from 1) such call since a device was last opened fail; several may be joined by commas.
enum class Injection { kAlloc, kLaunch, kCopy };
void read_injections();  // as a device is opened
bool injected(Injection what);

class Memory {
 public:
  int64_t budget = 0;
  // The core's: a plugin has a count of its own that nobody reads the environment for.
  bool (*const injected)(Injection) = &gatun::injected;
  std::atomic<int64_t> reserved{0};  // taken + what the driver holds for reuse

  // False, and nothing taken, if that would pass the budget.
  bool take(int64_t bytes, int purpose);
  void give(int64_t bytes, int purpose);
  // The device had only `left` bytes for what take() allowed: others use it too.
  void device_is_full(int64_t left) { device_left_.store(left, std::memory_order_relaxed); }

  int64_t used() const { return used_.load(std::memory_order_relaxed); }
  int64_t peak() const { return peak_.load(std::memory_order_relaxed); }
  void reset_peak() { peak_.store(used(), std::memory_order_relaxed); }

  // "out of device memory: attention_backward needs 1.21 GB, 0.40 GB free of 79.1 GB; largest
  // holders: activations 61.0 GB, optimizer 9.90 GB, weights 3.30 GB"
  void describe_shortage(char* message, size_t size, const char* who, int64_t bytes) const;

 private:
  std::atomic<int64_t> used_{0};
  std::atomic<int64_t> peak_{0};
  std::atomic<int64_t> by_purpose_[kPurposes] = {};
  std::atomic<int64_t> device_left_{INT64_MAX};  // when a request within the budget last failed
};

}  // namespace gatun
