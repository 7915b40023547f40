// The cpu device: one queue, drained by one thread that the library owns. That thread is the only
// one that enters OpenMP for this device, so there is one thread team a device, whatever number of
// threads enqueue.
#include <dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/fault.h"
#include "cpu/leaving.h"
#include "cpu/levels.h"
#include "cpu/machine.h"
#include "cpu/pool.h"
#include "cpu/queue.h"

namespace gatun::cpu {

namespace {

constexpr const char* kLevelNames[] = {"", "plain", "AVX2", "AVX-512"};

struct CpuEvent {
  std::atomic<uint64_t> ticket{0};  // of the newest record
  std::atomic<int64_t> nanos{0};
};

// Ops with their arguments, in order.
struct CpuGraph {
  std::vector<std::unique_ptr<Queue::Task>> ops;
  ~CpuGraph() {
    for (const auto& op : ops) kOpTypes[op->op].destroy(op->storage);
  }
};

// The mark of a stream or an event in the queue: several threads may move it, and it only grows.
void advance(std::atomic<uint64_t>& mark, uint64_t ticket) {
  uint64_t seen = mark.load();
  while (seen < ticket && !mark.compare_exchange_weak(seen, ticket)) {
  }
}

// All streams of a cpu device are its one queue; a stream knows how much of it concerns who waits.
struct CpuStream {
  CpuGraph* capture = nullptr;    // what gathers the ops instead
  std::atomic<uint64_t> last{0};  // of its own work and of the events that it waits for
};

class CpuDriver final : public Driver {
 public:
  CpuDriver(Memory& memory, int threads, int simd, const Backend& backend)
      : memory_(memory), pool_(memory), context_(*this), backend_(backend), simd_(simd) {
    context_.threads = threads;
  }

  void start() {
    sigset_t all, before;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, fault);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    // as much as a main thread has: ops keep tiles on their stack
    pthread_attr_setstacksize(&attributes, 8 << 20);
    // signals meant for the process belong to the threads of the language runtime
    pthread_sigmask(SIG_BLOCK, &all, &before);
    const int error = pthread_create(
        &worker_, &attributes,
        [](void* self) -> void* {
          pthread_setname_np(pthread_self(), "gatun-cpu");
          static_cast<CpuDriver*>(self)->queue_.work(self);
          return nullptr;
        },
        this);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (error != 0)
      fail(GATUN_OUT_OF_MEMORY, "cpu: the device's thread could not be started: %s",
           std::strerror(error));
    watch(queue_);
  }

  void close() noexcept override {
    forget(queue_);
    if (queue_.frozen()) return;  // the process ends, and its memory with it
    run_on_worker([](CpuDriver& self) { self.queue_.stop(); });
    pthread_join(worker_, nullptr);
    delete this;
  }

  void describe(gatun_device_info& info) noexcept override {
    info.threads = context_.threads;
    info.simd = simd_;
    std::snprintf(info.name, sizeof info.name, "cpu");
    char processor[64];
    processor_name(processor, sizeof processor);
    const dnnl_version_t* dnnl = dnnl_version();
    std::snprintf(info.description, sizeof info.description, "%s, %s, %d thread%s, oneDNN %d.%d",
                  processor, kLevelNames[simd_], context_.threads, context_.threads == 1 ? "" : "s",
                  dnnl->major, dnnl->minor);
  }

  const Backend& backend() noexcept override { return backend_; }

  // ---- streams and events ----

  gatun_status create_stream(void** stream, Failure& failure) noexcept override {
    return guarded(failure, [&] { *stream = new CpuStream; });
  }
  void destroy_stream(void* stream) noexcept override {
    drain();
    auto* self = static_cast<CpuStream*>(stream);
    delete self->capture;
    delete self;
  }

  gatun_status wait(void* stream, Failure& failure) noexcept override {
    if (stream == nullptr)
      drain();
    else
      queue_.wait(static_cast<CpuStream*>(stream)->last.load());
    return finished(failure);
  }
  void drain() noexcept override { queue_.wait(queue_.last()); }

