// The threads of the simulated device: fibres, warps, barriers, workers, and what happens to a
// kernel that faults.
#include "simt.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

namespace simt {

__thread Fibre* current __attribute__((tls_model("initial-exec"))) = nullptr;

// ---- switching stacks ----

extern "C" {
// Saves the callee's registers and the stack pointer, and goes on where `to` was saved.
void gatun_simt_switch(void** save, void* to) __attribute__((visibility("hidden")));
// The second half of it: what a signal handler returns to.
void gatun_simt_resume() __attribute__((visibility("hidden")));
}
asm(R"(
  .text
  .p2align 4
  .hidden gatun_simt_switch
  .globl gatun_simt_switch
  .type gatun_simt_switch, @function
gatun_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  .hidden gatun_simt_resume
  .globl gatun_simt_resume
gatun_simt_resume:
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size gatun_simt_switch, .-gatun_simt_switch
)");

namespace {

constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostWarps = kMostThreads / 32;
constexpr unsigned kMostWorkers = 8;  // each may hold 2 x 1024 mappings of the process's 65530
constexpr size_t kStack = sanitizer::kStackFactor * (64 << 10);
constexpr size_t kGuard = 4096;
constexpr size_t kMostShared = 227 << 10;  // that a block may ask for on compute capability 9.0
constexpr size_t kSharedBase = 1024;       // its alignment
constexpr size_t kTail = 64;               // canaries behind the shared memory
constexpr size_t kMostMessage = 400;
constexpr int kBarriers = 16;
constexpr uintptr_t kNear = 256;  // so close to an allocation, an address was meant for it

// Lanes that wait for each other.
struct Meeting {
  const char* op;
  uint32_t mask;
  Where where;
  uint32_t arrived;
  Operand* lanes[32];
};

// One instruction of a warp, as far as its lanes have run it.
struct Request {
  Where where;
  size_t size;
  uint32_t lanes;
  uintptr_t address[32];
  unsigned char bytes[32];
};

// A cp.async that the thread has not waited for.
struct Copy {
  unsigned char* to;
  const unsigned char* from;
  int size, bytes;
  unsigned group;
  Where where;
};

struct Warp {
  uint32_t exists, ready, exited, at_barrier;
  unsigned epoch;
  unsigned meeting_count;
  Meeting meetings[32];
  unsigned syncs;  // sync_warp's that are over
  sanitizer::Order order[sanitizer::kSets];
  std::vector<Request> requests[kAccesses];
  size_t request_count[kAccesses];
};

struct Barrier {
  unsigned arrived, wanted;
  Where where;
  uint32_t waiting[kMostWarps];
  unsigned phase;
};

// What the threads of one block have to themselves.
struct Set {
  std::unique_ptr<Fibre[]> fibres{new Fibre[kMostThreads]};
  char* stacks = nullptr;  // kMostThreads of kGuard + kStack
  unsigned stack_count = 0;
  std::vector<unsigned char> shared = std::vector<unsigned char>(kMostShared + kTail + kSharedBase);
  sanitizer::Order begin = {}, end = {};
  sanitizer::Order barriers[kBarriers] = {};
};

// A bit for each byte of an allocation: those that a launch touched.
class Touched {
 public:
  explicit Touched(Range range)
      : words_((range.last - range.first + 63) / 64),
        bits_(static_cast<uint64_t*>(std::calloc(words_, sizeof(uint64_t)))) {}
  // Bytes at, … at + bytes - 1 of it, within an aligned 16.
  void add(size_t at, size_t bytes) {
    if (bits_ == nullptr) return;
    uint64_t* word = bits_.get() + at / 64;
    const uint64_t more = ((uint64_t{1} << bytes) - 1) << at % 64;
    if ((__atomic_load_n(word, __ATOMIC_RELAXED) & more) != more)
      __atomic_fetch_or(word, more, __ATOMIC_RELAXED);
  }
  int64_t bytes() const {
    int64_t total = 0;
    for (size_t i = 0; bits_ != nullptr && i < words_; ++i) total += std::popcount(bits_.get()[i]);
    return total;
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  size_t words_;
  std::unique_ptr<uint64_t, Free> bits_;  // null where the host has no memory for it
};

struct Job {
  const Launch* launch;
  Options options;
  bool count_memory;
  std::vector<Range> memory;
  std::vector<Touched> read, written;  // of each of `memory`, while that is counted
  uint64_t blocks, stride, offset;
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::string message;
};

bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }
bool same(Where a, Where b) { return a.line == b.line && same(a.file, b.file); }

const char* base_name(const char* file) {
  const char* slash = std::strrchr(file, '/');
  return slash == nullptr ? file : slash + 1;
}

struct Place {
  char text[96];
  explicit Place(Where where) {
    if (where.line == 0)
      std::snprintf(text, sizeof text, "the kernel's start");
    else
      std::snprintf(text, sizeof text, "%.80s:%d", base_name(where.file), where.line);
  }
};

}  // namespace

struct Worker {
  BlockState block;
  void* host_stack_pointer = nullptr;
  sanitizer::Side host;
  Job* job = nullptr;
  Set sets[sanitizer::kSets];
  unsigned set = 0;  // of the block

  unsigned threads = 0, warps = 0, exited = 0;
  uint32_t ready_warps = 0;
  unsigned barrier_arrivals = 0;
  uint64_t random = 1;
  Barrier barriers[kBarriers];
  std::unique_ptr<Warp[]> warp{new Warp[kMostWarps]};
  std::unique_ptr<std::vector<Copy>[]> copies { new std::vector<Copy>[ kMostThreads ] };
  Range last_hit = {0, 0};
  size_t last_index = 0;  // of that range in the job's memory

  bool failed = false;
  char message[kMostMessage] = "";
  // What the signal handler saw.
  volatile int signal = 0;
  Fibre* volatile faulting = nullptr;
  void* volatile fault_address = nullptr;

  Counters counters = {};

