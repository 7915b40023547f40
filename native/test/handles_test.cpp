// The handle table: generations, reuse, made-up handles, pins, and reads that race with closes.
#include "core/handles.h"

#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "core/error.h"
#include "testing.h"

using namespace gatun;

namespace {

HandleTable::Words words_of(uint64_t value) { return {{value, value, value, value, value, value}}; }

void generations() {
  HandleTable table(Kind::kBuffer);
  const uint64_t first = table.open(words_of(1));
  HandleTable::Words words;
  CHECK(table.read(first, &words) && words.word[3] == 1);
  CHECK(table.close(first, &words) && words.word[0] == 1);
  CHECK(!table.read(first, &words) && !table.close(first, &words));
  const uint64_t second = table.open(words_of(2));
  CHECK(second != first && (second & HandleTable::kMaxIndex) == (first & HandleTable::kMaxIndex));
  CHECK(!table.read(first, &words));
  CHECK(table.read(second, &words) && words.word[0] == 2);
  // many live at once, over several chunks
  std::vector<uint64_t> many;
  for (uint64_t i = 0; i < 10000; ++i) many.push_back(table.open(words_of(i)));
  for (uint64_t i = 0; i < many.size(); ++i)
    CHECK(table.read(many[i], &words) && words.word[0] == i && words.word[5] == i);
  for (uint64_t handle : many) CHECK(table.close(handle, &words));
  for (uint64_t handle : many) CHECK(!table.read(handle, &words));
}

void made_up() {
  HandleTable table(Kind::kStream);
  const uint64_t live = table.open(words_of(7));
  const unsigned seed = 20261125;
  std::mt19937_64 generator(seed);
  HandleTable::Words words;
  for (int i = 0; i < 200000; ++i) {
    uint64_t handle = generator();
    if (i % 2 == 0) handle = live ^ uint64_t { 1 } << (generator() % 64);
    if (handle == live) continue;
    CHECK(!table.read(handle, &words));
    CHECK(table.pin(handle) == nullptr);
    CHECK(!table.close(handle, &words));
    bool explained = false;
    try {
      table.explain(handle, "op", "argument");
    } catch (const Error& e) {
      explained = e.status == GATUN_INVALID_HANDLE && e.what()[0] != 0;
    }
    CHECK(explained);
  }
  CHECK(table.read(live, &words) && words.word[0] == 7);
}

// A close waits for the pin of another thread.
void pins() {
  HandleTable table(Kind::kDevice);
  const uint64_t handle = table.open(words_of(3));
  HandleTable::Slot* slot = table.pin(handle);
  CHECK(slot != nullptr);
  std::atomic<bool> closed{false};
  std::thread closer([&] {
    HandleTable::Words words;
    CHECK(table.close(handle, &words));
    closed = true;
  });
  HandleTable::Words words;
  while (table.read(handle, &words)) std::this_thread::yield();
  CHECK(table.pin(handle) == nullptr);  // dead already
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(!closed);
  HandleTable::unpin(slot);
  closer.join();
  CHECK(closed);
}

// Readers see all of one generation or nothing.
void torn_reads() {
  HandleTable table(Kind::kBuffer);
  std::atomic<uint64_t> current{table.open(words_of(0))};
  std::atomic<bool> done{false};
  std::atomic<int64_t> reads{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; ++t)
    readers.emplace_back([&] {
      HandleTable::Words words;
      while (!done.load(std::memory_order_relaxed)) {
        if (!table.read(current.load(), &words)) continue;
        for (uint64_t word : words.word) CHECK(word == words.word[0]);
        reads.fetch_add(1, std::memory_order_relaxed);
      }
    });
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(700);
  uint64_t round = 1;
  while (std::chrono::steady_clock::now() < until) {
    HandleTable::Words words;
    CHECK(table.close(current.load(), &words));
    current = table.open(words_of(round++));
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  std::printf("%lld reads while %llu generations passed\n", static_cast<long long>(reads),
              static_cast<unsigned long long>(round));
  CHECK(reads > 0);
}

}  // namespace

int main() {
  generations();
  made_up();
  pins();
  torn_reads();
  return 0;
}