  gatun_status create_event(void** event, Failure& failure) noexcept override {
    return guarded(failure, [&] { *event = new CpuEvent; });
  }
  void destroy_event(void* event) noexcept override {
    auto* self = static_cast<CpuEvent*>(event);
    queue_.wait(self->ticket.load());
    delete self;
  }
  gatun_status record(void* event, void* stream, Failure&) noexcept override {
    auto* self = static_cast<CpuEvent*>(event);
    const uint64_t ticket = add(stream, [&](Queue::Task& task) {
      task.run = [](void*, Queue::Task& task) {
        CpuEvent* event;
        std::memcpy(&event, task.storage, sizeof event);
        event->nanos.store(now_nanos(), std::memory_order_release);
      };
      std::memcpy(task.storage, &self, sizeof self);
    });
    advance(self->ticket, ticket);
    return GATUN_OK;
  }
  gatun_status stream_wait(void* stream, void* event, Failure&) noexcept override {
    advance(static_cast<CpuStream*>(stream)->last, static_cast<CpuEvent*>(event)->ticket.load());
    return GATUN_OK;
  }
  gatun_status event_wait(void* event, Failure& failure) noexcept override {
    queue_.wait(static_cast<CpuEvent*>(event)->ticket.load());
    return finished(failure);
  }
  gatun_status elapsed(void* start, void* end, double* millis, Failure&) noexcept override {
    auto* first = static_cast<CpuEvent*>(start);
    auto* second = static_cast<CpuEvent*>(end);
    queue_.wait(first->ticket.load());
    queue_.wait(second->ticket.load());
    *millis = static_cast<double>(second->nanos.load() - first->nanos.load()) * 1e-6;
    return GATUN_OK;
  }

  // ---- memory ----

  gatun_status allocate(void*, int64_t bytes, gatun_purpose purpose, void** address,
                        Failure& failure) noexcept override {
    return guarded(failure, [&] {
      *address = pool_.allocate(bytes, purpose, queue_.completed(), Use::kQueued);
      if (*address != nullptr) return;
      // once more without what the cache and the workspace hold
      free_caches();
      *address = pool_.allocate(bytes, purpose, queue_.completed(), Use::kQueued);
      if (*address == nullptr) throw OutOfMemory("");
    });
  }
  void release(void*, void* address, int64_t bytes, gatun_purpose purpose) noexcept override {
    try {
      pool_.release(address, bytes, purpose, queue_.last());
    } catch (const std::bad_alloc&) {
      // no memory to note the block as free: it stays taken until the device closes
    }
  }
  gatun_status trim(Failure& failure) noexcept override {
    return guarded(failure, [&] { free_caches(); });
  }
  gatun_status wrap(void*, int64_t, Failure&) noexcept override { return GATUN_OK; }

  gatun_status write(void* stream, void* to, const void* source, int64_t bytes,
                     Failure&) noexcept override {
    struct Copy {
      void* to;
      size_t bytes;
      std::byte* staged;  // null: the bytes follow
    };
    const auto size = static_cast<size_t>(bytes);
    std::byte* staged = nullptr;
    if (size > kMaxArgs - sizeof(Copy)) {
      // A large copy waits for the queue: staging it would cost as much memory again.
      if (size <= kLargestStaged) staged = static_cast<std::byte*>(std::malloc(size));
      if (staged == nullptr) {
        drain();
        std::memcpy(to, source, size);
        return GATUN_OK;
      }
      std::memcpy(staged, source, size);
    }
    add(stream, [&](Queue::Task& task) {
      const Copy copy{to, size, staged};
      std::memcpy(task.storage, &copy, sizeof copy);
      if (staged == nullptr) std::memcpy(task.storage + sizeof copy, source, size);
      task.run = [](void*, Queue::Task& task) {
        Copy copy;
        std::memcpy(&copy, task.storage, sizeof copy);
        std::memcpy(copy.to, copy.staged != nullptr ? copy.staged : task.storage + sizeof copy,
                    copy.bytes);
        std::free(copy.staged);
      };
    });
    return GATUN_OK;
  }
  gatun_status read(void* stream, void* destination, const void* from, int64_t bytes,
                    Failure& failure) noexcept override {
    queue_.wait(static_cast<CpuStream*>(stream)->last.load());
    std::memcpy(destination, from, static_cast<size_t>(bytes));
    return finished(failure);
  }

  // ---- ops ----