  uint64_t draw() {  // xorshift64
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random;
  }
};

namespace {

Order order_of(const Worker& worker) { return worker.job->options.order; }

unsigned pick_bit(Worker& worker, uint32_t bits, unsigned from) {
  switch (order_of(worker)) {
    case Order::kForward: {
      const uint32_t later = from < 32 ? bits & ~((uint32_t{1} << from) - 1) : 0;
      return static_cast<unsigned>(std::countr_zero(later != 0 ? later : bits));
    }
    case Order::kReverse: {
      const uint32_t earlier = from < 31 ? bits & ((uint32_t{2} << from) - 1) : bits;
      return 31 - static_cast<unsigned>(std::countl_zero(earlier != 0 ? earlier : bits));
    }
    case Order::kRandom: {
      unsigned skip =
          static_cast<unsigned>(worker.draw() >> 33) % static_cast<unsigned>(std::popcount(bits));
      while (skip-- > 0) bits &= bits - 1;
      return static_cast<unsigned>(std::countr_zero(bits));
    }
  }
  return 0;
}

// The next thread to run, or null. A warp runs on while one of its lanes can.
Fibre* pick(Worker& worker, unsigned warp) {
  if (worker.ready_warps == 0) return nullptr;
  const bool stay = (worker.ready_warps >> warp & 1) != 0 &&
                    (order_of(worker) != Order::kRandom || worker.draw() >> 60 != 0);
  if (!stay) warp = pick_bit(worker, worker.ready_warps, warp);
  const bool up = order_of(worker) != Order::kReverse;
  return &worker.sets[worker.set]
              .fibres[warp * 32 + pick_bit(worker, worker.warp[warp].ready, up ? 0 : 31)];
}

void make_ready(Worker& worker, unsigned warp, uint32_t lanes) {
  worker.warp[warp].ready |= lanes;
  if (worker.warp[warp].ready != 0) worker.ready_warps |= uint32_t{1} << warp;
}

void make_waiting(Worker& worker, unsigned warp, uint32_t lanes) {
  worker.warp[warp].ready &= ~lanes;
  if (worker.warp[warp].ready == 0) worker.ready_warps &= ~(uint32_t{1} << warp);
}

[[noreturn]] void leave_block(Fibre* self) {
  Worker& worker = *self->block->worker;
  current = nullptr;
  sanitizer::leave(self->side, worker.host, true);
  gatun_simt_switch(&self->stack_pointer, worker.host_stack_pointer);
  std::abort();  // an abandoned fibre is never resumed
}

void append(char* text, size_t& length, const char* format, ...)
    __attribute__((format(printf, 3, 4)));
void append(char* text, size_t& length, const char* format, ...) {
  if (length + 1 >= kMostMessage) return;
  va_list arguments;
  va_start(arguments, format);
  const int more = std::vsnprintf(text + length, kMostMessage - length, format, arguments);
  va_end(arguments);
  if (more > 0) length = std::min(length + static_cast<size_t>(more), kMostMessage - 1);
}

[[noreturn]] void deadlock(Worker& worker) {
  char text[kMostMessage];
  size_t length = 0;
  append(text, length, "DEADLOCK: no thread can go on");
  for (int id = 0; id < kBarriers; ++id)
    if (worker.barriers[id].arrived > 0)
      append(text, length, "; %u of %u threads at barrier %d (%s)", worker.barriers[id].arrived,
             worker.barriers[id].wanted, id, Place(worker.barriers[id].where).text);
  for (unsigned w = 0; w < worker.warps; ++w)
    for (unsigned i = 0; i < worker.warp[w].meeting_count; ++i) {
      const Meeting& m = worker.warp[w].meetings[i];
      append(text, length, "; warp %u: lanes %08x of %08x at %s (%s)", w, m.arrived, m.mask, m.op,
             Place(m.where).text);
    }
  fail_kernel("%s", text);
}

// Gives the processor to a thread that can run; returns when this one can and is chosen.
void reschedule(bool for_good = false) {
  Fibre* self = current;
  Worker& worker = *self->block->worker;
  Fibre* next = pick(worker, self->number / 32);
  if (next == self) return;
  if (next == nullptr) {
    if (worker.exited == worker.threads) leave_block(self);
    deadlock(worker);
  }
  current = next;
  sanitizer::leave(self->side, next->side, for_good);
  gatun_simt_switch(&self->stack_pointer, next->stack_pointer);
  sanitizer::arrive(self->side);
}

int64_t sectors_of(const Request& request) {
  uintptr_t sectors[32];
  unsigned count = 0;
  for (uint32_t lanes = request.lanes; lanes != 0; lanes &= lanes - 1) {
    const int lane = std::countr_zero(lanes);
    if (request.bytes[lane] != 0) sectors[count++] = request.address[lane] / 32;
  }
  if (!std::is_sorted(sectors, sectors + count)) std::sort(sectors, sectors + count);
  return std::unique(sectors, sectors + count) - sectors;
}

// Of the lanes that shared memory serves at once: the most different words that a bank is asked
// for.
int64_t wavefronts_of(const Request& request, uint32_t lanes) {
  uintptr_t words[32];
  unsigned count = 0;
  for (; lanes != 0; lanes &= lanes - 1) {
    const uintptr_t address = request.address[std::countr_zero(lanes)];
    for (uintptr_t at = address / 4; at <= (address + request.size - 1) / 4; ++at)
      words[count++] = at;
  }
  std::sort(words, words + count);
  unsigned in_bank[32] = {};
  unsigned most = 0;
  for (unsigned i = 0; i < count; ++i)
    if (i == 0 || words[i] != words[i - 1]) most = std::max(most, ++in_bank[words[i] % 32]);
  return most;
}

void count(Counters::Global& total, const Request& request) {
  ++total.requests;
  for (uint32_t lanes = request.lanes; lanes != 0; lanes &= lanes - 1)
    total.bytes += request.bytes[std::countr_zero(lanes)];
  total.sectors += sectors_of(request);
}

void count(Counters::Shared& total, const Request& request) {
  ++total.requests;
  total.bytes += static_cast<int64_t>(request.size) * std::popcount(request.lanes);
  const unsigned at_once = request.size == 16 ? 8 : request.size == 8 ? 16 : 32;
  for (unsigned first = 0; first < 32; first += at_once) {
    const uint32_t lanes = request.lanes & (kWholeWarp >> (32 - at_once)) << first;
    if (lanes == 0) continue;
    ++total.phases;
    total.wavefronts += wavefronts_of(request, lanes);
  }
}

void count(Counters& total, Access access, const Request& request) {
  switch (access) {
    case Access::kLoad:
      return count(total.load, request);
    case Access::kStore:
      return count(total.store, request);
    case Access::kAtomic:
      return count(total.atomic, request);
    case Access::kCopyLoad:
      return count(total.copy_load, request);
    case Access::kSharedLoad:
      return count(total.shared_load, request);
    case Access::kSharedStore:
      return count(total.shared_store, request);
    case Access::kMatrix:
      return count(total.matrix, request);
    case Access::kCopyStore:
      return count(total.copy_store, request);
  }
}

void forget_requests(Fibre& fibre) {
  std::fill(fibre.noted, fibre.noted + kAccesses, 0);
  std::fill(fibre.after, fibre.after + kAccesses, 0);
}

// Adds up what the lanes of a warp asked of memory since they last met.
void count_requests(Worker& worker, Warp& warp) {
  if (!worker.job->count_memory) return;
  for (int access = 0; access < kAccesses; ++access) {
    for (size_t i = 0; i < warp.request_count[access]; ++i)
      count(worker.counters, static_cast<Access>(access), warp.requests[access][i]);
    warp.request_count[access] = 0;
  }
  ++warp.epoch;
}

// Notes a lane's part in the first instruction at this place that it has not run yet; lanes may
// have come here by different ways.
void note_request(Worker& worker, uintptr_t at, size_t size, size_t bytes, Access access,
                  Where where) {
  const sanitizer::Ignore ignore;
  Fibre* self = current;
  const unsigned lane = self->number % 32;
  const uint32_t bit = uint32_t{1} << lane;
  Warp& warp = worker.warp[self->number / 32];
  if (self->epoch != warp.epoch) {
    self->epoch = warp.epoch;
    forget_requests(*self);
  }
  const int a = static_cast<int>(access);
  std::vector<Request>& requests = warp.requests[a];
  size_t& count = warp.request_count[a];
  const auto find = [&](size_t from, size_t to) {
    while (from < to && ((requests[from].lanes & bit) != 0 || requests[from].size != size ||
                         !same(requests[from].where, where)))
      ++from;
    return from;
  };
  const size_t after = self->after[a];
  size_t index = find(after, count);
  if (index == count && self->noted[a] != after) {  // it has passed some
    index = find(0, after);
    if (index == after) index = count;
  }
  ++self->noted[a];
  self->after[a] = static_cast<unsigned>(std::max(after, index + 1));
  if (index == count) {
    ++count;
    if (index >= requests.size()) requests.resize(index + 1);
    requests[index].where = where;
    requests[index].size = size;
    requests[index].lanes = 0;
  }
  requests[index].lanes |= bit;
  requests[index].address[lane] = at;
  requests[index].bytes[lane] = static_cast<unsigned char>(bytes);
}

void leave_kernel() {
  Fibre* self = current;
  Worker& worker = *self->block->worker;
  const unsigned w = self->number / 32;
  const uint32_t bit = uint32_t{1} << self->number % 32;
  Warp& warp = worker.warp[w];
  for (unsigned i = 0; i < warp.meeting_count; ++i)
    if ((warp.meetings[i].mask & bit) != 0)
      fail_kernel("it leaves the kernel while lanes %08x await it at %s (%s)",
                  warp.meetings[i].arrived, warp.meetings[i].op,
                  Place(warp.meetings[i].where).text);
  if (worker.barriers[0].arrived > 0)
    fail_kernel("it leaves the kernel while %u threads wait at __syncthreads (%s)",
                worker.barriers[0].arrived, Place(worker.barriers[0].where).text);
  // it would land in what the next block on this multiprocessor has there, or later in this one's
  if (const std::vector<Copy>& copies = worker.copies[self->number]; !copies.empty())
    fail_kernel("it leaves the kernel without waiting for its cp_async at %s",
                Place(copies.front().where).text);
  warp.exited |= bit;
  ++worker.exited;
  make_waiting(worker, w, bit);
  sanitizer::release(worker.sets[worker.set].end);
  reschedule(true);
  std::abort();  // nobody resumes a thread that left
}

[[noreturn]] void fibre_main() {
  Fibre* self = current;
  sanitizer::arrive(self->side);
  sanitizer::acquire(self->block->worker->sets[self->block->worker->set].begin);
  try {
    self->block->worker->job->launch->body();
  } catch (const std::exception& e) {
    fail_kernel("exception: %s", e.what());
  } catch (...) {
    fail_kernel("an unknown exception");
  }
  leave_kernel();
  std::abort();
}

char* stack_of(Set& set, unsigned thread) {
  return set.stacks + thread * (kGuard + kStack) + kGuard;
}

// False when the process may have no more memory.
bool make_stacks(Set& set, unsigned count) {
  if (set.stacks == nullptr) {
    void* all = mmap(nullptr, kMostThreads * (kGuard + kStack), PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return false;
    set.stacks = static_cast<char*>(all);
  }
  for (; set.stack_count < count; ++set.stack_count)
    if (mprotect(stack_of(set, set.stack_count), kStack, PROT_READ | PROT_WRITE) != 0) return false;
  return true;
}

void prepare(Worker& worker, unsigned number) {
  Set& set = worker.sets[worker.set];
  Fibre& fibre = set.fibres[number];
  sanitizer::begin(fibre.side, stack_of(set, number), kStack);
  fibre.block = &worker.block;
  const dim3 shape = worker.block.shape;
  fibre.thread = {number % shape.x, number / shape.x % shape.y, number / shape.x / shape.y};
  fibre.number = number;
  fibre.epoch = 0;
  forget_requests(fibre);
  fibre.groups = 0;
  worker.copies[number].clear();
  fibre.where = {};
  // Staggered, or the tops of all stacks would share the same few sets of the L1 cache.
  char* top = stack_of(set, number) + kStack - (number * 448 & 4095);
  void** at = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
  *--at = nullptr;  // fibre_main's return address: the end of the stack for whoever walks it
  *--at = reinterpret_cast<void*>(&fibre_main);
  for (int i = 0; i < 6; ++i) *--at = nullptr;
  fibre.stack_pointer = at;
}

void describe_fault(Worker& worker) {
  const Fibre& fibre = *worker.faulting;
  const char* address = static_cast<const char*>(worker.fault_address);
  const char* stack = stack_of(worker.sets[worker.set], fibre.number);
  const char* what = worker.signal == SIGFPE   ? "SIGFPE (integer division by zero)"
                     : worker.signal == SIGBUS ? "SIGBUS"
                                               : "SIGSEGV";
  if (worker.signal == SIGSEGV && address >= stack - kGuard && address < stack)
    std::snprintf(worker.message, sizeof worker.message,
                  "STACK OVERFLOW: it uses more than %zu kB of stack, after %s", kStack >> 10,
                  Place(fibre.where).text);
  else if (worker.signal == SIGFPE)
    std::snprintf(worker.message, sizeof worker.message, "%s, after %s", what,
                  Place(fibre.where).text);
  else
    std::snprintf(worker.message, sizeof worker.message, "%s at address %p, after %s", what,
                  static_cast<const void*>(address), Place(fibre.where).text);
}

void run_block(Worker& worker, uint64_t linear) {
  const Launch& launch = *worker.job->launch;
  BlockState& block = worker.block;
  block.index = {static_cast<unsigned>(linear % launch.grid.x),
                 static_cast<unsigned>(linear / launch.grid.x % launch.grid.y),
                 static_cast<unsigned>(linear / launch.grid.x / launch.grid.y)};
  block.grid = launch.grid;
  block.shape = launch.block;
  block.worker = &worker;
  worker.set = (worker.set + 1) % sanitizer::kSets;
  Set& set = worker.sets[worker.set];
  sanitizer::acquire(set.end);
  sanitizer::unfence(set.shared.data(), set.shared.size());
  block.shared = reinterpret_cast<unsigned char*>(
      (reinterpret_cast<uintptr_t>(set.shared.data()) + kSharedBase - 1) & ~(kSharedBase - 1));
  block.shared_bytes = launch.shared_bytes;
  std::memset(block.shared, 0xff, launch.shared_bytes + kTail);
  sanitizer::fence(block.shared + launch.shared_bytes, kMostShared + kTail - launch.shared_bytes);

  worker.threads = launch.block.x * launch.block.y * launch.block.z;
  worker.warps = (worker.threads + 31) / 32;
  worker.exited = 0;
  worker.ready_warps = 0;
  worker.failed = false;
  worker.signal = 0;
  worker.random = (worker.job->options.seed + linear) * 0x9e3779b97f4a7c15u | 1;
  for (Barrier& barrier : worker.barriers) barrier = {};
  for (unsigned w = 0; w < worker.warps; ++w) {
    Warp& warp = worker.warp[w];
    const unsigned lanes = std::min(32u, worker.threads - w * 32);
    warp.exists = lanes == 32 ? kWholeWarp : (uint32_t{1} << lanes) - 1;
    warp.ready = warp.exited = warp.at_barrier = 0;
    warp.epoch = 0;
    warp.meeting_count = 0;
    warp.syncs = 0;
    std::fill(warp.request_count, warp.request_count + kAccesses, 0);
    make_ready(worker, w, warp.exists);
  }
  for (unsigned i = 0; i < worker.threads; ++i) prepare(worker, i);

  Fibre* first = pick(worker, order_of(worker) == Order::kReverse ? worker.warps - 1 : 0);
  sanitizer::release(set.begin);
  current = first;
  sanitizer::leave(worker.host, first->side, false);
  gatun_simt_switch(&worker.host_stack_pointer, first->stack_pointer);
  // a fault comes here without a word
  if (worker.signal != 0) sanitizer::leave(worker.faulting->side, worker.host, true);
  sanitizer::arrive(worker.host);
  if (worker.failed || worker.signal != 0)
    for (unsigned i = 0; i < worker.threads; ++i)
      sanitizer::abandon(set.fibres[i].side, worker.host, set.end);

  const Fibre* culprit = worker.faulting;
  if (worker.signal != 0) {
    worker.failed = true;
    describe_fault(worker);
  }
  if (!worker.failed) {
    for (unsigned w = 0; w < worker.warps; ++w) count_requests(worker, worker.warp[w]);
    ++worker.counters.blocks;
    for (size_t i = 0; i < kTail && !worker.failed; ++i)
      if (block.shared[launch.shared_bytes + i] != 0xff) {
        worker.failed = true;
        culprit = nullptr;
        std::snprintf(worker.message, sizeof worker.message,
                      "byte %zu behind its %zu bytes of shared memory was written", i,
                      launch.shared_bytes);
      }
  }
  if (!worker.failed) return;
  Job& job = *worker.job;
  std::lock_guard lock(job.mutex);
  if (job.failed.exchange(true)) return;
  char text[kMostMessage + 200];
  size_t length = static_cast<size_t>(std::snprintf(text, sizeof text,
                                                    "kernel %.80s, block (%u,%u,%u)", launch.kernel,
                                                    block.index.x, block.index.y, block.index.z));
  if (culprit != nullptr)
    length += static_cast<size_t>(
        std::snprintf(text + length, sizeof text - length, ", thread (%u,%u,%u) (warp %u lane %u)",
                      culprit->thread.x, culprit->thread.y, culprit->thread.z, culprit->number / 32,
                      culprit->number % 32));
  if (job.options.order == Order::kRandom)
    length += static_cast<size_t>(std::snprintf(text + length, sizeof text - length, ", seed %llu",
                                                static_cast<unsigned long long>(job.options.seed)));
  std::snprintf(text + length, sizeof text - length, ": %s", worker.message);
  job.message = text;
}

// ---- faults ----

struct sigaction previous_actions[3];
constexpr int kSignals[3] = {SIGSEGV, SIGBUS, SIGFPE};

// A fault of a kernel ends its block: the thread goes on in the worker. Any other is not ours.
void handle_fault(int signal, siginfo_t* info, void* context) {
  Fibre* fibre = current;
  if (fibre != nullptr) {
    Worker& worker = *fibre->block->worker;
    worker.faulting = fibre;
    worker.fault_address = info->si_addr;
    worker.signal = signal;
    current = nullptr;
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    registers[REG_RSP] = reinterpret_cast<greg_t>(worker.host_stack_pointer);
    registers[REG_RIP] = reinterpret_cast<greg_t>(&gatun_simt_resume);
    return;
  }
  const struct sigaction& previous =
      previous_actions[std::find(kSignals, kSignals + 3, signal) - kSignals];
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
    ::signal(signal, SIG_DFL);  // the instruction runs again, and dies of it
  } else {
    previous.sa_handler(signal);
  }
}

void install_handlers() {
  for (int i = 0; i < 3; ++i) {
    sigaction(kSignals[i], nullptr, &previous_actions[i]);
    struct sigaction action = previous_actions[i];
    action.sa_sigaction = handle_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | (previous_actions[i].sa_flags & SA_RESTART);
    sigaction(kSignals[i], &action, nullptr);
  }
}

// ---- workers ----

// Never destroyed: a parked worker would hold up the end of the process.
struct Pool {
  std::mutex mutex;
  std::condition_variable work, done;
  uint64_t generation = 0;
  unsigned busy = 0;
  Job* job = nullptr;
  std::vector<Worker*> workers;
  std::map<std::string, Counters> counters;  // by launch name
  std::mutex options_mutex;
  Options options = {Order::kForward, 1};
  bool count_memory = false;

