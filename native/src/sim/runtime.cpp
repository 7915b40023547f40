// The CUDA runtime API on the simulated device.
//
// A stream is a queue that nobody works on until somebody waits: then tasks run one at a time,
// those of several streams in the order that the options draw. What a host may not rely on yet is
// poison: the destination of a copy to the host from the call until the wait, fresh device memory
// until it is written; and pinned memory is read when the copy runs, not when it is asked for. A
// kernel that fails is reported once, by the next wait; unlike on a GPU, work goes on.
//
// There are two devices, so that what belongs to one device is seen to stay there: streams, events,
// faults. Memory is the host's, and either device reaches all of it.
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "last_launch.h"
#include "simt.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kDevices = 2;

struct Event {
  int device;
  uint64_t recorded = 0, completed = 0;  // records enqueued, executed
  Clock::time_point time;
};

struct Task {
  std::function<void()> run;
  std::shared_ptr<Event> event;  // with a `record`: it may run once that many were executed
  uint64_t record = 0;
  bool may_run() const { return event == nullptr || event->completed >= record; }
};

}  // namespace

// Tasks in the order in which they were captured.
struct CUgraph_st {
  std::vector<std::function<void()>> tasks;
};
struct CUgraphExec_st : CUgraph_st {};

struct CUstream_st {
  int device;
  std::deque<Task> tasks;
  CUgraph_st* capture = nullptr;  // takes the tasks instead
};
struct CUevent_st {
  std::shared_ptr<Event> event;
};
struct CUmemPoolHandle_st {
  int device;
};

namespace {

constexpr int kMultiprocessors = 4;  // few, so that small inputs already give a block several rows
constexpr const char* kFreed = "a copy or fill ran after its memory was freed on another stream";
constexpr size_t kMostTasks = 4096;  // that a stream holds before the caller runs them

struct Engine {
  std::mutex execution;                               // held while tasks run; taken before `mutex`
  std::mutex mutex;                                   // of all below, not held while a task runs
  CUstream_st legacy[kDevices] = {{0, {}}, {1, {}}};  // the null streams
  std::vector<CUstream_st*> streams{&legacy[0], &legacy[1]};
  std::string failure[kDevices];       // of the first kernel that failed since it was last reported
  std::map<uintptr_t, int> device_of;  // of each allocation of device memory
  std::map<uintptr_t, uintptr_t> pinned;  // first -> last byte of cudaHostAlloc's memory, and 1
  uint64_t random = 88172645463325252u;
};

// Never destroyed: threads may outlive main.
Engine& engine() {
  static Engine& only = *new Engine;
  return only;
}

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;
thread_local char failure_text[512] = "a kernel failed";

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

CUstream_st* stream_of(cudaStream_t stream) {
  return stream == nullptr ? &engine().legacy[current_device] : stream;
}

// Under the engine's mutex. The stream to go on with, null if none has a task that may run.
CUstream_st* choose(Engine& all) {
  std::vector<CUstream_st*> able;
  for (CUstream_st* stream : all.streams)
    if (!stream->tasks.empty() && stream->tasks.front().may_run()) able.push_back(stream);
  if (able.empty()) return nullptr;
  switch (simt::options().order) {
    case simt::Order::kForward:
      return able.front();
    case simt::Order::kReverse:
      return able.back();
    case simt::Order::kRandom:
      break;
  }
  all.random ^= all.random << 13;
  all.random ^= all.random >> 7;
  all.random ^= all.random << 17;
  return able[(all.random + simt::options().seed) % able.size()];
}

// Runs tasks until `done` holds, which it is asked under the engine's mutex.
template <typename Done>
void run_until(Done done) {
  Engine& all = engine();
  std::lock_guard execution(all.execution);
  std::unique_lock lock(all.mutex);
  while (!done()) {
    CUstream_st* stream = choose(all);
    if (stream == nullptr) return;  // cannot be: an event waits only for a record that is enqueued
    Task task = std::move(stream->tasks.front());
    stream->tasks.pop_front();
    lock.unlock();
    task.run();
    task = {};
    lock.lock();
  }
}

// Reports a failed kernel of the device, once.
cudaError_t failure(int device) {
  Engine& all = engine();
  std::lock_guard lock(all.mutex);
  std::string& first = all.failure[device];
  if (first.empty()) return cudaSuccess;
  std::snprintf(failure_text, sizeof failure_text, "%s", first.c_str());
  first.clear();
  return result(cudaErrorLaunchFailure);
}

void enqueue(cudaStream_t stream, Task task) {
  Engine& all = engine();
  CUstream_st* to = stream_of(stream);
  size_t waiting;
  {
    std::lock_guard lock(all.mutex);
    if (to->capture != nullptr) {
      to->capture->tasks.push_back(std::move(task.run));
      return;
    }
    to->tasks.push_back(std::move(task));
    waiting = to->tasks.size();
  }
  if (waiting > kMostTasks) run_until([to] { return to->tasks.empty(); });
}
void enqueue(cudaStream_t stream, std::function<void()> run) {
  enqueue(stream, Task{std::move(run), nullptr, 0});
}

void fail(int device, const std::string& message) {
  Engine& all = engine();
  std::lock_guard lock(all.mutex);
  if (all.failure[device].empty()) all.failure[device] = message;
}

bool in_device_memory(const void* address, size_t bytes) {
  const simt::Range range = simt::allocation_of(address);
  return reinterpret_cast<uintptr_t>(address) + bytes <= range.last;
}

bool is_pinned(const void* address) {
  Engine& all = engine();
  std::lock_guard lock(all.mutex);
  const auto after = all.pinned.upper_bound(reinterpret_cast<uintptr_t>(address));
  return after != all.pinned.begin() &&
         reinterpret_cast<uintptr_t>(address) < std::prev(after)->second;
}

}  // namespace

