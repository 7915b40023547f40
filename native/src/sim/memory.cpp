// Device memory of the simulated device: host memory with canaries around each allocation, poisoned
// when it is given out. Pages of its own, and out of reach for a while once it is freed: a kernel
// that uses it then faults and becomes a sentence, where malloc's memory would be the process's.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include "simt.h"

namespace simt {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kMargin = 256;  // at least, on either side: the alignment of CUDA's allocations
constexpr size_t kQuarantine = 512;  // freed allocations that stay out of reach
constexpr unsigned char kCanary = 0xa5;

// Never destroyed: threads may outlive main.
struct Table {
  std::mutex mutex;
  std::map<uintptr_t, size_t> live;
  std::deque<std::pair<void*, size_t>> freed;
  int64_t bytes = 0;
};
Table& table() {
  static Table& only = *new Table;
  return only;
}

size_t room_of(size_t bytes) { return (bytes + 2 * kMargin + kPage - 1) / kPage * kPage; }

// Bytes that nobody may touch.
struct Fence {
  unsigned char* first;
  size_t bytes;

  void raise() const {
    sanitizer::unfence(first, bytes);
    std::memset(first, kCanary, bytes);
    sanitizer::fence(first, bytes);
  }
  // Eight at a time: every launch ends with this, for every allocation. (No memcmp: the sanitizers
  // would take it for a touch.)
  bool intact() const {
    const unsigned char *p = first, *const end = first + bytes;
    for (; reinterpret_cast<uintptr_t>(p) % sizeof(uint64_t) != 0; ++p)
      if (*p != kCanary) return false;
    uint64_t wanted, had, changed = 0;
    __builtin_memset(&wanted, kCanary, sizeof wanted);
    for (; p < end; p += sizeof had) {
      __builtin_memcpy(&had, p, sizeof had);
      changed |= had ^ wanted;
    }
    return changed == 0;
  }
};

// Of an allocation: the margin before it, and all that is left of its pages behind it.
std::array<Fence, 2> fences(unsigned char* data, size_t bytes) {
  return {{{data - kMargin, kMargin}, {data + bytes, room_of(bytes) - kMargin - bytes}}};
}

void* allocate_pages(size_t bytes, bool sparse) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (sparse ? MAP_NORESERVE : 0);
  void* pages = mmap(nullptr, room_of(bytes), PROT_READ | PROT_WRITE, flags, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  auto* base = static_cast<unsigned char*>(pages);
  unsigned char* data = base + kMargin;
  if (!sparse) std::memset(data, 0xff, bytes);
  for (const Fence& fence : fences(data, bytes)) fence.raise();
  Table& all = table();
  std::lock_guard lock(all.mutex);
  all.live.emplace(reinterpret_cast<uintptr_t>(data), bytes);
  all.bytes += static_cast<int64_t>(bytes);
  return data;
}

}  // namespace

void* allocate(size_t bytes) { return allocate_pages(bytes, false); }
void* allocate_sparse(size_t bytes) { return allocate_pages(bytes, true); }

bool release(void* address) {
  Table& all = table();
  std::lock_guard lock(all.mutex);
  const auto found = all.live.find(reinterpret_cast<uintptr_t>(address));
  if (found == all.live.end()) return false;
  void* base = static_cast<unsigned char*>(address) - kMargin;
  const size_t room = room_of(found->second);
  all.bytes -= static_cast<int64_t>(found->second);
  sanitizer::unfence(base, room);
  all.live.erase(found);
  // gives the pages back and keeps the addresses
  mmap(base, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  all.freed.emplace_back(base, room);
  if (all.freed.size() > kQuarantine) {
    munmap(all.freed.front().first, all.freed.front().second);
    all.freed.pop_front();
  }
  return true;
}

Range allocation_of(const void* address) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  Table& all = table();
  std::lock_guard lock(all.mutex);
  auto after = all.live.upper_bound(at);
  if (after == all.live.begin()) return {0, 0};
  --after;
  if (at >= after->first + after->second) return {0, 0};
  return {after->first, after->first + after->second};
}

std::vector<Range> allocations() {
  Table& all = table();
  std::lock_guard lock(all.mutex);
  std::vector<Range> ranges;
  ranges.reserve(all.live.size());
  for (const auto& [first, bytes] : all.live) ranges.push_back({first, first + bytes});
  return ranges;
}

std::string damage() {
  Table& all = table();
  std::lock_guard lock(all.mutex);
  for (const auto& [first, bytes] : all.live) {
    auto* data = reinterpret_cast<unsigned char*>(first);
    for (const Fence& fence : fences(data, bytes)) {
      if (fence.intact()) continue;
      const auto changed = [](unsigned char byte) { return byte != kCanary; };
      const unsigned char* const end = fence.first + fence.bytes;
      const auto count = std::count_if<const unsigned char*>(fence.first, end, changed);
      const auto* const at = std::find_if<const unsigned char*>(fence.first, end, changed);
      fence.raise();
      char text[160];
      std::snprintf(
          text, sizeof text,
          "it wrote byte %td of an allocation of %zu bytes, the first of %td changed %s it",
          at - data, bytes, count, fence.first < data ? "before" : "behind");
      return text;
    }
  }
  return "";
}

int64_t allocated_bytes() {
  Table& all = table();
  std::lock_guard lock(all.mutex);
  return all.bytes;
}

}  // namespace simt