  Pool() {
    const char* order = std::getenv("GATUN_SIM_ORDER");
    if (order != nullptr && std::strcmp(order, "reverse") == 0) options.order = Order::kReverse;
    if (order != nullptr && std::strcmp(order, "random") == 0) options.order = Order::kRandom;
    const char* seed = std::getenv("GATUN_SIM_SEED");
    if (seed != nullptr) options.seed = std::strtoull(seed, nullptr, 10);
    const char* count = std::getenv("GATUN_SIM_COUNTERS");
    count_memory = count != nullptr && std::strcmp(count, "0") != 0;
  }
};

Pool& pool() {
  static Pool& only = *new Pool;
  return only;
}

void work(Worker& worker, Job& job) {
  worker.job = &job;
  worker.last_hit = {0, 0};
  const unsigned threads = job.launch->block.x * job.launch->block.y * job.launch->block.z;
  if (!std::all_of(std::begin(worker.sets), std::end(worker.sets),
                   [&](Set& set) { return make_stacks(set, threads); })) {
    std::lock_guard lock(job.mutex);
    if (!job.failed.exchange(true)) job.message = "the host has no memory for the kernel's stacks";
    return;
  }
  while (!job.failed.load(std::memory_order_relaxed)) {
    const uint64_t i = job.next.fetch_add(1, std::memory_order_relaxed);
    if (i >= job.blocks) break;
    run_block(worker, job.options.order == Order::kReverse
                          ? job.blocks - 1 - i
                          : (i * job.stride + job.offset) % job.blocks);
  }
  for (Set& set : worker.sets) sanitizer::acquire(set.end);
}

static_assert(std::is_trivially_copyable_v<Counters> && alignof(Counters) == sizeof(int64_t));
void add(Counters& to, const Counters& from) {
  int64_t sums[sizeof(Counters) / sizeof(int64_t)], more[sizeof(Counters) / sizeof(int64_t)];
  std::memcpy(sums, &to, sizeof to);
  std::memcpy(more, &from, sizeof from);
  for (size_t i = 0; i < std::size(sums); ++i) sums[i] += more[i];
  std::memcpy(&to, sums, sizeof to);
}

void* worker_main(void* argument) {
  Worker& worker = *static_cast<Worker*>(argument);
  constexpr size_t kSignalStack = 64 << 10;
  stack_t signal_stack = {};
  signal_stack.ss_sp = new char[kSignalStack];
  signal_stack.ss_size = kSignalStack;
  sigaltstack(&signal_stack, nullptr);
  pthread_attr_t own;
  void* stack;
  size_t stack_size;
  pthread_getattr_np(pthread_self(), &own);
  pthread_attr_getstack(&own, &stack, &stack_size);
  pthread_attr_destroy(&own);
  sanitizer::adopt(worker.host, stack, stack_size);
  Pool& shared = pool();
  std::unique_lock lock(shared.mutex);
  for (uint64_t seen = 0;;) {
    shared.work.wait(lock, [&] { return shared.generation != seen; });
    seen = shared.generation;
    Job& job = *shared.job;
    lock.unlock();
    work(worker, job);
    lock.lock();
    add(shared.counters[job.launch->kernel], worker.counters);
    worker.counters = {};
    if (--shared.busy == 0) shared.done.notify_all();
  }
}

// Under the pool's lock.
void start_workers(Pool& shared) {
  install_handlers();
  sigset_t all, before;
  sigfillset(&all);
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, signal);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 1 << 20);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  const unsigned count = std::clamp(std::thread::hardware_concurrency(), 1u, kMostWorkers);
  while (shared.workers.size() < count) {
    auto* worker = new Worker;
    pthread_t thread;
    if (pthread_create(&thread, &attributes, worker_main, worker) != 0) {
      delete worker;
      break;
    }
    pthread_setname_np(thread, "gatun-sim");
    shared.workers.push_back(worker);
  }
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

// ---- what kernels ask for ----

void fail_kernel(const char* format, ...) {
  Fibre* self = current;
  Worker& worker = *self->block->worker;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(worker.message, sizeof worker.message, format, arguments);
  va_end(arguments);
  worker.failed = true;
  worker.faulting = self;
  leave_block(self);
}

void barrier(int id, unsigned count, Where where) {
  Fibre* self = current;
  Worker& worker = *self->block->worker;
  self->where = where;
  const unsigned w = self->number / 32;
  const uint32_t bit = uint32_t{1} << self->number % 32;
  if (id < 0 || id >= kBarriers)
    fail_kernel("barrier %d at %s: there are 0 to %d", id, Place(where).text, kBarriers - 1);
  const unsigned wanted = count == 0 ? worker.threads : count;
  if (count > worker.threads || (count % 32 != 0 && count != worker.threads))
    fail_kernel("barrier %d at %s: %u is not a number of whole warps of the block's %u threads", id,
                Place(where).text, count, worker.threads);
  if (count == 0 && worker.exited > 0)
    fail_kernel("__syncthreads at %s: %u threads have already left the kernel", Place(where).text,
                worker.exited);
  const Warp& warp = worker.warp[w];
  for (unsigned i = 0; i < warp.meeting_count; ++i)
    if ((warp.meetings[i].mask & bit) != 0)
      fail_kernel("it is at barrier %d (%s) while lanes %08x await it at %s (%s)", id,
                  Place(where).text, warp.meetings[i].arrived, warp.meetings[i].op,
                  Place(warp.meetings[i].where).text);
  Barrier& barrier = worker.barriers[id];
  if (barrier.arrived == 0) {
    barrier.wanted = wanted;
    barrier.where = where;
  } else if (barrier.wanted != wanted) {
    fail_kernel("barrier %d at %s: it wants %u threads, those at %s want %u", id, Place(where).text,
                wanted, Place(barrier.where).text, barrier.wanted);
  } else if (id == 0 && !same(barrier.where, where)) {
    fail_kernel("__syncthreads at %s while %u threads wait at another one (%s)", Place(where).text,
                barrier.arrived, Place(barrier.where).text);
  }
  barrier.waiting[w] |= bit;
  worker.warp[w].at_barrier |= bit;
  make_waiting(worker, w, bit);
  const unsigned phase = barrier.phase;
  sanitizer::Order& order = worker.sets[worker.set].barriers[id];
  sanitizer::release(order, phase);
  if (++barrier.arrived == wanted) {
    barrier.arrived = 0;
    ++barrier.phase;
    ++worker.counters.barriers;
    for (unsigned i = 0; i < worker.warps; ++i) {
      if (barrier.waiting[i] == 0) continue;
      Warp& released = worker.warp[i];
      if ((barrier.waiting[i] | released.exited) == released.exists)
        count_requests(worker, released);
      released.at_barrier &= ~barrier.waiting[i];
      make_ready(worker, i, barrier.waiting[i]);
      barrier.waiting[i] = 0;
    }
  }
  reschedule();
  sanitizer::acquire(order, phase);
}

void collective(const char* op, Exchange exchange, uint32_t mask, Operand& operand, Where where) {
  Fibre* self = current;
  Worker& worker = *self->block->worker;
  self->where = where;
  const unsigned w = self->number / 32, lane = self->number % 32;
  const uint32_t bit = uint32_t{1} << lane;
  Warp& warp = worker.warp[w];
  if ((mask & bit) == 0)
    fail_kernel("%s at %s: its mask %08x lacks the calling lane", op, Place(where).text, mask);
  if ((mask & ~warp.exists) != 0)
    fail_kernel("%s at %s: mask %08x names lanes that the warp lacks (it has %08x)", op,
                Place(where).text, mask, warp.exists);
  if ((mask & warp.exited) != 0)
    fail_kernel("%s at %s: it awaits lanes %08x, which have left the kernel", op, Place(where).text,
                mask & warp.exited);
  if ((mask & warp.at_barrier) != 0)
    fail_kernel("%s at %s: it awaits lanes %08x, which are at a barrier", op, Place(where).text,
                mask & warp.at_barrier);
  unsigned index = warp.meeting_count;
  for (unsigned i = 0; i < warp.meeting_count; ++i) {
    const Meeting& other = warp.meetings[i];
    if (other.mask == mask && same(other.op, op) && same(other.where, where))
      index = i;
    else if ((other.mask & bit) != 0 && (other.arrived & mask) != 0)  // each awaits the other
      fail_kernel("%s at %s with mask %08x, while lanes %08x are at %s (%s) with mask %08x", op,
                  Place(where).text, mask, other.arrived, other.op, Place(other.where).text,
                  other.mask);
  }
  Meeting& meeting = warp.meetings[index];
  if (index == warp.meeting_count) {
    meeting.op = op;
    meeting.mask = mask;
    meeting.where = where;
    meeting.arrived = 0;
    ++warp.meeting_count;
  }
  meeting.arrived |= bit;
  meeting.lanes[lane] = &operand;
  // of the collectives only sync_warp orders memory
  const bool orders = exchange == exchange_nothing;
  sanitizer::Order& order = warp.order[worker.set];
  const unsigned phase = warp.syncs;
  if (orders) sanitizer::release(order, phase);
  if (meeting.arrived != mask) {
    make_waiting(worker, w, bit);
    reschedule();
    if (orders) sanitizer::acquire(order, phase);
    return;
  }
  if (orders) ++warp.syncs;
  exchange(meeting.lanes, mask);
  ++worker.counters.collectives;
  if (index + 1 != warp.meeting_count) warp.meetings[index] = warp.meetings[warp.meeting_count - 1];
  --warp.meeting_count;
  if ((mask | warp.exited) == warp.exists) count_requests(worker, warp);
  make_ready(worker, w, mask);
  reschedule();
  if (orders) sanitizer::acquire(order, phase);
}

namespace {

// result = the value of lane source(lane), its own where that lane takes no part.
template <typename Source>
void exchange_lanes(Operand* const (&lanes)[32], uint32_t mask, Source source) {
  for (uint32_t left = mask; left != 0; left &= left - 1) {
    const int lane = std::countr_zero(left);
    const int width = lanes[lane]->width;
    const int first = lane / width * width;
    const int from = source(lane, first, width, lanes[lane]->argument);
    const bool inside = from >= first && from < first + width;
    if (inside && (mask >> from & 1) == 0)
      fail_kernel("a shuffle reads lane %d, which takes no part (mask %08x)", from, mask);
    lanes[lane]->result = lanes[inside ? from : lane]->value;
  }
}

}  // namespace

void exchange_xor(Operand* const (&lanes)[32], uint32_t mask) {
  exchange_lanes(lanes, mask, [](int lane, int, int, int other) { return lane ^ other; });
}
void exchange_up(Operand* const (&lanes)[32], uint32_t mask) {
  exchange_lanes(lanes, mask, [](int lane, int, int, int by) { return lane - by; });
}
void exchange_down(Operand* const (&lanes)[32], uint32_t mask) {
  exchange_lanes(lanes, mask, [](int lane, int, int, int by) { return lane + by; });
}
void exchange_index(Operand* const (&lanes)[32], uint32_t mask) {
  exchange_lanes(lanes, mask, [](int, int first, int width, int other) {
    return first + (other & (width - 1));
  });
}
void exchange_ballot(Operand* const (&lanes)[32], uint32_t mask) {
  uint32_t votes = 0;
  for (uint32_t left = mask; left != 0; left &= left - 1) {
    const int lane = std::countr_zero(left);
    if (lanes[lane]->value != 0) votes |= uint32_t{1} << lane;
  }
  for (uint32_t left = mask; left != 0; left &= left - 1)
    lanes[std::countr_zero(left)]->result = votes;
}
void exchange_nothing(Operand* const (&)[32], uint32_t) {}

namespace {

void check_range(Worker& worker, const void* address, size_t bytes, const char* what, Where where) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  if (at >= worker.last_hit.first && at + bytes <= worker.last_hit.last) return;
  const std::vector<Range>& all = worker.job->memory;
  auto after = std::upper_bound(all.begin(), all.end(), at,
                                [](uintptr_t a, const Range& r) { return a < r.first; });
  if (after == all.begin() || at >= (after - 1)->last + kNear)
    fail_kernel("a %zu-byte %s at %s: %p is not device memory", bytes, what, Place(where).text,
                address);
  worker.last_hit = *(after - 1);
  worker.last_index = static_cast<size_t>(after - 1 - all.begin());
  if (at + bytes > worker.last_hit.last) {
    const Range hit = worker.last_hit;
    worker.last_hit = {0, 0};
    fail_kernel("a %zu-byte %s at %s: byte %zu of an allocation of %zu bytes", bytes, what,
                Place(where).text, at - hit.first, hit.last - hit.first);
  }
}

const char* name_of(Access access) {
  switch (access) {
    case Access::kLoad:
      return "load";
    case Access::kStore:
      return "store";
    case Access::kAtomic:
      return "atomic";
    case Access::kCopyLoad:
    case Access::kCopyStore:
      return "cp_async";
    case Access::kSharedLoad:
      return "load of shared memory";
    case Access::kSharedStore:
      return "store to shared memory";
    case Access::kMatrix:
      return "row of ldmatrix";
  }
  return "";
}

}  // namespace

