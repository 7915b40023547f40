#include "cpu/leaving.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace gatun::cpu {

namespace {

struct Watched {
  std::mutex mutex;
  std::vector<Queue*> queues;
};

Watched& watched() {
  static Watched& all = *new Watched;  // never destroyed
  return all;
}

void freeze_all() {
  Watched& all = watched();
  std::lock_guard lock(all.mutex);
  for (Queue* queue : all.queues) queue->freeze();
}

}  // namespace

void watch(Queue& queue) {
  Watched& all = watched();
  std::lock_guard lock(all.mutex);
  if (all.queues.empty()) guard_statics();
  all.queues.push_back(&queue);
}

void forget(Queue& queue) {
  Watched& all = watched();
  std::lock_guard lock(all.mutex);
  all.queues.erase(std::remove(all.queues.begin(), all.queues.end(), &queue), all.queues.end());
}

void guard_statics() {
  // A second run of the handler finds the queues frozen. Without a slot for it nothing is lost but
  // the protection.
  static_cast<void>(std::atexit(freeze_all));
}

}  // namespace gatun::cpu