namespace simt {

cudaError_t launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes,
                   std::function<void()> kernel) {
  constexpr size_t kMostShared = 227 << 10;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || shared_bytes > kMostShared)
    return result(cudaErrorInvalidConfiguration);
  const int device = stream_of(stream)->device;
  if (device != current_device) return result(cudaErrorInvalidResourceHandle);
  enqueue(stream, [device, launch = Launch{gatun::kernels::last_launch.kernel, grid, block,
                                           shared_bytes, std::move(kernel)}] {
    const std::string message = run(launch, options());
    if (!message.empty()) fail(device, message);
  });
  return cudaSuccess;
}

}  // namespace simt

// ---- errors ----

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalState:
      return "cudaErrorIllegalState";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
  }
  return "unknown error";
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorIllegalState:
      return "the operation cannot be performed in the present state";
    case cudaErrorLaunchFailure:
      return failure_text;
  }
  return "unknown error";
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

// ---- the device ----

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return result(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= kDevices) return result(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "simulated on this host, for tests");
  properties->major = 9;
  properties->minor = 0;
  properties->multiProcessorCount = kMultiprocessors;
  properties->memoryPoolsSupported = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= kDevices) return result(cudaErrorInvalidDevice);
  if (attribute != cudaDevAttrMultiProcessorCount) return result(cudaErrorInvalidValue);
  *value = kMultiprocessors;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaDeviceSynchronize() {
  run_until([] {
    const auto& streams = engine().streams;
    return std::all_of(streams.begin(), streams.end(), [](const CUstream_st* stream) {
      return stream->device != current_device || stream->tasks.empty();
    });
  });
  return failure(current_device);
}

// ---- streams ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  auto* made = new CUstream_st{current_device, {}};
  std::lock_guard lock(engine().mutex);
  engine().streams.push_back(made);
  *stream = made;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return result(cudaErrorInvalidResourceHandle);
  run_until([stream] { return stream->tasks.empty(); });
  {
    std::lock_guard lock(engine().mutex);
    std::erase(engine().streams, stream);
  }
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  CUstream_st* of = stream_of(stream);
  run_until([of] { return of->tasks.empty(); });
  return failure(of->device);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Task task = {[] {}, event->event, 0};
  {
    std::lock_guard lock(engine().mutex);
    task.record = event->event->recorded;
  }
  enqueue(stream, std::move(task));
  return cudaSuccess;
}

// ---- graphs ----
//
// Kernels and fills can be captured; an event or a copy to the host cannot be told apart here, the
// driver keeps them out.

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  std::lock_guard lock(engine().mutex);
  if (stream == nullptr || stream->capture != nullptr) return result(cudaErrorIllegalState);
  stream->capture = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  std::lock_guard lock(engine().mutex);
  if (stream == nullptr || stream->capture == nullptr) return result(cudaErrorIllegalState);
  *graph = std::exchange(stream->capture, nullptr);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  *executable = new CUgraphExec_st{*graph};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const std::function<void()>& task : executable->tasks) enqueue(stream, task);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

// ---- events ----

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st{std::make_shared<Event>(Event{current_device, 0, 0, {}})};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (event->event->device != stream_of(stream)->device)
    return result(cudaErrorInvalidResourceHandle);
  uint64_t record;
  {
    std::lock_guard lock(engine().mutex);
    record = ++event->event->recorded;
  }
  enqueue(stream, [of = event->event, record] {
    std::lock_guard lock(engine().mutex);
    of->completed = std::max(of->completed, record);
    of->time = Clock::now();
  });
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::shared_ptr<Event> of = event->event;
  run_until([&] { return of->completed >= of->recorded; });
  return failure(of->device);
}