void check_global(const void* address, size_t bytes, Access access, Where where) {
  Fibre* self = current;
  Worker& worker = *self->block->worker;
  self->where = where;
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  if (at % bytes != 0)
    fail_kernel("a %zu-byte %s at %s: address %p is not aligned to %zu", bytes, name_of(access),
                Place(where).text, address, bytes);
  check_range(worker, address, bytes, name_of(access), where);
  if (!worker.job->count_memory) return;
  note_request(worker, at, bytes, bytes, access, where);
  const size_t offset = at - worker.last_hit.first;
  if (access != Access::kStore) worker.job->read[worker.last_index].add(offset, bytes);
  if (access != Access::kLoad) worker.job->written[worker.last_index].add(offset, bytes);
}

// ---- shared memory ----

uint32_t shared_address(const void* p, Where where) {
  const BlockState& block = *current->block;
  current->where = where;
  const uintptr_t offset =
      reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(block.shared);
  if (offset > block.shared_bytes)
    fail_kernel("shared_address at %s: %p is not in the block's %zu bytes of shared memory",
                Place(where).text, p, block.shared_bytes);
  return static_cast<uint32_t>(offset);
}

void* check_shared(uint32_t address, size_t bytes, Access access, Where where) {
  Fibre* self = current;
  const BlockState& block = *self->block;
  self->where = where;
  if (address % bytes != 0)
    fail_kernel("a %zu-byte %s at %s: byte %u is not aligned to %zu", bytes, name_of(access),
                Place(where).text, address, bytes);
  if (address + bytes > block.shared_bytes)
    fail_kernel("a %zu-byte %s at %s: byte %u of %zu bytes of shared memory", bytes,
                name_of(access), Place(where).text, address, block.shared_bytes);
  if (block.worker->job->count_memory)
    note_request(*block.worker, address, bytes, bytes, access, where);
  return block.shared + address;
}

