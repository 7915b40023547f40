#include "cpu/pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <iterator>

namespace gatun::cpu {

namespace {

constexpr int64_t kHugePage = 2 << 20;

int64_t round_up(int64_t bytes, int64_t step) { return (bytes + step - 1) / step * step; }

}  // namespace

Pool::~Pool() {
  for (const Mapping& mapping : mappings_) munmap(mapping.address, mapping.size);
}

int64_t Pool::rounded(int64_t bytes) {
  if (bytes > INT64_MAX / 2) return INT64_MAX / 2;
  if (bytes >= kLarge) return round_up(bytes, 64 << 10);
  if (bytes <= 256) return round_up(bytes, 64);
  const int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes - 1))) / 4;
  return round_up(bytes, step);
}

int Pool::class_of(int64_t bytes) {
  if (bytes <= 256) return static_cast<int>(bytes / 64);  // 1 to 4
  const auto top = static_cast<uint64_t>(bytes - 1);
  const int power = std::bit_width(top) - 1;  // 8 and up
  return (power - 8) * 4 + static_cast<int>((top >> (power - 2)) & 3) + 5;
}

char* Pool::map(int64_t bytes) {
  // Large blocks begin on a huge page: fewer faults at first touch, fewer TLB misses after.
  const bool huge = bytes >= kLarge;
  const auto wanted = static_cast<size_t>(bytes);
  const size_t size = huge ? wanted + kHugePage : wanted;
  mappings_.reserve(mappings_.size() + 1);
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(address);
  if (huge) {
    char* aligned = reinterpret_cast<char*>(round_up(reinterpret_cast<int64_t>(begin), kHugePage));
    const auto before = static_cast<size_t>(aligned - begin);
    if (before > 0) munmap(begin, before);
    const auto after = size - before - wanted;
    if (after > 0) munmap(aligned + wanted, after);
    madvise(aligned, wanted, MADV_HUGEPAGE);
    begin = aligned;
  }
  mappings_.push_back({begin, wanted});
  return begin;
}

bool Pool::reserve(int64_t bytes, uint64_t completed) {
  if (memory_.reserved.load() + bytes > memory_.budget) trim_locked(completed);
  if (memory_.reserved.load() + bytes > memory_.budget) return false;
  memory_.reserved.fetch_add(bytes);
  return true;
}

void* Pool::allocate(int64_t bytes, int purpose, uint64_t completed, Use use) {
  const int64_t size = rounded(bytes);
  const auto usable = [&](const Block& block) {
    return use == Use::kQueued || block.ticket <= completed;
  };
  std::lock_guard lock(mutex_);
  if (size <= kSmall) {
    std::vector<Block>& free = small_[class_of(size)];
    if (!memory_.take(size, purpose)) return nullptr;
    if (const auto found = std::find_if(free.rbegin(), free.rend(), usable); found != free.rend()) {
      char* address = found->address;
      free.erase(std::next(found).base());
      return address;
    }
    if (slab_left_ < size) {
      // what is left of the old slab is less than this block, and is given up
      if (!reserve(kSlab, completed)) {
        memory_.give(size, purpose);
        return nullptr;
      }
      char* slab = map(kSlab);
      if (slab == nullptr) {
        memory_.reserved.fetch_sub(kSlab);
        memory_.give(size, purpose);
        return nullptr;
      }
      slab_ = slab;
      slab_left_ = kSlab;
    }
    char* address = slab_;
    slab_ += size;
    slab_left_ -= size;
    return address;
  }

  // A free block that is at most an eighth too large, else a new one.
  const auto fits = [size](const auto& blocks) {
    auto found = blocks.lower_bound(size);
    return found != blocks.end() && found->first - size <= size / 8 ? found : blocks.end();
  };
  auto found = fits(free_);
  while (found != free_.end() && !usable(found->second)) {
    ++found;
    if (found != free_.end() && found->first - size > size / 8) found = free_.end();
  }
  if (found != free_.end()) {
    if (!memory_.take(found->first, purpose)) return nullptr;
    char* address = found->second.address;
    sizes_[address] = found->first;
    free_.erase(found);
    return address;
  }
  const auto unbacked = fits(unbacked_);
  const int64_t taken = unbacked != unbacked_.end() ? unbacked->first : size;
  if (!memory_.take(taken, purpose)) return nullptr;
  if (!reserve(taken, completed)) {  // may add to unbacked_, which keeps iterators valid
    memory_.give(taken, purpose);
    return nullptr;
  }
  char* address = nullptr;
  if (unbacked != unbacked_.end()) {
    address = unbacked->second;
    unbacked_.erase(unbacked);
  } else {
    address = map(taken);
  }
  if (address == nullptr) {
    memory_.reserved.fetch_sub(taken);
    memory_.give(taken, purpose);
    return nullptr;
  }
  sizes_[address] = taken;
  return address;
}

void Pool::release(void* address, int64_t bytes, int purpose, uint64_t ticket) {
  const int64_t size = rounded(bytes);
  std::lock_guard lock(mutex_);
  if (size <= kSmall) {
    small_[class_of(size)].push_back({static_cast<char*>(address), ticket});
    memory_.give(size, purpose);
    return;
  }
  const auto found = sizes_.find(address);
  free_.insert({found->second, {static_cast<char*>(address), ticket}});
  memory_.give(found->second, purpose);
  sizes_.erase(found);
}

void Pool::trim(uint64_t completed) {
  std::lock_guard lock(mutex_);
  trim_locked(completed);
}

void Pool::trim_locked(uint64_t completed) {
  for (auto block = free_.begin(); block != free_.end();) {
    if (block->second.ticket > completed) {
      ++block;
      continue;
    }
    madvise(block->second.address, static_cast<size_t>(block->first), MADV_DONTNEED);
    unbacked_.insert({block->first, block->second.address});
    memory_.reserved.fetch_sub(block->first);
    block = free_.erase(block);
  }
}

}  // namespace gatun::cpu
