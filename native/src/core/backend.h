// What a device offers: one function an op. The core calls them with checked arguments, in stream
// order; the cpu device from its queue's thread, the cuda device from the caller's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gatun.h"
#include "ops/args.h"

namespace gatun {

// What an op may use while it runs.
struct Context {
  int threads = 1;                // cpu: for `#pragma omp parallel num_threads(context.threads)`
  void* native_stream = nullptr;  // cuda: the cudaStream_t
  void* native_faults = nullptr;  // cuda: the kernels::FaultSink of the device

  // Scratch of the stream, aligned to 64, valid until the op returns (cuda: in stream order until
  // the next op). One call an op; throws OutOfMemory (core/error.h) beyond the budget.
  virtual void* workspace(size_t bytes) = 0;

  // Records a fault that the next wait reports; the first one of a device wins. Callable from any
  // thread of the op. `op` is the op's name without gatun_.
  virtual void fault(gatun_status status, const char* op, const char* format, ...)
      __attribute__((format(printf, 4, 5))) = 0;

 protected:
  ~Context() = default;
};

// An empty slot is GATUN_UNSUPPORTED. Functions may throw: the core turns that into a fault.
struct Backend {
#define OP(name, Args) void (*name)(Context&, const Args&) = nullptr;
#include "ops/ops.def"
#undef OP
};

}  // namespace gatun