void cp_async(uint32_t address, const void* global, int size, int bytes, Where where) {
  Fibre* self = current;
  Worker& worker = *self->block->worker;
  if (bytes < 0 || bytes > size)
    fail_kernel("cp_async at %s: %d of %d bytes", Place(where).text, bytes, size);
  auto* to = static_cast<unsigned char*>(
      check_shared(address, static_cast<size_t>(size), Access::kCopyStore, where));
  const uintptr_t at = reinterpret_cast<uintptr_t>(global);
  if (at % static_cast<uintptr_t>(size) != 0)
    fail_kernel("a %d-byte cp_async at %s: address %p is not aligned to %d", size,
                Place(where).text, global, size);
  if (bytes > 0)
    check_range(worker, global, static_cast<size_t>(bytes), name_of(Access::kCopyLoad), where);
  if (worker.job->count_memory) {
    note_request(worker, at, static_cast<size_t>(size), static_cast<size_t>(bytes),
                 Access::kCopyLoad, where);
    if (bytes > 0)
      worker.job->read[worker.last_index].add(at - worker.last_hit.first,
                                              static_cast<size_t>(bytes));
  }
  std::memset(to, 0xff, static_cast<size_t>(size));
  const sanitizer::Ignore ignore;
  worker.copies[self->number].push_back(
      {to, static_cast<const unsigned char*>(global), size, bytes, self->groups, where});
}

