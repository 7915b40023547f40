#include "core/memory.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace gatun {

const char* purpose_name(int purpose) {
  static constexpr const char* kNames[kPurposes] = {
      "other", "weights", "gradients", "optimizer", "activations", "kv cache", "workspace"};
  return purpose >= 0 && purpose < kPurposes ? kNames[purpose] : "other";
}

Bytes::Bytes(int64_t bytes) {
  if (bytes < 1000) {
    std::snprintf(text, sizeof text, "%lld bytes", static_cast<long long>(bytes));
    return;
  }
  static constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes) / 1000;
  int unit = 0;
  for (; value >= 999.5 && unit < 5; ++unit) value /= 1000;
  std::snprintf(text, sizeof text, "%.*f %s",
                value < 10    ? 2
                : value < 100 ? 1
                              : 0,
                value, kUnits[unit]);
}

bool Memory::take(int64_t bytes, int purpose) {
  int64_t used = used_.load(std::memory_order_relaxed);
  do {
    if (bytes > budget - used) {
      device_left_.store(INT64_MAX, std::memory_order_relaxed);
      return false;
    }
  } while (!used_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  by_purpose_[purpose].fetch_add(bytes, std::memory_order_relaxed);
  int64_t peak = peak_.load(std::memory_order_relaxed);
  while (used + bytes > peak &&
         !peak_.compare_exchange_weak(peak, used + bytes, std::memory_order_relaxed)) {
  }
  return true;
}

void Memory::give(int64_t bytes, int purpose) {
  by_purpose_[purpose].fetch_sub(bytes, std::memory_order_relaxed);
  used_.fetch_sub(bytes, std::memory_order_relaxed);
}

void Memory::describe_shortage(char* message, size_t size, const char* who, int64_t bytes) const {
  const int64_t in_use = used();
  int length = std::snprintf(message, size, "out of device memory: %s needs %s, %s free of %s", who,
                             Bytes(bytes).text, Bytes(std::max<int64_t>(budget - in_use, 0)).text,
                             Bytes(budget).text);
  const int64_t left = device_left_.load(std::memory_order_relaxed);
  if (left != INT64_MAX && length > 0 && static_cast<size_t>(length) < size)
    length += std::snprintf(message + length, size - static_cast<size_t>(length),
                            ", but the device has only %s left", Bytes(left).text);
  struct Holder {
    int64_t bytes;
    int purpose;
  } holders[kPurposes];
  for (int i = 0; i < kPurposes; ++i) holders[i] = {by_purpose_[i].load(), i};
  std::sort(holders, holders + kPurposes,
            [](const Holder& a, const Holder& b) { return a.bytes > b.bytes; });
  for (int i = 0; i < 3 && holders[i].bytes > 0; ++i) {
    if (length < 0 || static_cast<size_t>(length) >= size) return;
    length += std::snprintf(message + length, size - static_cast<size_t>(length), "%s%s %s",
                            i == 0 ? "; largest holders: " : ", ", purpose_name(holders[i].purpose),
                            Bytes(holders[i].bytes).text);
  }
}

static std::atomic<int64_t> injections_left[3];

void read_injections() {
  static constexpr const char* kNames[] = {"alloc:", "launch:", "copy:"};
  int64_t asked[3] = {};
  const char* text = std::getenv("GATUN_FAULT");
  while (text != nullptr && *text != 0) {
    for (int i = 0; i < 3; ++i)
      if (std::strncmp(text, kNames[i], std::strlen(kNames[i])) == 0)
        asked[i] = std::strtoll(text + std::strlen(kNames[i]), nullptr, 10);
    text = std::strchr(text, ',');
    if (text != nullptr) ++text;
  }
  for (int i = 0; i < 3; ++i) injections_left[i] = asked[i];
}

bool injected(Injection what) {
  std::atomic<int64_t>& left = injections_left[static_cast<int>(what)];
  return left.load(std::memory_order_relaxed) > 0 && left.fetch_sub(1) == 1;
}

}  // namespace gatun
