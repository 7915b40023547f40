// The cpu device's pool: a block that enqueued work still uses is for enqueued work alone.
#include "cpu/pool.h"

#include <cstring>
#include <initializer_list>

#include "testing.h"

using namespace gatun;
using namespace gatun::cpu;

namespace {

// A block released by task 5: work enqueued later may have it at once, a running op only when 5
// has run.
void tickets(int64_t bytes) {
  Memory memory;
  memory.budget = 64 << 20;
  Pool pool(memory);
  void* block = pool.allocate(bytes, GATUN_ACTIVATIONS, 0, Use::kQueued);
  CHECK(block != nullptr);
  pool.release(block, bytes, GATUN_ACTIVATIONS, 5);

  void* now = pool.allocate(bytes, GATUN_WORKSPACE, 4, Use::kNow);
  CHECK(now != nullptr && now != block);
  std::memset(now, 1, static_cast<size_t>(bytes));
  void* queued = pool.allocate(bytes, GATUN_ACTIVATIONS, 4, Use::kQueued);
  CHECK(queued == block);

  pool.release(queued, bytes, GATUN_ACTIVATIONS, 5);
  void* later = pool.allocate(bytes, GATUN_WORKSPACE, 5, Use::kNow);
  CHECK(later == block);
  pool.release(later, bytes, GATUN_WORKSPACE, 0);
  pool.release(now, bytes, GATUN_WORKSPACE, 0);
  CHECK(memory.used() == 0);
}

// Among several, a running op takes the one whose task has run, and leaves the others.
void choice(int64_t bytes) {
  Memory memory;
  memory.budget = 64 << 20;
  Pool pool(memory);
  void* blocks[3];
  for (void*& block : blocks) block = pool.allocate(bytes, GATUN_ACTIVATIONS, 0, Use::kQueued);
  const uint64_t ticket[3] = {8, 3, 9};
  for (int i = 0; i < 3; ++i) pool.release(blocks[i], bytes, GATUN_ACTIVATIONS, ticket[i]);
  CHECK(pool.allocate(bytes, GATUN_WORKSPACE, 3, Use::kNow) == blocks[1]);
  void* fresh = pool.allocate(bytes, GATUN_WORKSPACE, 3, Use::kNow);
  CHECK(fresh != blocks[0] && fresh != blocks[2]);
  void* first = pool.allocate(bytes, GATUN_ACTIVATIONS, 3, Use::kQueued);
  void* second = pool.allocate(bytes, GATUN_ACTIVATIONS, 3, Use::kQueued);
  CHECK(first != second);
  for (void* block : {first, second}) CHECK(block == blocks[0] || block == blocks[2]);
}

}  // namespace

int main() {
  for (const int64_t bytes : {64, 4096, 65536, 100000, 3 << 20}) {
    tickets(bytes);
    choice(bytes);
  }
  return 0;
}
