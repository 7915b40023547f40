// The cuda device (and, compiled against the simulator's runtime API, the sim device): a CUDA
// device's primary context, one memory pool, a cudaStream_t a stream.
//
// Ops run at once on the caller's thread: they launch and return. What a kernel does wrong shows at
// a later wait; CUDA then refuses everything in this process, so that fault is reported once as
// such, and each later call fails with CUDA's own reason.
#include "core/driver.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <vector>

#include "core/fault.h"
#include "cuda/backend.h"
#include "last_launch.h"

// What users call the device.
#ifndef GATUN_DEVICE_KIND
#define GATUN_DEVICE_KIND "cuda"
// After a kernel's fault; the simulator goes on, and its sentence names the kernel.
#define GATUN_AFTER_A_FAULT \
  "; this process can no longer use the GPU, start it again (compute-sanitizer names the kernel)"
#else
#define GATUN_AFTER_A_FAULT ""
#endif

namespace gatun::cuda {

namespace {

void check(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // one that is not sticky must not meet the next call
  fail(GATUN_DEVICE_FAULT, GATUN_DEVICE_KIND ": %s failed: %s (%s)", what,
       cudaGetErrorString(error), cudaGetErrorName(error));
}

struct Workspace {
  void* address = nullptr;
  int64_t bytes = 0;
};

// A graph's ops were captured with these addresses.
struct CudaGraph {
  cudaGraphExec_t graph = nullptr;
  std::vector<Workspace> workspaces;  // the last one is the largest
};

struct CudaStream {
  cudaStream_t stream = nullptr;
  std::mutex mutex;  // of submission: a workspace belongs to one op at a time
  Workspace workspace;
  std::unique_ptr<CudaGraph> capture;
};

// Pinned memory between pageable host memory and the device, in two chunks: the device copies one
// while the caller fills or empties the other.
struct Staging {
  static constexpr int64_t kChunk = int64_t{8} << 20;
  struct Chunk {
    std::byte* memory = nullptr;
    cudaEvent_t copied = nullptr;
  };

  std::mutex mutex;  // held by one copy from its first chunk to its last
  Chunk chunks[2];
  bool refused = false;  // the host has no pinned memory left; CUDA then stages by itself
};

// Two events around an op.
struct Timing {
  int op;
  cudaEvent_t start, end;
};

class CudaDriver final : public Driver {
 public:
  CudaDriver(int ordinal, Memory& memory) : ordinal_(ordinal), memory_(memory) {}

  void start() {
    check("cudaSetDevice", cudaSetDevice(ordinal_));
    cudaDeviceProp properties;
    check("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, ordinal_));
    if (properties.major < 8)
      fail(GATUN_UNAVAILABLE,
           GATUN_DEVICE_KIND ":%d: %s has compute capability %d.%d, 8.0 (A100) or later is needed",
           ordinal_, properties.name, properties.major, properties.minor);
    if (!properties.memoryPoolsSupported)
      fail(GATUN_UNAVAILABLE, GATUN_DEVICE_KIND ":%d: %s offers no memory pools; use cpu", ordinal_,
           properties.name);
    sm_count_ = properties.multiProcessorCount;
    size_t free = 0, total = 0;
    check("cudaMemGetInfo", cudaMemGetInfo(&free, &total));
    int runtime = 0, driver = 0;
    cudaRuntimeGetVersion(&runtime);
    cudaDriverGetVersion(&driver);
    std::snprintf(
        description_, sizeof description_,
        "%.64s, compute capability %d.%d, %d multiprocessors, %s, CUDA %d.%d (driver %d.%d)",
        properties.name, properties.major, properties.minor, sm_count_,
        Bytes(static_cast<int64_t>(total)).text, runtime / 1000, runtime % 1000 / 10, driver / 1000,
        driver % 1000 / 10);
    // the rest is for the context's own needs and for libraries beside us
    if (memory_.budget == 0) memory_.budget = static_cast<int64_t>(free) / 100 * 95;

    cudaMemPoolProps pool = {};
    pool.allocType = cudaMemAllocationTypePinned;
    pool.location.type = cudaMemLocationTypeDevice;
    pool.location.id = ordinal_;
    check("cudaMemPoolCreate", cudaMemPoolCreate(&pool_, &pool));
    uint64_t keep = UINT64_MAX;  // free memory stays in the pool until trim()
    check("cudaMemPoolSetAttribute",
          cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep));
    check("cudaStreamCreate", cudaStreamCreateWithFlags(&orphans_, cudaStreamNonBlocking));

    void* address = nullptr;
    check("cudaHostAlloc", cudaHostAlloc(&address, sizeof *faults_.record, cudaHostAllocMapped));
    faults_.record = new (address) kernels::FaultRecord{};
    check("cudaMallocFromPoolAsync",
          cudaMallocFromPoolAsync(&address, sizeof *faults_.taken, pool_, orphans_));
    faults_.taken = static_cast<uint32_t*>(address);
    check("cudaMemsetAsync", cudaMemsetAsync(faults_.taken, 0, sizeof *faults_.taken, orphans_));
    check("cudaStreamSynchronize", cudaStreamSynchronize(orphans_));
  }