void cp_async_commit() { ++current->groups; }

void cp_async_wait(unsigned pending) {
  const Fibre* self = current;
  std::vector<Copy>& copies = self->block->worker->copies[self->number];
  size_t done = 0;
  for (; done < copies.size() && copies[done].group + pending < self->groups; ++done) {
    const Copy& copy = copies[done];
    if (copy.bytes > 0) std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
    std::memset(copy.to + copy.bytes, 0, static_cast<size_t>(copy.size - copy.bytes));
  }
  const sanitizer::Ignore ignore;
  copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(done));
}

// ---- tensor cores ----

namespace {

struct MatrixLane {
  uint32_t* r;
  unsigned short row[8];
};

// Operand::argument is the number of matrices, negative for transposed ones.
void exchange_rows(Operand* const (&lanes)[32], uint32_t) {
  const auto lane_at = [&](int i) { return reinterpret_cast<MatrixLane*>(lanes[i]->value); };
  const bool transposed = lanes[0]->argument < 0;
  const int count = std::abs(lanes[0]->argument);
  for (int i = 0; i < 32; ++i)
    for (int m = 0; m < count; ++m) {
      const int group = i / 4, pair = i % 4 * 2;
      const auto element = [&](int row, int column) {
        return static_cast<uint32_t>(lane_at(m * 8 + row)->row[column]);
      };
      lane_at(i)->r[m] = transposed ? element(pair, group) | element(pair + 1, group) << 16
                                    : element(group, pair) | element(group, pair + 1) << 16;
    }
}

struct MmaLane {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

template <typename Convert>
void multiply(Operand* const (&lanes)[32], Convert convert) {
  typedef float Row __attribute__((vector_size(32)));
  float a[16][16];
  Row b[16], d[16];
  const auto lane_at = [&](int i) { return reinterpret_cast<const MmaLane*>(lanes[i]->value); };
  const auto unpack = [&](uint32_t word, float& low, float& high) {
    low = convert(static_cast<unsigned short>(word & 0xffffu));
    high = convert(static_cast<unsigned short>(word >> 16));
  };
  for (int i = 0; i < 32; ++i) {
    const MmaLane& lane = *lane_at(i);
    const int group = i / 4, pair = i % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      unpack(lane.a[half], a[group + 8 * half][pair], a[group + 8 * half][pair + 1]);
      unpack(lane.a[2 + half], a[group + 8 * half][pair + 8], a[group + 8 * half][pair + 9]);
      float low, high;
      unpack(lane.b[half], low, high);
      b[pair + 8 * half][group] = low;
      b[pair + 8 * half + 1][group] = high;
      for (int j = 0; j < 2; ++j) d[group + 8 * half][pair + j] = lane.d[2 * half + j];
    }
  }
  for (int row = 0; row < 16; ++row) {
    Row sum = d[row];
    for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k];
    d[row] = sum;
  }
  for (int i = 0; i < 32; ++i) {
    const int group = i / 4, pair = i % 4 * 2;
    for (int j = 0; j < 4; ++j) lane_at(i)->d[j] = d[group + j / 2 * 8][pair + j % 2];
  }
  ++current->block->worker->counters.mma;
}