cudaError_t cudaEventElapsedTime(float* millis, cudaEvent_t start, cudaEvent_t end) {
  std::lock_guard lock(engine().mutex);
  if (start->event->completed == 0 || end->event->completed == 0 ||
      start->event->device != end->event->device)
    return result(cudaErrorInvalidResourceHandle);
  *millis = std::chrono::duration<float, std::milli>(end->event->time - start->event->time).count();
  return cudaSuccess;
}

// ---- memory ----

// A quarter of the machine's: simulated memory is the host's.
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) *
           static_cast<size_t>(sysconf(_SC_PAGE_SIZE)) / 4;
  *free = *total - std::min(*total, static_cast<size_t>(simt::allocated_bytes()));
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
  *address = std::malloc(bytes);
  if (*address == nullptr) return result(cudaErrorMemoryAllocation);
  const auto first = reinterpret_cast<uintptr_t>(*address);
  std::lock_guard lock(engine().mutex);
  engine().pinned.emplace(first, first + bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* address) {
  {
    std::lock_guard lock(engine().mutex);
    if (engine().pinned.erase(reinterpret_cast<uintptr_t>(address)) == 0)
      return result(cudaErrorInvalidValue);
  }
  std::free(address);
  return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  if (properties->location.id < 0 || properties->location.id >= kDevices)
    return result(cudaErrorInvalidDevice);
  *pool = new CUmemPoolHandle_st{properties->location.id};
  return cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  delete pool;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr attribute, void*) {
  return attribute == cudaMemPoolAttrReleaseThreshold ? cudaSuccess : result(cudaErrorInvalidValue);
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr attribute, void* value) {
  if (attribute != cudaMemPoolAttrReservedMemCurrent) return result(cudaErrorInvalidValue);
  *static_cast<uint64_t*>(value) = static_cast<uint64_t>(simt::allocated_bytes());
  return cudaSuccess;
}
// Nothing that was freed is kept.
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

cudaError_t cudaMallocFromPoolAsync(void** address, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t) {
  size_t free, total;
  cudaMemGetInfo(&free, &total);
  *address = bytes > free ? nullptr : simt::allocate(bytes);
  if (*address == nullptr) return result(cudaErrorMemoryAllocation);
  std::lock_guard lock(engine().mutex);
  engine().device_of[reinterpret_cast<uintptr_t>(*address)] =
      pool == nullptr ? current_device : pool->device;
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* address, cudaStream_t stream) {
  if (simt::allocation_of(address).first != reinterpret_cast<uintptr_t>(address))
    return result(cudaErrorInvalidValue);
  enqueue(stream, [address] {
    {
      std::lock_guard lock(engine().mutex);
      engine().device_of.erase(reinterpret_cast<uintptr_t>(address));
    }
    simt::release(address);
  });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (bytes == 0) return cudaSuccess;
  if ((to_device && !in_device_memory(to, bytes)) ||
      (from_device && !in_device_memory(from, bytes)))
    return result(cudaErrorInvalidValue);
  const int device = stream_of(stream)->device;
  if (from_device || is_pinned(from)) {
    if (!to_device) std::memset(to, 0xff, bytes);  // until the wait
    enqueue(stream, [=] {
      if ((!from_device || in_device_memory(from, bytes)) &&
          (!to_device || in_device_memory(to, bytes)))
        std::memmove(to, from, bytes);
      else
        fail(device, kFreed);
    });
  } else {
    // pageable memory is staged before the call returns
    auto* begin = static_cast<const unsigned char*>(from);
    enqueue(stream, [device, to, staged = std::vector<unsigned char>(begin, begin + bytes)] {
      if (in_device_memory(to, staged.size()))
        std::memcpy(to, staged.data(), staged.size());
      else
        fail(device, kFreed);
    });
  }
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!in_device_memory(to, bytes)) return result(cudaErrorInvalidValue);
  enqueue(stream, [=, device = stream_of(stream)->device] {
    if (in_device_memory(to, bytes))
      std::memset(to, value, bytes);
    else
      fail(device, kFreed);
  });
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  *attributes = {};
  const simt::Range range = simt::allocation_of(address);
  if (range.last != 0) {
    std::lock_guard lock(engine().mutex);
    const auto known = engine().device_of.find(range.first);
    attributes->type = cudaMemoryTypeDevice;
    attributes->device = known == engine().device_of.end() ? 0 : known->second;
  } else if (is_pinned(address)) {
    attributes->type = cudaMemoryTypeHost;
    attributes->hostPointer = const_cast<void*>(address);
  } else {
    return cudaSuccess;
  }
  attributes->devicePointer = const_cast<void*>(address);
  return cudaSuccess;
}