  // Also after a start() that failed half-way.
  void close() noexcept override {
    drain();
    drop_timings();
    for (const Staging::Chunk& chunk : staging_.chunks) {
      if (chunk.copied != nullptr) cudaEventDestroy(chunk.copied);
      if (chunk.memory != nullptr) cudaFreeHost(chunk.memory);
    }
    if (faults_.taken != nullptr) cudaFreeAsync(faults_.taken, orphans_);
    if (faults_.record != nullptr) cudaFreeHost(faults_.record);
    if (orphans_ != nullptr) cudaStreamDestroy(orphans_);
    if (pool_ != nullptr) cudaMemPoolDestroy(pool_);
    delete this;
  }

  void describe(gatun_device_info& info) noexcept override {
    use();
    info.threads = 0;
    info.simd = 0;
    info.sm_count = sm_count_;
    std::snprintf(info.name, sizeof info.name, GATUN_DEVICE_KIND ":%d", ordinal_);
    std::snprintf(info.description, sizeof info.description, "%.191s", description_);
    note_reserved();
  }

  const Backend& backend() noexcept override { return kBackend; }

  // ---- streams and events ----

  gatun_status create_stream(void** stream, Failure& failure) noexcept override {
    return guarded(failure, [&] {
      use();
      auto made = std::make_unique<CudaStream>();
      check("cudaStreamCreate", cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking));
      *stream = made.release();
    });
  }
  void destroy_stream(void* stream) noexcept override {
    use();
    auto* self = static_cast<CudaStream*>(stream);
    if (self->capture != nullptr) {
      cudaGraph_t unfinished = nullptr;
      note(cudaStreamEndCapture(self->stream, &unfinished));
      if (unfinished != nullptr) cudaGraphDestroy(unfinished);
      destroy_graph(self->capture.release());
    }
    note(cudaStreamSynchronize(self->stream));
    drop(*self);
    cudaStreamSynchronize(self->stream);
    cudaStreamDestroy(self->stream);
    delete self;
  }
  gatun_status wait(void* stream, Failure& failure) noexcept override {
    use();
    note(stream == nullptr ? cudaDeviceSynchronize()
                           : cudaStreamSynchronize(static_cast<CudaStream*>(stream)->stream));
    return take_fault(failure);
  }
  void drain() noexcept override {
    use();
    note(cudaDeviceSynchronize());
  }

