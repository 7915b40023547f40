// The cpu device's memory: blocks from the system, kept for reuse.
//
// Reuse for what will be enqueued needs no waiting: the device runs its work in one order, so
// whatever is enqueued after a release runs after the released block's last reader. Who uses a
// block at once (a running op's workspace), and who gives its pages back to the system (trim),
// must know how far the queue has come; each free block carries the ticket of the newest task at
// its release.
//
// Addresses are never unmapped while the device is open: a trimmed block loses its pages and keeps
// its place. So a call that races with gatun_buffer_free touches a stale page, not a missing one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/memory.h"

namespace gatun::cpu {

// When a block is first touched: by work that is enqueued after the call, or right away.
enum class Use { kQueued, kNow };

class Pool {
 public:
  explicit Pool(Memory& memory) : memory_(memory) {}
  ~Pool();  // unmaps everything

  // A block of at least `bytes`, aligned to 64, accounted for under `purpose`. Null beyond the
  // budget or where the system has no more. `completed`: tickets up to this have run.
  void* allocate(int64_t bytes, int purpose, uint64_t completed, Use use);
  // `ticket`: the newest task that may use the block.
  void release(void* address, int64_t bytes, int purpose, uint64_t ticket);
  // Gives the pages of free blocks back whose last task has run.
  void trim(uint64_t completed);

 private:
  struct Block {
    char* address;
    uint64_t ticket;
  };
  struct Mapping {
    void* address;
    size_t size;
  };

  static constexpr int64_t kSmall = 64 << 10;  // up to this: carved from slabs
  static constexpr int64_t kSlab = 1 << 20;
  static constexpr int64_t kLarge = 2 << 20;  // from this: huge pages, sizes in steps of 64 KiB
  static constexpr int kSmallClasses = 64;

  // The size that a request becomes: four classes a power of two, multiples of 64; large ones to
  // 64 KiB.
  static int64_t rounded(int64_t bytes);
  static int class_of(int64_t rounded_bytes);
  char* map(int64_t bytes);
  bool reserve(int64_t bytes, uint64_t completed);
  void trim_locked(uint64_t completed);

  Memory& memory_;
  std::mutex mutex_;
  std::vector<Block> small_[kSmallClasses];
  char* slab_ = nullptr;
  int64_t slab_left_ = 0;
  std::multimap<int64_t, Block> free_;        // by size, with pages
  std::multimap<int64_t, char*> unbacked_;    // by size, without pages
  std::unordered_map<void*, int64_t> sizes_;  // of live blocks above kSmall
  std::vector<Mapping> mappings_;
};

}  // namespace gatun::cpu