  gatun_status submit(void* stream, Op op, void* args, Failure& failure) noexcept override {
    if (op == Op::matmul && !onednn_is_up().load(std::memory_order_acquire)) set_up_onednn();
    if (CpuGraph* capture = static_cast<CpuStream*>(stream)->capture)
      return guarded(failure, [&] {
        auto task = std::make_unique<Queue::Task>();
        task->op = static_cast<int32_t>(op);
        capture->ops.reserve(capture->ops.size() + 1);
        type_of(op).move(task->storage, args);
        capture->ops.push_back(std::move(task));
      });
    add(stream, [&](Queue::Task& task) {
      task.op = static_cast<int32_t>(op);
      type_of(op).move(task.storage, args);
      task.run = [](void* owner, Queue::Task& task) { static_cast<CpuDriver*>(owner)->run(task); };
    });
    return GATUN_OK;
  }

  // ---- graphs ----

  gatun_status begin_capture(void* stream, Failure& failure) noexcept override {
    return guarded(failure, [&] { static_cast<CpuStream*>(stream)->capture = new CpuGraph; });
  }
  gatun_status end_capture(void* stream, void** graph, Failure&) noexcept override {
    *graph = std::exchange(static_cast<CpuStream*>(stream)->capture, nullptr);
    return GATUN_OK;
  }
  gatun_status launch(void* stream, void* graph, Failure&) noexcept override {
    add(stream, [&](Queue::Task& task) {
      std::memcpy(task.storage, &graph, sizeof graph);
      task.run = [](void* owner, Queue::Task& task) {
        const CpuGraph* graph;
        std::memcpy(&graph, task.storage, sizeof graph);
        for (const auto& op : graph->ops) static_cast<CpuDriver*>(owner)->execute(*op);
      };
    });
    return GATUN_OK;
  }
  void destroy_graph(void* graph) noexcept override {
    drain();
    delete static_cast<CpuGraph*>(graph);
  }

  // ---- profile ----

  void profile(bool on) noexcept override {
    if (on)
      for (std::atomic<int64_t>& nanos : nanos_) nanos.store(0);
    profiling_.store(on);
  }
  void profile_nanos(int64_t nanos[kOps]) noexcept override {
    for (int i = 0; i < kOps; ++i) nanos[i] = nanos_[i].load();
  }

 private:
  // Copies up to this size are staged, so that uploading a batch does not wait for the queue.
  static constexpr size_t kLargestStaged = 256 << 10;

  class WorkerContext final : public Context {
   public:
    explicit WorkerContext(CpuDriver& driver) : driver_(driver) {}
    void* workspace(size_t bytes) override { return driver_.workspace(bytes); }
    void fault(gatun_status status, const char* op, const char* format, ...) override
        __attribute__((format(printf, 4, 5))) {
      char sentence[kMaxMessage];
      va_list arguments;
      va_start(arguments, format);
      std::vsnprintf(sentence, sizeof sentence, format, arguments);
      va_end(arguments);
      char message[kMaxMessage];
      std::snprintf(message, sizeof message, "%s: %.*s", op, static_cast<int>(kMaxMessage) - 64,
                    sentence);
      driver_.fault_.record(status, message);
    }

   private:
    CpuDriver& driver_;
  };

  template <typename Fill>
  uint64_t add(void* stream, Fill fill) {
    const uint64_t ticket = queue_.add(fill);
    advance(static_cast<CpuStream*>(stream)->last, ticket);
    return ticket;
  }

  // What a wait has to report.
  gatun_status finished(Failure& failure) noexcept {
    if (queue_.frozen() && queue_.completed() < queue_.last())
      fault_.record(GATUN_DEVICE_FAULT, "cpu: the process ends, the work that was left is dropped");
    return fault_.take(failure);
  }

  // oneDNN sets itself up in its first product, for some 80 ms. On the worker, while the caller
  // waits, so that a process that ends right after the call is not caught in the middle of it.
  void set_up_onednn() {
    static std::once_flag& once = *new std::once_flag;
    std::call_once(once, [this] {
      run_on_worker([](CpuDriver&) {
        float a[64] = {}, b[64] = {}, c[64] = {};
        omp_set_num_threads(1);
        for (const dnnl_dim_t n : {8, 1}) dnnl_sgemm('N', 'N', 8, n, 8, 1, a, 8, b, 8, 0, c, 8);
        guard_statics();
      });
      onednn_is_up().store(true, std::memory_order_release);
    });
  }
  static std::atomic<bool>& onednn_is_up() {
    static std::atomic<bool> up{false};
    return up;
  }