  gatun_status create_event(void** event, Failure& failure) noexcept override {
    return guarded(failure, [&] {
      use();
      cudaEvent_t made;
      check("cudaEventCreate", cudaEventCreate(&made));
      *event = made;
    });
  }
  void destroy_event(void* event) noexcept override {
    use();
    cudaEventDestroy(static_cast<cudaEvent_t>(event));
  }
  gatun_status record(void* event, void* stream, Failure& failure) noexcept override {
    return guarded(failure, [&] {
      use();
      check("cudaEventRecord", cudaEventRecord(static_cast<cudaEvent_t>(event),
                                               static_cast<CudaStream*>(stream)->stream));
    });
  }
  gatun_status stream_wait(void* stream, void* event, Failure& failure) noexcept override {
    return guarded(failure, [&] {
      use();
      check("cudaStreamWaitEvent", cudaStreamWaitEvent(static_cast<CudaStream*>(stream)->stream,
                                                       static_cast<cudaEvent_t>(event), 0));
    });
  }
  gatun_status event_wait(void* event, Failure& failure) noexcept override {
    use();
    note(cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
    return take_fault(failure);
  }
  gatun_status elapsed(void* start, void* end, double* millis, Failure& failure) noexcept override {
    return guarded(failure, [&] {
      use();
      for (void* event : {start, end})
        check("cudaEventSynchronize", cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
      float between = 0;
      check("cudaEventElapsedTime", cudaEventElapsedTime(&between, static_cast<cudaEvent_t>(start),
                                                         static_cast<cudaEvent_t>(end)));
      *millis = static_cast<double>(between);
    });
  }

  // ---- memory ----

  gatun_status allocate(void* stream, int64_t bytes, gatun_purpose purpose, void** address,
                        Failure& failure) noexcept override {
    return guarded(failure, [&] {
      use();
      *address = stream == nullptr ? take_for_all(bytes, purpose)
                                   : take(static_cast<CudaStream*>(stream)->stream, bytes, purpose);
      if (*address == nullptr) throw OutOfMemory("");
    });
  }
  void release(void* stream, void* address, int64_t bytes,
               gatun_purpose purpose) noexcept override {
    use();
    // A destroyed stream was waited for, so any stream may free its memory.
    note(cudaFreeAsync(address,
                       stream == nullptr ? orphans_ : static_cast<CudaStream*>(stream)->stream));
    memory_.give(bytes, purpose);
  }
  gatun_status trim(Failure& failure) noexcept override {
    return guarded(failure, [&] {
      use();
      check("cudaMemPoolTrimTo", cudaMemPoolTrimTo(pool_, 0));
      note_reserved();
    });
  }
  gatun_status wrap(void* address, int64_t, Failure& failure) noexcept override {
    return guarded(failure, [&] {
      use();
      cudaPointerAttributes attributes = {};
      check("cudaPointerGetAttributes", cudaPointerGetAttributes(&attributes, address));
      const bool here =
          attributes.type == cudaMemoryTypeManaged ||
          (attributes.type == cudaMemoryTypeDevice && attributes.device == ordinal_) ||
          (attributes.type == cudaMemoryTypeHost && attributes.devicePointer == address);
      if (!here)
        fail(GATUN_INVALID_ARGUMENT,
             "buffer_wrap: %p is not memory of " GATUN_DEVICE_KIND
             ":%d: allocate it there, or register it with "
             "cudaHostRegister",
             address, ordinal_);
    });
  }

  gatun_status write(void* stream, void* to, const void* source, int64_t bytes,
                     Failure& failure) noexcept override {
    return guarded(failure, [&] {
      use();
      cudaStream_t on = static_cast<CudaStream*>(stream)->stream;
      if (bytes > kUnstaged && is_pageable(source) && stage()) {
        write_staged(on, static_cast<std::byte*>(to), static_cast<const std::byte*>(source), bytes);
        return;
      }
      check("cudaMemcpyAsync",
            cudaMemcpyAsync(to, source, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, on));
      // Pageable memory has been staged by now; pinned memory is still being read.
      if (!is_pageable(source)) check("cudaStreamSynchronize", cudaStreamSynchronize(on));
    });
  }
  gatun_status read(void* stream, void* destination, const void* from, int64_t bytes,
                    Failure& failure) noexcept override {
    use();
    cudaStream_t on = static_cast<CudaStream*>(stream)->stream;
    if (bytes > kUnstaged && is_pageable(destination) && stage()) {
      note(cudaStreamSynchronize(on));  // so that others may stage while earlier work runs
      read_staged(on, static_cast<std::byte*>(destination), static_cast<const std::byte*>(from),
                  bytes);
    } else {
      note(cudaMemcpyAsync(destination, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost,
                           on));
      note(cudaStreamSynchronize(on));
    }
    return take_fault(failure);
  }

  // ---- ops ----

  gatun_status submit(void* stream, Op op, void* args, Failure& failure) noexcept override {
    auto& self = *static_cast<CudaStream*>(stream);
    return guarded(failure, [&] {
      use();
      std::lock_guard lock(self.mutex);
      CallContext context(*this, self, type_of(op).name);
      if (!profiling_.load(std::memory_order_relaxed) || self.capture != nullptr) {
        type_of(op).run(kBackend, context, args);
        return;
      }
      Timing timing = {static_cast<int>(op), nullptr, nullptr};
      check("cudaEventCreate", cudaEventCreate(&timing.start));
      std::unique_ptr<CUevent_st, decltype(&cudaEventDestroy)> start(timing.start,
                                                                     &cudaEventDestroy);
      check("cudaEventCreate", cudaEventCreate(&timing.end));
      std::unique_ptr<CUevent_st, decltype(&cudaEventDestroy)> end(timing.end, &cudaEventDestroy);
      check("cudaEventRecord", cudaEventRecord(timing.start, self.stream));
      type_of(op).run(kBackend, context, args);
      check("cudaEventRecord", cudaEventRecord(timing.end, self.stream));
      std::lock_guard timings_lock(timings_mutex_);
      timings_.push_back(timing);
      start.release();
      end.release();
      if (timings_.size() >= kMostTimings) add_up_timings();
    });
  }

  // ---- graphs ----

  gatun_status begin_capture(void* stream, Failure& failure) noexcept override {
    auto& self = *static_cast<CudaStream*>(stream);
    return guarded(failure, [&] {
      use();
      std::lock_guard lock(self.mutex);
      auto capture = std::make_unique<CudaGraph>();
      // relaxed: memory is allocated meanwhile, on another stream
      check("cudaStreamBeginCapture",
            cudaStreamBeginCapture(self.stream, cudaStreamCaptureModeRelaxed));
      self.capture = std::move(capture);
    });
  }
  gatun_status end_capture(void* stream, void** graph, Failure& failure) noexcept override {
    auto& self = *static_cast<CudaStream*>(stream);
    use();
    std::lock_guard lock(self.mutex);
    std::unique_ptr<CudaGraph> made = std::move(self.capture);
    const gatun_status status = guarded(failure, [&] {
      cudaGraph_t captured = nullptr;
      check("cudaStreamEndCapture", cudaStreamEndCapture(self.stream, &captured));
      const cudaError_t error = cudaGraphInstantiate(&made->graph, captured, 0);
      cudaGraphDestroy(captured);
      check("cudaGraphInstantiate", error);
    });
    if (status == GATUN_OK)
      *graph = made.release();
    else
      destroy_graph(made.release());
    return status;
  }
  gatun_status launch(void* stream, void* graph, Failure& failure) noexcept override {
    return guarded(failure, [&] {
      use();
      check("cudaGraphLaunch", cudaGraphLaunch(static_cast<CudaGraph*>(graph)->graph,
                                               static_cast<CudaStream*>(stream)->stream));
    });
  }
  void destroy_graph(void* graph) noexcept override {
    auto* self = static_cast<CudaGraph*>(graph);
    drain();
    if (self->graph != nullptr) cudaGraphExecDestroy(self->graph);
    for (const Workspace& workspace : self->workspaces) {
      note(cudaFreeAsync(workspace.address, orphans_));
      memory_.give(workspace.bytes, GATUN_WORKSPACE);
    }
    delete self;
  }

  // ---- profile ----

  void profile(bool on) noexcept override {
    use();
    profiling_.store(on);
    if (!on) return;
    drop_timings();
    std::lock_guard lock(timings_mutex_);
    std::memset(nanos_, 0, sizeof nanos_);
  }
  void profile_nanos(int64_t nanos[kOps]) noexcept override {
    use();
    std::lock_guard lock(timings_mutex_);
    add_up_timings();
    std::memcpy(nanos, nanos_, sizeof nanos_);
  }

 private:
  static constexpr size_t kMostTimings = 4096;  // before they are waited for and added up
  // Up to here CUDA takes what it copies to the device along with the command.
  static constexpr int64_t kUnstaged = 64 << 10;

  class CallContext final : public Context {
   public:
    CallContext(CudaDriver& driver, CudaStream& stream, const char* op)
        : driver_(driver), stream_(stream), op_(op) {
      native_stream = stream.stream;
      native_faults = &driver.faults_;
    }
    void* workspace(size_t bytes) override {
      return driver_.workspace(stream_, static_cast<int64_t>(bytes), op_);
    }
    void fault(gatun_status status, const char* op, const char* format, ...) override
        __attribute__((format(printf, 4, 5))) {
      char message[kMaxMessage];
      const int length = std::snprintf(message, sizeof message, "%s: ", op);
      va_list arguments;
      va_start(arguments, format);
      std::vsnprintf(message + length, sizeof message - static_cast<size_t>(length), format,
                     arguments);
      va_end(arguments);
      driver_.fault_.record(status, message);
    }

   private:
    CudaDriver& driver_;
    CudaStream& stream_;
    const char* op_;
  };

  // The current device is a property of the calling thread.
  void use() const noexcept { cudaSetDevice(ordinal_); }

  // Keeps what a wait found for the caller who asks for faults.
  void note(cudaError_t error) noexcept {
    if (error == cudaSuccess) return;
    cudaGetLastError();
    char message[kMaxMessage];
    std::snprintf(message, sizeof message,
                  GATUN_DEVICE_KIND ":%d: earlier work failed: %s (%s)" GATUN_AFTER_A_FAULT,
                  ordinal_, cudaGetErrorString(error), cudaGetErrorName(error));
    fault_.record(GATUN_DEVICE_FAULT, message);
  }

  // The first pending fault, what a kernel reported included.
  gatun_status take_fault(Failure& failure) noexcept {
    take_report();
    return fault_.take(failure);
  }

  // Moves a kernel's report to the pending faults and makes room for the next one.
  void take_report() noexcept {
    if (__atomic_load_n(&faults_.record->kind, __ATOMIC_ACQUIRE) == kernels::FaultKind::kNone)
      return;
    std::lock_guard lock(faults_mutex_);
    const kernels::FaultRecord report = *faults_.record;
    if (report.kind == kernels::FaultKind::kNone) return;  // another thread was faster
    char message[kMaxMessage] = "";
    const auto describe = [&](const char* op, const char* sentence) {
      const int length = std::snprintf(message, sizeof message, "%s: ", op);
      long long value[4];
      std::copy(std::begin(report.value), std::end(report.value), value);
      std::snprintf(message + length, sizeof message - static_cast<size_t>(length), sentence,
                    value[0], value[1], value[2], value[3]);
    };
    switch (report.kind) {
      case kernels::FaultKind::kNone:
        break;
#define FAULT(kind, op, sentence) \
  case kernels::FaultKind::kind:  \
    describe(op, sentence);       \
    break;
        GATUN_FAULTS(FAULT)
#undef FAULT
    }
    fault_.record(GATUN_OUT_OF_RANGE, message);
    *faults_.record = {};
    note(cudaMemsetAsync(faults_.taken, 0, sizeof *faults_.taken, orphans_));
    note(cudaStreamSynchronize(orphans_));
  }

  void note_reserved() noexcept {
    uint64_t reserved = 0;
    if (cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved) == cudaSuccess)
      memory_.reserved.store(static_cast<int64_t>(reserved), std::memory_order_relaxed);
  }

  // Null beyond the budget, or where the GPU has no more even without what the pool holds.
  void* take(cudaStream_t stream, int64_t bytes, int purpose) {
    if (!memory_.take(bytes, purpose)) return nullptr;
    void* address = nullptr;
    cudaError_t error =
        cudaMallocFromPoolAsync(&address, static_cast<size_t>(bytes), pool_, stream);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      note(cudaDeviceSynchronize());
      cudaMemPoolTrimTo(pool_, 0);
      error = cudaMallocFromPoolAsync(&address, static_cast<size_t>(bytes), pool_, stream);
    }
    if (error == cudaSuccess) return address;
    memory_.give(bytes, purpose);
    if (error != cudaErrorMemoryAllocation) check("cudaMallocFromPoolAsync", error);
    cudaGetLastError();
    size_t left = 0, total = 0;
    check("cudaMemGetInfo", cudaMemGetInfo(&left, &total));
    memory_.device_is_full(static_cast<int64_t>(left));
    return nullptr;
  }

