// What AddressSanitizer and ThreadSanitizer must be told of this runtime: its switches of stacks,
// memory that belongs to nobody, and which meetings of threads order their accesses to memory. The
// kernels are instrumented, the sources of this folder are not. In a plain build all of it is
// empty.
//
// GATUN_SIM_ASAN, GATUN_SIM_TSAN: the sanitizer that the program is linked with.
#pragma once

#include <cstddef>

#if defined(GATUN_SIM_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(GATUN_SIM_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace simt::sanitizer {

#if defined(GATUN_SIM_ASAN) || defined(GATUN_SIM_TSAN)
constexpr size_t kStackFactor = 4;  // frames of instrumented code are larger
#else
constexpr size_t kStackFactor = 1;
#endif

// Blocks that a worker runs one after another are not ordered, so neighbours use different fibres,
// stacks and shared memory: a block is ordered only after the one before the last.
#if defined(GATUN_SIM_TSAN)
constexpr unsigned kSets = 2;
#else
constexpr unsigned kSets = 1;
#endif

// A stack that is switched from and to.
struct Side {
  void* context = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
};

// The thread's own stack.
inline void adopt([[maybe_unused]] Side& side, [[maybe_unused]] const void* bottom,
                  [[maybe_unused]] size_t size) {
#if defined(GATUN_SIM_ASAN)
  side.bottom = bottom;
  side.size = size;
#elif defined(GATUN_SIM_TSAN)
  side.context = __tsan_get_current_fiber();
#endif
}

// A new life on this stack.
inline void begin([[maybe_unused]] Side& side, [[maybe_unused]] void* bottom,
                  [[maybe_unused]] size_t size) {
#if defined(GATUN_SIM_ASAN)
  side = {nullptr, bottom, size};
  __asan_unpoison_memory_region(bottom, size);  // frames that were left and not returned from
#elif defined(GATUN_SIM_TSAN)
  if (side.context == nullptr) side.context = __tsan_create_fiber(0);
#endif
}

// Just before a switch, and just after it on the other stack.
inline void leave([[maybe_unused]] Side& from, [[maybe_unused]] const Side& to,
                  [[maybe_unused]] bool for_good) {
#if defined(GATUN_SIM_ASAN)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.context, to.bottom, to.size);
#elif defined(GATUN_SIM_TSAN)
  __tsan_switch_to_fiber(to.context, __tsan_switch_to_fiber_no_sync);
#endif
}
inline void arrive([[maybe_unused]] Side& at) {
#if defined(GATUN_SIM_ASAN)
  __sanitizer_finish_switch_fiber(at.context, nullptr, nullptr);
#endif
}

// Nobody may touch these bytes; now they are somebody's.
inline void fence([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#if defined(GATUN_SIM_ASAN)
  __asan_poison_memory_region(p, bytes);
#endif
}
inline void unfence([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#if defined(GATUN_SIM_ASAN)
  __asan_unpoison_memory_region(p, bytes);
#endif
}

// What the calling thread did before `release` comes before what another does after `acquire`.
// Successive meetings alternate between two objects: one alone would order those who leave late
// after those who come early to the next, and so hide that they race.
struct Order {
  char object[2];
};
inline void release([[maybe_unused]] Order& order, [[maybe_unused]] unsigned phase = 0) {
#if defined(GATUN_SIM_TSAN)
  __tsan_release(&order.object[phase % 2]);
#endif
}
inline void acquire([[maybe_unused]] Order& order, [[maybe_unused]] unsigned phase = 0) {
#if defined(GATUN_SIM_TSAN)
  __tsan_acquire(&order.object[phase % 2]);
#endif
}

// It was left in the middle and will not be resumed: what it did comes before what the caller does.
inline void abandon([[maybe_unused]] Side& side, [[maybe_unused]] const Side& caller,
                    [[maybe_unused]] Order& order) {
#if defined(GATUN_SIM_TSAN)
  if (side.context == nullptr) return;
  __tsan_switch_to_fiber(side.context, __tsan_switch_to_fiber_no_sync);
  release(order);
  __tsan_switch_to_fiber(caller.context, __tsan_switch_to_fiber_no_sync);
  acquire(order);
  __tsan_destroy_fiber(side.context);
  side.context = nullptr;
#endif
}

// While one lives, this thread's calls of malloc, memmove, … are the runtime's own business.
struct Ignore {
#if defined(GATUN_SIM_TSAN)
  Ignore() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Ignore() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  Ignore(const Ignore&) = delete;
#else
  Ignore() {}
#endif
};

}  // namespace simt::sanitizer