void multiply_bf16(Operand* const (&lanes)[32], uint32_t) {
  multiply(lanes, [](unsigned short x) { return __bfloat162float(__nv_bfloat16_raw{x}); });
}
void multiply_f16(Operand* const (&lanes)[32], uint32_t) {
  multiply(lanes, [](unsigned short x) { return __half2float(__half_raw{x}); });
}

}  // namespace

void exchange_matrices(uint32_t* r, int count, bool transposed, const uint4& row, Where where) {
  MatrixLane lane = {r, {}};
  std::memcpy(lane.row, &row, sizeof lane.row);
  Operand operand;
  operand.value = reinterpret_cast<uint64_t>(&lane);
  operand.argument = transposed ? -count : count;
  const char* op = count == 4 ? (transposed ? "ldmatrix_x4_transposed" : "ldmatrix_x4")
                              : (transposed ? "ldmatrix_x2_transposed" : "ldmatrix_x2");
  collective(op, exchange_rows, kWholeWarp, operand, where);
}

void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Multiplicand type,
                  Where where) {
  MmaLane lane = {d, a, b};
  Operand operand;
  operand.value = reinterpret_cast<uint64_t>(&lane);
  if (type == Multiplicand::kBf16)
    collective("mma bf16", multiply_bf16, kWholeWarp, operand, where);
  else
    collective("mma f16", multiply_f16, kWholeWarp, operand, where);
}