  // Usable by work of any stream from now on.
  void* take_for_all(int64_t bytes, int purpose) {
    void* address = take(orphans_, bytes, purpose);
    if (address != nullptr) note(cudaStreamSynchronize(orphans_));
    return address;
  }

  // As large as any op of the stream has needed. An older block is freed in stream order, after the
  // kernels that use it; a graph keeps all that its ops were given.
  void* workspace(CudaStream& stream, int64_t bytes, const char* op) {
    CudaGraph* graph = stream.capture.get();
    const Workspace current = graph == nullptr            ? stream.workspace
                              : graph->workspaces.empty() ? Workspace{}
                                                          : graph->workspaces.back();
    if (bytes <= current.bytes) return current.address;
    if (graph == nullptr)
      drop(stream);
    else
      graph->workspaces.reserve(graph->workspaces.size() + 1);
    void* address = memory_.injected(Injection::kAlloc) ? nullptr
                    : graph == nullptr ? take(stream.stream, bytes, GATUN_WORKSPACE)
                                       : take_for_all(bytes, GATUN_WORKSPACE);
    if (address == nullptr) {
      char message[kMaxMessage];
      memory_.describe_shortage(message, sizeof message, op, bytes);
      throw OutOfMemory(message);
    }
    if (graph == nullptr)
      stream.workspace = {address, bytes};
    else
      graph->workspaces.push_back({address, bytes});
    return address;
  }
  void drop(CudaStream& stream) noexcept {
    if (stream.workspace.address == nullptr) return;
    note(cudaFreeAsync(stream.workspace.address, stream.stream));
    memory_.give(stream.workspace.bytes, GATUN_WORKSPACE);
    stream.workspace = {};
  }

