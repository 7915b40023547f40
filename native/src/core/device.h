// Devices, streams, events and graphs as the core holds them: a Driver (core/driver.h) with its
// account of memory and its profile.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "core/driver.h"
#include "core/handles.h"
#include "gatun.h"

namespace gatun {

class Capture;

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
  std::atomic<Capture*> capture{nullptr};  // while its ops are remembered
};

struct Graph {
  Device* device;
  void* native;
  Capture* capture;
};

struct Event {
  Device* device;
  void* native;
  std::atomic<bool> recorded{false};
};

// What a capture collects beside the ops: memory of its own, and the buffers of others that its ops
// use. Held by the stream or the graph, and by each live buffer in that memory.
class Capture {
 public:
  explicit Capture(Device& device) : device_(device) {}

  std::mutex submission;  // of the ops, against the end of the capture

  // Memory for a buffer, which holds the capture from now on. What an earlier one of the same
  // capture left serves again: the ops run in order.
  gatun_status take(int64_t bytes, gatun_purpose purpose, void** address, Failure& failure);
  // Of a buffer whose handle is closed.
  void give(void* address);
  // An op uses this buffer.
  void use(gatun_buffer buffer);
  // Throws if one of them was freed.
  void check_used(const char* function) const;

  // One holder less; the last one waits for the device and gives the memory back.
  void drop();

 private:
  struct Block {
    void* address;
    int64_t bytes;
    gatun_purpose purpose;
    bool in_use;
  };

  Device& device_;
  std::atomic<int64_t> holders_{1};
  mutable std::mutex mutex_;  // of what follows
  std::vector<Block> blocks_;
  std::unordered_set<gatun_buffer> used_;
};

// What the words of a buffer's slot mean (core/handles.h).
struct Buffer {
  Device* device = nullptr;
  char* address = nullptr;
  int64_t bytes = 0;
  int32_t purpose = GATUN_OTHER;
  bool wrapped = false;
  gatun_stream stream = 0;     // that of the allocation
  Capture* capture = nullptr;  // instead, where it lies in a capture's memory

  HandleTable::Words pack() const {
    return {{reinterpret_cast<uint64_t>(device), reinterpret_cast<uint64_t>(address),
             static_cast<uint64_t>(bytes),
             static_cast<uint64_t>(purpose) << 2 | (capture ? 2 : 0) | (wrapped ? 1 : 0),
             capture ? reinterpret_cast<uint64_t>(capture) : stream, device->handle}};
  }
  static Buffer unpack(const HandleTable::Words& words) {
    Buffer buffer;
    buffer.device = reinterpret_cast<Device*>(words.word[0]);
    buffer.address = reinterpret_cast<char*>(words.word[1]);
    buffer.bytes = static_cast<int64_t>(words.word[2]);
    buffer.purpose = static_cast<int32_t>(words.word[3] >> 2);
    buffer.wrapped = (words.word[3] & 1) != 0;
    if ((words.word[3] & 2) != 0)
      buffer.capture = reinterpret_cast<Capture*>(words.word[4]);
    else
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