// ---- launch ----

Options options() {
  std::lock_guard lock(pool().options_mutex);
  return pool().options;
}
void set_options(const Options& options) {
  std::lock_guard lock(pool().options_mutex);
  pool().options = options;
}

void count_memory(bool on) {
  std::lock_guard lock(pool().options_mutex);
  pool().count_memory = on;
}

Counters counters() {
  Counters total = {};
  for (const auto& [kernel, each] : kernel_counters()) add(total, each);
  return total;
}
std::vector<std::pair<std::string, Counters>> kernel_counters() {
  std::lock_guard lock(pool().mutex);
  return {pool().counters.begin(), pool().counters.end()};
}
void reset_counters() {
  std::lock_guard lock(pool().mutex);
  pool().counters.clear();
}

std::string run(const Launch& launch, const Options& options) {
  Job job;
  job.launch = &launch;
  job.options = options;
  {
    std::lock_guard lock(pool().options_mutex);
    job.count_memory = pool().count_memory;
  }
  job.memory = allocations();
  if (job.count_memory)
    for (const Range& range : job.memory) {
      job.read.emplace_back(range);
      job.written.emplace_back(range);
    }
  job.blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  job.stride = 1;
  job.offset = 0;
  if (options.order == Order::kRandom) {
    job.offset = options.seed % job.blocks;
    job.stride = options.seed * 0x9e3779b97f4a7c15u % job.blocks | 1;
    while (std::gcd(job.stride, job.blocks) != 1) job.stride += 2;
    job.stride %= job.blocks;
    if (job.stride == 0) job.stride = 1;
  }
  Pool& shared = pool();
  std::unique_lock lock(shared.mutex);
  if (shared.workers.empty()) start_workers(shared);
  if (shared.workers.empty()) return "the host makes no more threads";
  shared.job = &job;
  shared.busy = static_cast<unsigned>(shared.workers.size());
  ++shared.generation;
  shared.work.notify_all();
  shared.done.wait(lock, [&] { return shared.busy == 0; });
  Counters& counters = shared.counters[launch.kernel];
  ++counters.launches;
  for (const Touched& each : job.read) counters.distinct_read += each.bytes();
  for (const Touched& each : job.written) counters.distinct_written += each.bytes();
  lock.unlock();
  if (!job.failed) {
    const std::string damaged = damage();
    if (!damaged.empty()) job.message = "kernel " + std::string(launch.kernel) + ": " + damaged;
  }
  return job.message;
}

}  // namespace simt
