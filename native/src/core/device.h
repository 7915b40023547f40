// Devices, streams and events as the core holds them: a Driver (core/driver.h) with its account of
// memory and its profile.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/driver.h"
#include "core/handles.h"
#include "gatun.h"

namespace gatun {

struct Device {
  struct Profile {
    std::atomic<int64_t> calls{0};
    std::atomic<double> bytes{0};
    std::atomic<double> flops{0};
  };

  char name[64] = "";
  gatun_device handle = 0;
  Memory memory;
  Driver* driver = nullptr;
  const Backend* backend = nullptr;
  std::atomic<int64_t> buffers{0};
  std::atomic<bool> profiling{false};
  Profile profile[kOps];
};

struct Stream {
  Device* device;
  void* native;
};

struct Event {
  Device* device;
  void* native;
  std::atomic<bool> recorded{false};
};

// What the words of a buffer's slot mean (core/handles.h).
struct Buffer {
  Device* device = nullptr;
  char* address = nullptr;
  int64_t bytes = 0;
  int32_t purpose = GATUN_OTHER;
  bool wrapped = false;
  gatun_stream stream = 0;  // that of the allocation

  HandleTable::Words pack() const {
    return {{reinterpret_cast<uint64_t>(device), reinterpret_cast<uint64_t>(address),
             static_cast<uint64_t>(bytes), static_cast<uint64_t>(purpose) << 1 | (wrapped ? 1 : 0),
             stream, device->handle}};
  }
  static Buffer unpack(const HandleTable::Words& words) {
    Buffer buffer;
    buffer.device = reinterpret_cast<Device*>(words.word[0]);
    buffer.address = reinterpret_cast<char*>(words.word[1]);
    buffer.bytes = static_cast<int64_t>(words.word[2]);
    buffer.purpose = static_cast<int32_t>(words.word[3] >> 1);
    buffer.wrapped = (words.word[3] & 1) != 0;
    buffer.stream = words.word[4];
    return buffer;
  }
};

// Throws what a driver reported.
inline void check(gatun_status status, const Failure& failure) {
  if (status != GATUN_OK) [[unlikely]]
    throw Error(status, failure.message);
}

// Opens the driver of a device name; throws GATUN_UNAVAILABLE with the reason (core/open.cpp).
Driver* open_driver(const char* name, const gatun_device_options& options, Memory& memory);

}  // namespace gatun

namespace gatun::cpu {

// The cpu device (cpu/driver.cpp).
gatun_status open(const gatun_device_options& options, Memory& memory, Driver** driver,
                  Failure& failure) noexcept;

}  // namespace gatun::cpu