  void run(Queue::Task& task) noexcept {
    const bool timed = profiling_.load(std::memory_order_relaxed);
    const int64_t begin = timed ? now_nanos() : 0;
    execute(task);
    if (timed) nanos_[task.op].fetch_add(now_nanos() - begin, std::memory_order_relaxed);
    kOpTypes[task.op].destroy(task.storage);
  }

  void execute(const Queue::Task& task) noexcept {
    const OpType& type = kOpTypes[task.op];
    running_ = type.name;
    try {
      type.run(backend_, context_, task.storage);
    } catch (const Error& e) {
      fault_.record(e.status, e.what());
    } catch (const std::bad_alloc&) {
      context_.fault(GATUN_OUT_OF_MEMORY, type.name, "the host has no memory left");
    } catch (const std::exception& e) {
      context_.fault(GATUN_INTERNAL, type.name, "%s", e.what());
    } catch (...) {
      context_.fault(GATUN_INTERNAL, type.name, "an unknown exception");
    }
  }

  // On the worker. One block, as large as any op has needed: the high-water mark.
  void* workspace(size_t bytes) {
    const auto wanted = static_cast<int64_t>(bytes);
    if (wanted <= workspace_bytes_ && workspace_ != nullptr) return workspace_;
    const uint64_t done = queue_.completed();
    drop_workspace();
    if (!injected(Injection::kAlloc)) {
      workspace_ = pool_.allocate(std::max<int64_t>(wanted, 64), GATUN_WORKSPACE, done, Use::kNow);
      if (workspace_ == nullptr) {
        pool_.trim(done);
        workspace_ =
            pool_.allocate(std::max<int64_t>(wanted, 64), GATUN_WORKSPACE, done, Use::kNow);
      }
    }
    if (workspace_ == nullptr) {
      char message[kMaxMessage];
      memory_.describe_shortage(message, sizeof message, running_, wanted);
      throw OutOfMemory(message);
    }
    workspace_bytes_ = std::max<int64_t>(wanted, 64);
    return workspace_;
  }
  void drop_workspace() {
    // nothing that is enqueued uses it: each op asks for its own
    if (workspace_ != nullptr) pool_.release(workspace_, workspace_bytes_, GATUN_WORKSPACE, 0);
    workspace_ = nullptr;
    workspace_bytes_ = 0;
  }

  void run_on_worker(void (*body)(CpuDriver&)) {
    queue_.wait(queue_.add([&](Queue::Task& task) {
      std::memcpy(task.storage, &body, sizeof body);
      task.run = [](void* owner, Queue::Task& task) {
        void (*body)(CpuDriver&);
        std::memcpy(&body, task.storage, sizeof body);
        body(*static_cast<CpuDriver*>(owner));
      };
    }));
  }

  void free_caches() {
    run_on_worker([](CpuDriver& self) {
      try {
        self.drop_workspace();
        self.pool_.trim(self.queue_.completed());
      } catch (const std::bad_alloc&) {
        // nothing freed is not an error of the caller
      }
    });
  }

  Memory& memory_;
  Pool pool_;
  Queue queue_;
  PendingFault fault_;
  WorkerContext context_;
  const Backend& backend_;
  const int simd_;
  pthread_t worker_{};
  const char* running_ = "";
  void* workspace_ = nullptr;
  int64_t workspace_bytes_ = 0;
  std::atomic<bool> profiling_{false};
  std::atomic<int64_t> nanos_[kOps] = {};
};

}  // namespace

gatun_status open(const gatun_device_options& options, Memory& memory, Driver** driver,
                  Failure& failure) noexcept {
  return guarded(failure, [&] {
    const int best = best_simd();
    if (best == 0)
      fail(GATUN_UNAVAILABLE, "cpu: this processor lacks SSE4.2 and POPCNT (x86-64-v2)");
    const int simd = options.simd == 0 ? best : options.simd;
    if (simd > best)
      fail(GATUN_UNAVAILABLE, "cpu: this processor has no %s, its best level is %s",
           kLevelNames[simd], kLevelNames[best]);
    const Backend& backend = simd == 3   ? gatun_backend_avx512
                             : simd == 2 ? gatun_backend_avx2
                                         : gatun_backend_plain;
    if (memory.budget == 0) memory.budget = free_memory() / 10 * 8;
    const int threads = options.threads > 0 ? options.threads : usable_cores();
    auto opened = std::make_unique<CpuDriver>(memory, threads, simd, backend);
    opened->start();
    *driver = opened.release();
  });
}

}  // namespace gatun::cpu
