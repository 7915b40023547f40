// The cpu device's queue: nothing lost, nothing twice, each thread's tasks in its order, and every
// wait ends, however full or asleep the queue is.
#include "cpu/queue.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "testing.h"

using gatun::cpu::Queue;

namespace {

struct Log {
  std::vector<uint64_t> last;  // of each producer; written by the worker alone
  int64_t ran = 0;
};

struct Entry {
  Log* log;
  uint64_t producer, number;
  int64_t nanos;  // how long the task takes
};

uint64_t add(Queue& queue, const Entry& entry) {
  return queue.add([&](Queue::Task& task) {
    std::memcpy(task.storage, &entry, sizeof entry);
    task.run = [](void*, Queue::Task& task) {
      Entry entry;
      std::memcpy(&entry, task.storage, sizeof entry);
      CHECK(entry.log->last[entry.producer] + 1 == entry.number);
      entry.log->last[entry.producer] = entry.number;
      ++entry.log->ran;
      if (entry.nanos > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(entry.nanos));
    };
  });
}

}  // namespace

int main() {
  const auto queue = std::make_unique<Queue>();
  std::thread worker([&] { queue->work(queue.get()); });
  constexpr int kProducers = 4;
  constexpr uint64_t kEach = 20000;
  Log log{std::vector<uint64_t>(kProducers), 0};
  std::vector<std::thread> producers;
  for (uint64_t p = 0; p < kProducers; ++p)
    producers.emplace_back([&, p] {
      for (uint64_t i = 1; i <= kEach; ++i) {
        // now and then a slow task fills the ring, and a pause empties it until the worker sleeps
        const uint64_t ticket = add(*queue, {&log, p, i, i % 5000 == 0 ? 2000000 : 0});
        if (i % 97 == p) {
          queue->wait(ticket);
          CHECK(queue->completed() >= ticket);
        }
        if (i % 4001 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    });
  for (std::thread& producer : producers) producer.join();
  queue->wait(queue->last());
  CHECK(log.ran == kProducers * static_cast<int64_t>(kEach));
  for (uint64_t last : log.last) CHECK(last == kEach);

  // One task at a time against a worker that has just gone to sleep, or is about to.
  for (uint64_t i = 0; i < 2000; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(30 + i % 60));
    queue->wait(add(*queue, {&log, 0, kEach + 1 + i, 0}));
    CHECK(log.last[0] == kEach + 1 + i);
  }

  queue->wait(queue->add([](Queue::Task& task) {
    task.run = [](void* owner, Queue::Task&) { static_cast<Queue*>(owner)->stop(); };
  }));
  worker.join();
  return 0;
}