  static bool is_pageable(const void* address) noexcept {
    cudaPointerAttributes attributes = {};
    if (cudaPointerGetAttributes(&attributes, address) == cudaSuccess)
      return attributes.type == cudaMemoryTypeUnregistered;
    cudaGetLastError();
    return true;
  }

  // Makes the staging memory, once; false where there is none to be had.
  bool stage() noexcept {
    std::lock_guard lock(staging_.mutex);
    for (Staging::Chunk& chunk : staging_.chunks) {
      if (chunk.memory != nullptr || staging_.refused) continue;
      void* memory = nullptr;
      if (cudaEventCreate(&chunk.copied) == cudaSuccess &&
          cudaHostAlloc(&memory, Staging::kChunk, cudaHostAllocDefault) == cudaSuccess) {
        chunk.memory = static_cast<std::byte*>(memory);
      } else {
        cudaGetLastError();
        staging_.refused = true;
      }
    }
    return !staging_.refused;
  }
  void write_staged(cudaStream_t stream, std::byte* to, const std::byte* source, int64_t bytes) {
    std::lock_guard lock(staging_.mutex);
    for (int64_t at = 0, i = 0; at < bytes; at += Staging::kChunk, ++i) {
      const Staging::Chunk& chunk = staging_.chunks[i % 2];
      const auto size = static_cast<size_t>(std::min(bytes - at, Staging::kChunk));
      note(cudaEventSynchronize(chunk.copied));
      std::memcpy(chunk.memory, source + at, size);
      check("cudaMemcpyAsync",
            cudaMemcpyAsync(to + at, chunk.memory, size, cudaMemcpyHostToDevice, stream));
      check("cudaEventRecord", cudaEventRecord(chunk.copied, stream));
    }
  }
  void read_staged(cudaStream_t stream, std::byte* destination, const std::byte* from,
                   int64_t bytes) noexcept {
    std::lock_guard lock(staging_.mutex);
    const auto size = [&](int64_t at) {
      return static_cast<size_t>(std::min(bytes - at, Staging::kChunk));
    };
    const auto enqueue = [&](int64_t at) {
      if (at >= bytes) return;
      const Staging::Chunk& chunk = staging_.chunks[at / Staging::kChunk % 2];
      note(cudaEventSynchronize(chunk.copied));
      note(cudaMemcpyAsync(chunk.memory, from + at, size(at), cudaMemcpyDeviceToHost, stream));
      note(cudaEventRecord(chunk.copied, stream));
    };
    enqueue(0);
    for (int64_t at = 0; at < bytes; at += Staging::kChunk) {
      enqueue(at + Staging::kChunk);
      const Staging::Chunk& chunk = staging_.chunks[at / Staging::kChunk % 2];
      note(cudaEventSynchronize(chunk.copied));
      std::memcpy(destination + at, chunk.memory, size(at));
    }
  }

