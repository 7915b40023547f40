// Opens a plugin as the core does. libgatun_cuda.so without a GPU: it loads, is of this build, and
// says in a sentence why there is no device. With one, and libgatun_sim.so anywhere: streams,
// events, memory, large copies and layer_norm against a plain computation; with a second device,
// the same there and on both at once. Usage: plugin_test PATH cuda|sim
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
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

// Copies of more than the chunks that they are staged in: two streams at once, each behind what the
// other one wrote, the source overwritten as soon as the call is back.
void test_large_copies(Driver& driver, Memory& memory) {
  const size_t sizes[] = {size_t{64} << 10, (size_t{64} << 10) + 1, size_t{8} << 20,
                          (size_t{20} << 20) + 13, (size_t{24} << 20)};
  auto copies = [&](uint64_t seed) {
    Failure failure;
    std::mt19937_64 random(seed);
    void *stream, *other, *event;
    for (void** s : {&stream, &other})
      must("create_stream", driver.create_stream(s, failure), failure);
    must("create_event", driver.create_event(&event, failure), failure);
    for (const size_t size : sizes) {
      const auto bytes = static_cast<int64_t>(size);
      std::vector<unsigned char> wanted(size), source, result(size);
      for (unsigned char& byte : wanted) byte = static_cast<unsigned char>(random());
      void* buffer;
      must("allocate", driver.allocate(stream, bytes, GATUN_OTHER, &buffer, failure), failure);
      for (int round = 0; round < 2; ++round) {
        source = wanted;
        must("write", driver.write(stream, buffer, source.data(), bytes, failure), failure);
        std::fill(source.begin(), source.end(), static_cast<unsigned char>(0xee));
        for (size_t i = 0; i < size; i += 4093) ++wanted[i];
      }
      for (size_t i = 0; i < size; i += 4093) --wanted[i];
      must("record", driver.record(event, stream, failure), failure);
      must("stream_wait", driver.stream_wait(other, event, failure), failure);
      must("read", driver.read(other, result.data(), buffer, bytes, failure), failure);
      if (result != wanted) die("large copies", std::to_string(size).c_str());
      driver.release(stream, buffer, bytes, GATUN_OTHER);
    }
    driver.destroy_event(event);
    for (void* s : {stream, other}) driver.destroy_stream(s);
  };
  std::thread beside(copies, 2);
  copies(1);
  beside.join();
  Failure failure;
  must("wait", driver.wait(nullptr, failure), failure);
  if (memory.used() != 0) die("memory", "is not all given back");
}

// Memory of one device is refused by the other; both work at once, called from one thread in turn
// and from two.
void test_two_devices(Driver& first, Memory& first_memory, Driver& second, Memory& second_memory) {
  Failure failure;
  void *stream, *buffer;
  must("create_stream", first.create_stream(&stream, failure), failure);
  must("allocate", first.allocate(stream, 4096, GATUN_OTHER, &buffer, failure), failure);
  must("wait", first.wait(stream, failure), failure);
  must("wrap", first.wrap(buffer, 4096, failure), failure);
  if (second.wrap(buffer, 4096, failure) != GATUN_INVALID_ARGUMENT)
    die("wrap", "took another device's memory");
  first.release(stream, buffer, 4096, GATUN_OTHER);
  first.destroy_stream(stream);

  gatun_device_info info[2] = {};
  first.describe(info[0]);
  second.describe(info[1]);
  if (std::strcmp(info[0].name, info[1].name) == 0) die("describe", info[0].name);

  test_device(first, first_memory);
  test_device(second, second_memory);
  std::thread beside([&] {
    for (int i = 0; i < 3; ++i) test_device(second, second_memory);
  });
  for (int i = 0; i < 3; ++i) test_device(first, first_memory);
  beside.join();
}

// A budget of more than the device has: the sentence gives the device's figure, too.
void test_full_device(Driver& driver, Memory& memory) {
  const int64_t budget = memory.budget, used = memory.used();
  memory.budget = int64_t{1} << 50;
  Failure failure;
  void *stream, *address;
  must("create_stream", driver.create_stream(&stream, failure), failure);
  constexpr int64_t kBytes = int64_t{1} << 45;
  if (driver.allocate(stream, kBytes, GATUN_OTHER, &address, failure) != GATUN_OUT_OF_MEMORY)
    die("a full device", "has 35 TB");
  char message[400];
  memory.describe_shortage(message, sizeof message, "a test", kBytes);
  if (std::strstr(message, "a test needs 35.2 TB") == nullptr ||
      std::strstr(message, ", but the device has only ") == nullptr)
    die("a full device", message);
  memory.budget = budget;
  if (driver.allocate(stream, kBytes, GATUN_OTHER, &address, failure) != GATUN_OUT_OF_MEMORY)
    die("a full device", "beyond its budget");
  memory.describe_shortage(message, sizeof message, "a test", kBytes);
  if (std::strstr(message, "only") != nullptr || memory.used() != used) die("the budget", message);
  driver.destroy_stream(stream);
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
  Memory memory, second_memory;
  Driver *driver = nullptr, *second = nullptr;
  Failure failure;
  if (plugin->open(argv[2], options, memory, &driver, failure) == GATUN_OK) {
    test_device(*driver, memory);
    test_large_copies(*driver, memory);
    test_full_device(*driver, memory);
    std::printf("%s:0 works\n", argv[2]);
    const std::string name = std::string(argv[2]) + ":1";
    if (plugin->open(name.c_str(), options, second_memory, &second, failure) == GATUN_OK) {
      test_two_devices(*driver, memory, *second, second_memory);
      second->close();
      std::printf("%s works, and beside %s:0\n", name.c_str(), argv[2]);
    } else if (sim || failure.status != GATUN_UNAVAILABLE) {
      die("open", failure.message);
    } else {
      std::printf("skipped the part of two devices: %s\n", failure.message);
    }
    driver->close();
    return 0;
  }
  if (sim || failure.status != GATUN_UNAVAILABLE ||
      std::strncmp(failure.message, "cuda: no GPU", 12) != 0)
    die("open", failure.message);
  std::printf("skipped the device's part, no GPU: %s\n", failure.message);
  return 0;
}
