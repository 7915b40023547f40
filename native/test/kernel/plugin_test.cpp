// Opens a plugin as the core does. libgatun_cuda.so without a GPU: it loads, is of this build, and
// says in a sentence why there is no device. With one, and libgatun_sim.so anywhere: streams,
// events, memory and layer_norm against a plain computation. Usage: plugin_test PATH cuda|sim
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/driver.h"

using namespace gatun;

namespace {

[[noreturn]] void die(const char* what, const char* detail) {
  std::fprintf(stderr, "FAILED %s: %s\n", what, detail);
  std::exit(1);
}

void must(const char* what, gatun_status status, const Failure& failure) {
  if (status != GATUN_OK) die(what, failure.message);
}

View rows_of(void* data, int64_t rows, int64_t columns) {
  View v;
  v.data = data;
  v.dtype = GATUN_F32;
  v.rank = columns == 0 ? 1 : 2;
  v.shape[0] = rows;
  v.stride[0] = columns == 0 ? 1 : columns;
  v.shape[1] = columns;
  v.stride[1] = 1;
  return v;
}

void test_device(Driver& driver, Memory& memory) {
  constexpr int64_t kRows = 300, kColumns = 768;
  constexpr int64_t kBytes = kRows * kColumns * 4;
  Failure failure;
  void *stream, *start, *end;
  must("create_stream", driver.create_stream(&stream, failure), failure);
  must("create_event", driver.create_event(&start, failure), failure);
  must("create_event", driver.create_event(&end, failure), failure);
  void *x, *y, *weight, *mean, *rstd;
  for (void** p : {&x, &y})
    must("allocate", driver.allocate(stream, kBytes, GATUN_OTHER, p, failure), failure);
  for (void** p : {&weight, &mean, &rstd})
    must("allocate", driver.allocate(stream, 4 * kColumns, GATUN_OTHER, p, failure), failure);
  std::vector<float> host(kRows * kColumns), ones(kColumns, 1.f), result(host.size());
  for (size_t i = 0; i < host.size(); ++i)
    host[i] = static_cast<float>((i * 7919) % 1000) / 250.f - 2.f;
  must("write", driver.write(stream, x, host.data(), kBytes, failure), failure);
  must("write", driver.write(stream, weight, ones.data(), 4 * kColumns, failure), failure);
  View w = rows_of(weight, kColumns, 0);
  LayerNormForward args{rows_of(y, kRows, kColumns),
                        {},
                        rows_of(mean, kRows, 0),
                        rows_of(rstd, kRows, 0),
                        rows_of(x, kRows, kColumns),
                        {},
                        w,
                        {},
                        1e-5,
                        0,
                        {}};
  must("record", driver.record(start, stream, failure), failure);
  must("submit", driver.submit(stream, Op::layer_norm_forward, &args, failure), failure);
  must("record", driver.record(end, stream, failure), failure);
  must("read", driver.read(stream, result.data(), y, kBytes, failure), failure);
  for (int64_t r = 0; r < kRows; ++r) {
    double total = 0, squares = 0;
    const float* row = host.data() + r * kColumns;
    for (int64_t i = 0; i < kColumns; ++i) total += row[i];
    total /= kColumns;
    for (int64_t i = 0; i < kColumns; ++i) squares += (row[i] - total) * (row[i] - total);
    for (int64_t i = 0; i < kColumns; ++i) {
      const double wanted = (row[i] - total) / std::sqrt(squares / kColumns + 1e-5);
      if (!(std::fabs(result[static_cast<size_t>(r * kColumns + i)] - wanted) < 1e-5))
        die("layer_norm_forward", "differs from float64");
    }
  }
  double millis = -1;
  must("elapsed", driver.elapsed(start, end, &millis, failure), failure);
  if (!(millis >= 0)) die("elapsed", "is negative");
  void* huge;
  if (driver.allocate(stream, memory.budget + 1, GATUN_OTHER, &huge, failure) !=
      GATUN_OUT_OF_MEMORY)
    die("allocate", "more than the budget was given");
  for (void* p : {x, y}) driver.release(stream, p, kBytes, GATUN_OTHER);
  for (void* p : {weight, mean, rstd}) driver.release(stream, p, 4 * kColumns, GATUN_OTHER);
  driver.destroy_event(start);
  driver.destroy_event(end);
  driver.destroy_stream(stream);
  must("wait", driver.wait(nullptr, failure), failure);
  if (memory.used() != 0) die("memory", "is not all given back");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) die("usage", "plugin_test PATH cuda|sim");
  const bool sim = std::strcmp(argv[2], "sim") == 0;
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) die("dlopen", dlerror());
  auto entry = reinterpret_cast<const Plugin* (*)()>(dlsym(library, "gatun_plugin"));
  if (entry == nullptr) die("dlsym", dlerror());
  const Plugin* plugin = entry();
  if (plugin->abi != kPluginAbi || plugin->fingerprint != plugin_fingerprint())
    die("plugin", "is of another build than this test");
  gatun_device_options options = {};
  options.struct_size = sizeof options;
  auto* memory = new Memory;
  Driver* driver = nullptr;
  Failure failure;
  if (plugin->open(argv[2], options, *memory, &driver, failure) == GATUN_OK) {
    test_device(*driver, *memory);
    driver->close();
    std::printf("%s:0 works\n", argv[2]);
    return 0;
  }
  if (sim || failure.status != GATUN_UNAVAILABLE ||
      std::strncmp(failure.message, "cuda: no GPU", 12) != 0)
    die("open", failure.message);
  std::printf("skipped the device's part, no GPU: %s\n", failure.message);
  return 0;
}