  void add_up_timings() noexcept {
    for (const Timing& timing : timings_) {
      float millis = 0;
      if (cudaEventSynchronize(timing.end) == cudaSuccess &&
          cudaEventElapsedTime(&millis, timing.start, timing.end) == cudaSuccess)
        nanos_[timing.op] += static_cast<int64_t>(static_cast<double>(millis) * 1e6);
      cudaEventDestroy(timing.start);
      cudaEventDestroy(timing.end);
    }
    timings_.clear();
  }
  void drop_timings() noexcept {
    std::lock_guard lock(timings_mutex_);
    for (const Timing& timing : timings_) {
      cudaEventDestroy(timing.start);
      cudaEventDestroy(timing.end);
    }
    timings_.clear();
  }

  const int ordinal_;
  Memory& memory_;
  int sm_count_ = 0;
  char description_[256] = "";  // the ABI's has 192
  cudaMemPool_t pool_ = nullptr;
  cudaStream_t orphans_ = nullptr;  // frees what outlives its stream
  PendingFault fault_;
  kernels::FaultSink faults_ = {nullptr, nullptr};  // what kernels report
  std::mutex faults_mutex_;
  Staging staging_;
  std::atomic<bool> profiling_{false};
  std::mutex timings_mutex_;
  std::vector<Timing> timings_;
  int64_t nanos_[kOps] = {};
};

// The number behind "cuda:", 0 without one.
int ordinal_of(const char* name) {
  const char* colon = std::strchr(name, ':');
  return colon == nullptr ? 0 : std::atoi(colon + 1);
}

gatun_status open(const char* name, const gatun_device_options&, Memory& memory, Driver** driver,
                  Failure& failure) noexcept {
  return guarded(failure, [&] {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) {
      cudaGetLastError();
      fail(GATUN_UNAVAILABLE, GATUN_DEVICE_KIND ": no GPU that CUDA can use: %s (%s); use cpu",
           cudaGetErrorString(error), cudaGetErrorName(error));
    }
    const int ordinal = ordinal_of(name);
    if (ordinal >= count)
      fail(GATUN_UNAVAILABLE,
           GATUN_DEVICE_KIND ":%d: there %s %d GPU%s here, " GATUN_DEVICE_KIND ":0%s", ordinal,
           count == 1 ? "is" : "are", count, count == 1 ? "" : "s", count > 1 ? " and so on" : "");
    auto* opened = new CudaDriver(ordinal, memory);
    try {
      opened->start();
    } catch (...) {
      opened->close();
      throw;
    }
    *driver = opened;
  });
}

constexpr Plugin kPlugin = {kPluginAbi, plugin_fingerprint(), open};

}  // namespace

int multiprocessors() {
  int device = 0, count = 0;
  check("cudaGetDevice", cudaGetDevice(&device));
  check("cudaDeviceGetAttribute",
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

void check_launch(const char* op, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  const kernels::LastLaunch& launch = kernels::last_launch;
  fail(GATUN_DEVICE_FAULT,
       "%s: CUDA refused to launch %s <<<(%u, %u, %u), (%u, %u, %u), %zu bytes>>>: %s (%s)", op,
       launch.kernel, launch.grid[0], launch.grid[1], launch.grid[2], launch.block[0],
       launch.block[1], launch.block[2], launch.shared_bytes, cudaGetErrorString(error),
       cudaGetErrorName(error));
}

}  // namespace gatun::cuda

extern "C" __attribute__((visibility("default"))) const gatun::Plugin* gatun_plugin() {
  return &gatun::cuda::kPlugin;
}
