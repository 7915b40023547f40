// The simulated device's own functions for whoever has opened the plugin, beside the C ABI: its
// counters, for the benchmark's table, and its order, for tests.
#include <cstdio>
#include <cstring>
#include <string>

#include "simt.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// Counts accesses to memory from here on, or no longer; all counters are 0 afterwards.
EXPORT void gatun_sim_count(int on) {
  simt::count_memory(on != 0);
  simt::reset_counters();
}

// The order of what may run next, from the next launch on: 0 forward, 1 reverse, 2 random from the
// seed. What GATUN_SIM_ORDER and GATUN_SIM_SEED say is for a process that cannot call this.
EXPORT void gatun_sim_order(int order, uint64_t seed) {
  simt::set_options({static_cast<simt::Order>(order), seed});
}

// Writes a line of names, then one for each kernel that ran, fields between tabs, and a NUL; at
// most `capacity` bytes. Returns how many bytes all of it takes.
EXPORT int64_t gatun_sim_counters(char* text, int64_t capacity) {
  using Counters = simt::Counters;
  struct Field {
    const char* name;
    int64_t (*value)(const Counters&);
  };
  static constexpr Field kFields[] = {
      {"launches", [](const Counters& c) { return c.launches; }},
      {"blocks", [](const Counters& c) { return c.blocks; }},
      {"barriers", [](const Counters& c) { return c.barriers; }},
      {"mma", [](const Counters& c) { return c.mma; }},
      {"distinct_read", [](const Counters& c) { return c.distinct_read; }},
      {"distinct_written", [](const Counters& c) { return c.distinct_written; }},
      {"read", [](const Counters& c) { return c.load.bytes + c.copy_load.bytes + c.atomic.bytes; }},
      {"written", [](const Counters& c) { return c.store.bytes + c.atomic.bytes; }},
      {"copied", [](const Counters& c) { return c.copy_load.bytes; }},
      {"requests",
       [](const Counters& c) {
         return c.load.requests + c.copy_load.requests + c.store.requests + c.atomic.requests;
       }},
      {"sectors",
       [](const Counters& c) {
         return c.load.sectors + c.copy_load.sectors + c.store.sectors + c.atomic.sectors;
       }},
      {"wavefronts",
       [](const Counters& c) {
         return c.shared_load.wavefronts + c.shared_store.wavefronts + c.matrix.wavefronts +
                c.copy_store.wavefronts;
       }},
      {"phases",
       [](const Counters& c) {
         return c.shared_load.phases + c.shared_store.phases + c.matrix.phases +
                c.copy_store.phases;
       }},
  };
  std::string all = "kernel";
  for (const Field& field : kFields) all += std::string("\t") + field.name;
  for (const auto& [kernel, counters] : simt::kernel_counters()) {
    all += "\n" + kernel;
    for (const Field& field : kFields) all += "\t" + std::to_string(field.value(counters));
  }
  if (capacity > 0) std::snprintf(text, static_cast<size_t>(capacity), "%s", all.c_str());
  return static_cast<int64_t>(all.size()) + 1;
}
