#include "cpu/machine.h"

#include <cpuid.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace gatun::cpu {

namespace {

std::string read_file(const std::string& path) {
  std::string text;
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return text;
  char chunk[4096];
  for (size_t n; (n = std::fread(chunk, 1, sizeof chunk, file)) > 0;) text.append(chunk, n);
  std::fclose(file);
  return text;
}

// The number after `key` in a text of "key value" lines; -1 if it is not there.
int64_t value_of(const std::string& text, const std::string& key) {
  size_t at = 0;
  while ((at = text.find(key, at)) != std::string::npos) {
    if (at == 0 || text[at - 1] == '\n')
      return std::strtoll(text.c_str() + at + key.size(), nullptr, 10);
    at += key.size();
  }
  return -1;
}

// A file that holds one number; -1 where there is none ("max", no file).
int64_t number_in(const std::string& path) {
  const std::string text = read_file(path);
  if (text.empty() || text[0] < '0' || text[0] > '9') return -1;
  return std::strtoll(text.c_str(), nullptr, 10);
}

// Calls visit(folder) for this process's cgroup of a controller ("" for version 2) and each of its
// parents, as far as they are mounted here; in a container only the root of them may be.
template <typename Visit>
void each_cgroup(const std::string& controller, Visit visit) {
  const std::string lines = read_file("/proc/self/cgroup");
  const std::string mount = controller.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
  const std::string wanted = std::string(",").append(controller).append(",");
  for (size_t begin = 0; begin < lines.size();) {
    const size_t end = std::min(lines.find('\n', begin), lines.size());
    const std::string line = lines.substr(begin, end - begin);  // "4:memory:/path", "0::/path"
    begin = end + 1;
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::string names = line.substr(first, second - first);  // ":cpu,cpuacct", ":" for version 2
    names[0] = ',';
    names.push_back(',');
    const bool named = names.find(wanted) != std::string::npos;
    if (!named) continue;
    std::string path = line.substr(second + 1);
    while (true) {
      if (path == "/") path = "";
      visit(mount + path);
      if (path.empty()) break;
      path.resize(path.rfind('/'));
    }
  }
}

// usage less what the kernel would drop before it fails an allocation.
int64_t left_of(int64_t limit, int64_t usage, int64_t droppable) {
  return std::max<int64_t>(0, limit - usage + std::max<int64_t>(0, droppable));
}

}  // namespace

int usable_cores() {
  int cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  double quota = cores;
  each_cgroup("", [&](const std::string& folder) {
    const std::string text = read_file(folder + "/cpu.max");  // "200000 100000", "max 100000"
    double allowed, period;
    if (std::sscanf(text.c_str(), "%lf %lf", &allowed, &period) == 2 && period > 0)
      quota = std::min(quota, allowed / period);
  });
  each_cgroup("cpu", [&](const std::string& folder) {
    const int64_t allowed = number_in(folder + "/cpu.cfs_quota_us");
    const int64_t period = number_in(folder + "/cpu.cfs_period_us");
    if (allowed > 0 && period > 0)
      quota = std::min(quota, static_cast<double>(allowed) / static_cast<double>(period));
  });
  return std::max(1, std::min(cores, static_cast<int>(std::ceil(quota))));
}

int best_simd() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return 3;
  if (__builtin_cpu_supports("x86-64-v3")) return 2;
  if (__builtin_cpu_supports("x86-64-v2")) return 1;
  return 0;
}

int64_t free_memory() {
  int64_t left = value_of(read_file("/proc/meminfo"), "MemAvailable:");
  left = left < 0 ? static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE)
                  : left * 1024;
  each_cgroup("", [&](const std::string& folder) {
    const int64_t limit = number_in(folder + "/memory.max");
    const int64_t usage = number_in(folder + "/memory.current");
    if (limit >= 0 && usage >= 0)
      left = std::min(
          left,
          left_of(limit, usage, value_of(read_file(folder + "/memory.stat"), "inactive_file ")));
  });
  each_cgroup("memory", [&](const std::string& folder) {
    const int64_t limit = number_in(folder + "/memory.limit_in_bytes");
    const int64_t usage = number_in(folder + "/memory.usage_in_bytes");
    if (limit >= 0 && usage >= 0 && limit < INT64_MAX / 2)
      left = std::min(
          left, left_of(limit, usage,
                        value_of(read_file(folder + "/memory.stat"), "total_inactive_file ")));
  });
  return left;
}

void processor_name(char* text, size_t size) {
  unsigned words[12] = {};
  unsigned a, b, c, d;
  if (__get_cpuid(0x80000000u, &a, &b, &c, &d) != 0 && a >= 0x80000004u)
    for (unsigned i = 0; i < 3; ++i)
      __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                  &words[4 * i + 3]);
  char brand[sizeof words + 1] = {};
  std::memcpy(brand, words, sizeof words);
  const char* begin = brand;
  while (*begin == ' ') ++begin;
  std::snprintf(text, size, "%s", *begin != 0 ? begin : "x86-64");
}

}  // namespace gatun::cpu
