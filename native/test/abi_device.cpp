// Devices, streams, events, memory and faults as a caller of the C ABI sees them.
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "testing.h"

namespace {

gatun_device open_cpu(int64_t budget = 0, int32_t simd = 0, int32_t threads = 1) {
  gatun_device_options options = {};
  options.struct_size = sizeof options;
  options.threads = threads;
  options.simd = simd;
  options.memory_budget_bytes = budget;
  gatun_device device;
  CHECK_OK(gatun_device_open("cpu", &options, &device));
  return device;
}

gatun_device_info info_of(gatun_device device) {
  gatun_device_info info = {};
  info.struct_size = sizeof info;
  CHECK_OK(gatun_device_get_info(device, &info));
  return info;
}

bool says(const char* part) { return std::strstr(gatun_last_error(), part) != nullptr; }

#define CHECK_FAILS(call, status, part)                                                        \
  do {                                                                                         \
    const gatun_status got = (call);                                                           \
    if (got != (status) || !says(part)) {                                                      \
      std::fprintf(stderr, "%s:%d: %s gave %d \"%s\", wanted %d \"%s\"\n", __FILE__, __LINE__, \
                   #call, static_cast<int>(got), gatun_last_error(), static_cast<int>(status), \
                   part);                                                                      \
      std::exit(1);                                                                            \
    }                                                                                          \
  } while (false)

void levels() {
  gatun_device device = open_cpu();
  const int32_t best = info_of(device).simd;
  CHECK(best >= 1 && best <= 3);
  CHECK_OK(gatun_device_close(device));
  for (int32_t simd = 1; simd <= 3; ++simd) {
    gatun_device_options options = {};
    options.struct_size = sizeof options;
    options.simd = simd;
    const gatun_status status = gatun_device_open("cpu", &options, &device);
    if (simd > best) {
      CHECK(status == GATUN_UNAVAILABLE);
      std::printf("skipped: SIMD level %d is not on this machine\n", simd);
      continue;
    }
    CHECK_OK(status);
    CHECK(info_of(device).simd == simd);
    CHECK_OK(gatun_device_close(device));
  }
}

void names() {
  gatun_device device;
  CHECK_FAILS(gatun_device_open("gpu", nullptr, &device), GATUN_UNAVAILABLE, "\"gpu\"");
  CHECK_FAILS(gatun_device_open("cuda:x", nullptr, &device), GATUN_UNAVAILABLE, "cuda:N");
  // plugins: there or not, as this build has it
  if (gatun_device_open("sim", nullptr, &device) == GATUN_OK)
    CHECK_OK(gatun_device_close(device));
  else
    CHECK(says("libgatun_sim.so"));
  if (gatun_device_open("cuda", nullptr, &device) == GATUN_OK)
    CHECK_OK(gatun_device_close(device));
  else
    CHECK(says("cuda: "));
}

void handles() {
  gatun_device device = open_cpu(), other = open_cpu();
  gatun_stream stream;
  CHECK_OK(gatun_stream_create(device, &stream));
  gatun_buffer buffer;
  CHECK_OK(gatun_buffer_alloc(stream, 1000, GATUN_WEIGHTS, &buffer));
  CHECK(info_of(device).buffers == 1);
  CHECK_FAILS(gatun_stream_wait(buffer), GATUN_INVALID_HANDLE, "is a buffer handle, a stream");
  CHECK_FAILS(gatun_stream_wait(0), GATUN_INVALID_HANDLE, "is 0");
  CHECK_FAILS(gatun_stream_wait(12345), GATUN_INVALID_HANDLE, "not a handle of this library");
  CHECK_OK(gatun_buffer_free(buffer));
  CHECK_FAILS(gatun_buffer_free(buffer), GATUN_INVALID_HANDLE, "was freed");
  gatun_buffer next;
  CHECK_OK(gatun_buffer_alloc(stream, 1000, GATUN_WEIGHTS, &next));
  CHECK(next != buffer);  // the same slot, perhaps, and another generation
  const gatun_tensor stale = tensor_of(buffer, GATUN_F32, {4});
  CHECK_FAILS(gatun_fill(stream, &stale, 1), GATUN_INVALID_HANDLE, "fill: out: buffer");
  gatun_stream foreign;
  CHECK_OK(gatun_stream_create(other, &foreign));
  const gatun_tensor tensor = tensor_of(next, GATUN_F32, {4});
  CHECK_FAILS(gatun_fill(foreign, &tensor, 1), GATUN_INVALID_HANDLE, "another device");
  // closing the device ends all that belongs to it
  CHECK_OK(gatun_device_close(device));
  CHECK_FAILS(gatun_stream_wait(stream), GATUN_INVALID_HANDLE, "was closed");
  CHECK_FAILS(gatun_buffer_free(next), GATUN_INVALID_HANDLE, "was freed");
  CHECK_FAILS(gatun_device_close(device), GATUN_INVALID_HANDLE, "was closed");
  CHECK_OK(gatun_device_close(other));
}

void order_and_events() {
  gatun_device device = open_cpu();
  gatun_stream first, second;
  CHECK_OK(gatun_stream_create(device, &first));
  CHECK_OK(gatun_stream_create(device, &second));
  gatun_buffer buffer;
  constexpr int kCount = 1 << 20;
  CHECK_OK(gatun_buffer_alloc(first, kCount * 4, GATUN_OTHER, &buffer));
  const gatun_tensor tensor = tensor_of(buffer, GATUN_F32, {kCount});
  gatun_event start, end, never;
  CHECK_OK(gatun_event_create(device, &start));
  CHECK_OK(gatun_event_create(device, &end));
  CHECK_OK(gatun_event_create(device, &never));
  double millis = -1;
  CHECK_FAILS(gatun_event_elapsed(start, never, &millis), GATUN_INVALID_ARGUMENT,
              "start was never recorded");
  CHECK_OK(gatun_event_wait(never));
  CHECK_OK(gatun_stream_wait_event(second, never));
  CHECK_OK(gatun_event_record(start, first));
  // more ops than the queue holds, each of which depends on the one before
  CHECK_OK(gatun_fill(first, &tensor, 0));
  const gatun_tensor head = tensor_of(buffer, GATUN_F32, {1});
  const gatun_tensor one = tensor_of(buffer, GATUN_F32, {1}, 4);
  CHECK_OK(gatun_fill(first, &one, 1));
  for (int i = 0; i < 5000; ++i) CHECK_OK(gatun_add(first, &head, &head, &one));
  CHECK_OK(gatun_event_record(end, first));
  CHECK_OK(gatun_stream_wait_event(second, end));
  CHECK_OK(gatun_add(second, &head, &head, &one));
  float value;
  CHECK_OK(gatun_buffer_read(second, &value, buffer, 0, sizeof value));
  CHECK(value == 5001);
  CHECK_OK(gatun_event_elapsed(start, end, &millis));
  CHECK(millis > 0 && millis < 60000);
  // source memory may be reused when a write returns: small (in the queue), medium (staged), large
  for (int64_t bytes : {int64_t{4}, int64_t{1000}, int64_t{100000}, int64_t{kCount * 4}}) {
    std::vector<unsigned char> source(static_cast<size_t>(bytes)), back(source.size());
    for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<unsigned char>(i * 7 + 1);
    const std::vector<unsigned char> expected = source;
    CHECK_OK(gatun_buffer_write(first, buffer, 0, source.data(), bytes));
    std::fill(source.begin(), source.end(), static_cast<unsigned char>(0));
    CHECK_OK(gatun_buffer_read(first, back.data(), buffer, 0, bytes));
    CHECK(back == expected);
  }
  CHECK_OK(gatun_event_destroy(start));
  CHECK_OK(gatun_stream_destroy(second));
  CHECK_FAILS(gatun_event_record(end, second), GATUN_INVALID_HANDLE, "was closed");
  CHECK_OK(gatun_device_close(device));
}

void memory() {
  constexpr int64_t kMiB = 1 << 20;
  gatun_device device = open_cpu(64 * kMiB);
  gatun_stream stream;
  CHECK_OK(gatun_stream_create(device, &stream));
  gatun_buffer weights, activations, refused;
  CHECK_OK(gatun_buffer_alloc(stream, 10 * kMiB, GATUN_WEIGHTS, &weights));
  CHECK_OK(gatun_buffer_alloc(stream, 40 * kMiB, GATUN_ACTIVATIONS, &activations));
  gatun_device_info info = info_of(device);
  CHECK(info.memory_budget_bytes == 64 * kMiB);
  CHECK(info.memory_used_bytes == 50 * kMiB);
  CHECK(info.memory_peak_bytes == 50 * kMiB);
  CHECK_FAILS(
      gatun_buffer_alloc(stream, 20 * kMiB, GATUN_GRADIENTS, &refused), GATUN_OUT_OF_MEMORY,
      "out of device memory: a buffer for gradients needs 21.0 MB, 14.7 MB free of 67.1 MB; "
      "largest holders: activations 41.9 MB, weights 10.5 MB");
  CHECK_OK(gatun_buffer_free(activations));
  CHECK(info_of(device).memory_used_bytes == 10 * kMiB);
  CHECK(info_of(device).memory_reserved_bytes == 50 * kMiB);  // kept for reuse
  CHECK(info_of(device).memory_peak_bytes == 50 * kMiB);
  CHECK_OK(gatun_device_reset_peak(device));
  CHECK(info_of(device).memory_peak_bytes == 10 * kMiB);
  // what is cached makes way for what is asked for
  CHECK_OK(gatun_buffer_alloc(stream, 50 * kMiB, GATUN_KV_CACHE, &activations));
  CHECK(info_of(device).memory_reserved_bytes == 60 * kMiB);
  CHECK_OK(gatun_buffer_free(activations));
  CHECK_OK(gatun_device_trim(device));
  CHECK(info_of(device).memory_reserved_bytes == 10 * kMiB);
  // trimmed memory is usable again
  CHECK_OK(gatun_buffer_alloc(stream, 50 * kMiB, GATUN_KV_CACHE, &activations));
  const gatun_tensor all = tensor_of(activations, GATUN_U8, {50 * kMiB});
  CHECK_OK(gatun_fill(stream, &all, 7));
  unsigned char last = 0;
  CHECK_OK(gatun_buffer_read(stream, &last, activations, 50 * kMiB - 1, 1));
  CHECK(last == 7);
  CHECK_OK(gatun_buffer_free(activations));
  // 0 bytes is a buffer
  CHECK_OK(gatun_buffer_alloc(stream, 0, GATUN_OTHER, &refused));
  const gatun_tensor empty = tensor_of(refused, GATUN_F32, {0, 5});
  CHECK_OK(gatun_fill(stream, &empty, 1));
  CHECK_OK(gatun_buffer_free(refused));
  CHECK_FAILS(gatun_buffer_alloc(stream, -1, GATUN_OTHER, &refused), GATUN_INVALID_ARGUMENT,
              "below 0");
  CHECK_FAILS(gatun_buffer_alloc(stream, INT64_MAX, GATUN_OTHER, &refused), GATUN_OUT_OF_MEMORY,
              "9.22 EB");
  // every size is aligned, and its own
  std::vector<gatun_buffer> buffers;
  for (int64_t bytes = 1; bytes < 3 * kMiB; bytes += bytes / 3 + 1) {
    gatun_buffer buffer;
    CHECK_OK(gatun_buffer_alloc(stream, bytes, GATUN_OTHER, &buffer));
    void* address;
    int64_t size;
    CHECK_OK(gatun_buffer_get(buffer, &address, &size));
    CHECK(reinterpret_cast<uintptr_t>(address) % 64 == 0 && size == bytes);
    std::memset(address, static_cast<int>(buffers.size()), static_cast<size_t>(bytes));
    buffers.push_back(buffer);
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    void* address;
    int64_t size;
    CHECK_OK(gatun_buffer_get(buffers[i], &address, &size));
    const auto* bytes = static_cast<unsigned char*>(address);
    for (int64_t k = 0; k < size; ++k) CHECK(bytes[k] == static_cast<unsigned char>(i));
    CHECK_OK(gatun_buffer_free(buffers[i]));
  }
  CHECK(info_of(device).memory_used_bytes == 10 * kMiB);
  CHECK_OK(gatun_buffer_free(weights));
  CHECK(info_of(device).memory_used_bytes == 0 && info_of(device).buffers == 0);
  CHECK_OK(gatun_device_close(device));
  // where the machine itself has no more, the sentence is the same
  device = open_cpu(INT64_MAX);
  CHECK_OK(gatun_stream_create(device, &stream));
  CHECK_FAILS(gatun_buffer_alloc(stream, int64_t{1} << 60, GATUN_WEIGHTS, &refused),
              GATUN_OUT_OF_MEMORY, "out of device memory: a buffer for weights needs 1.15 EB");
  CHECK_OK(gatun_device_close(device));
}

void wrapped() {
  gatun_device device = open_cpu();
  gatun_stream stream;
  CHECK_OK(gatun_stream_create(device, &stream));
  constexpr size_t kBytes = 1 << 22;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  gatun_buffer buffer;
  CHECK_OK(gatun_buffer_wrap(device, memory, kBytes, &buffer));
  const gatun_tensor tensor = tensor_of(buffer, GATUN_F32, {kBytes / 4});
  for (int i = 0; i < 20; ++i) CHECK_OK(gatun_fill(stream, &tensor, i));
  CHECK_OK(gatun_buffer_free(buffer));  // waits: now the memory may go
  CHECK(static_cast<float*>(memory)[kBytes / 4 - 1] == 19);
  munmap(memory, kBytes);
  CHECK_FAILS(gatun_fill(stream, &tensor, 1), GATUN_INVALID_HANDLE, "was freed");
  float unaligned[4];
  CHECK_FAILS(gatun_buffer_wrap(device, reinterpret_cast<char*>(unaligned) + 1, 4, &buffer),
              GATUN_INVALID_ARGUMENT, "aligned to 4");
  CHECK_OK(gatun_device_close(device));
}

void faults() {
  gatun_device device = open_cpu();
  gatun_stream stream;
  CHECK_OK(gatun_stream_create(device, &stream));
  gatun_buffer buffer;
  CHECK_OK(gatun_buffer_alloc(stream, 4096, GATUN_OTHER, &buffer));
  const gatun_tensor all = tensor_of(buffer, GATUN_F32, {1024});
  CHECK_OK(gatun_fill(stream, &all, 0));
  const gatun_tensor out = tensor_of(buffer, GATUN_F32, {1, 4});
  const gatun_tensor table = tensor_of(buffer, GATUN_F32, {3, 4}, 1024);
  const gatun_tensor ids = tensor_of(buffer, GATUN_I32, {1}, 2048);
  CHECK_OK(gatun_fill(stream, &ids, 9));
  CHECK_OK(gatun_embedding_forward(stream, &out, &ids, &table, nullptr, nullptr));
  CHECK_OK(gatun_fill(stream, &ids, 77));
  CHECK_OK(gatun_embedding_forward(stream, &out, &ids, &table, nullptr, nullptr));
  // the first one is reported, once, by a call that waits
  CHECK_FAILS(gatun_stream_wait(stream), GATUN_OUT_OF_RANGE, "embedding");
  CHECK(says("9") && !says("77"));
  CHECK_OK(gatun_stream_wait(stream));
  CHECK_OK(gatun_device_wait(device));
  CHECK_OK(gatun_device_close(device));
}

// An op whose scratch does not fit is a fault with the budget's sentence; the device goes on.
void workspace() {
  constexpr int64_t kBudget = 8 << 20, kT = 512, kH = 4, kD = 64;
  gatun_device device = open_cpu(kBudget);
  gatun_stream stream;
  CHECK_OK(gatun_stream_create(device, &stream));
  constexpr int64_t kBytes = kH * kT * kD * 2;
  gatun_tensor tensors[8], lse;
  for (gatun_tensor& tensor : tensors) {
    gatun_buffer buffer;
    CHECK_OK(gatun_buffer_alloc(stream, kBytes, GATUN_ACTIVATIONS, &buffer));
    tensor = tensor_of(buffer, GATUN_BF16, {1, kH, kT, kD});
    CHECK_OK(gatun_fill(stream, &tensor, 0.5));
  }
  gatun_buffer buffer, rest;
  CHECK_OK(gatun_buffer_alloc(stream, kH * kT * 4, GATUN_ACTIVATIONS, &buffer));
  lse = tensor_of(buffer, GATUN_F32, {1, kH, kT});
  const gatun_device_info info = info_of(device);
  CHECK_OK(gatun_buffer_alloc(stream, kBudget - info.memory_reserved_bytes, GATUN_WEIGHTS, &rest));
  const auto backward = [&] {
    return gatun_attention_backward(stream, &tensors[0], &tensors[1], &tensors[2], &tensors[3],
                                    &tensors[4], &lse, &tensors[5], &tensors[6], &tensors[7],
                                    nullptr, 0);
  };
  CHECK_OK(gatun_attention_forward(stream, &tensors[4], nullptr, &tensors[5], &tensors[6],
                                   &tensors[7], nullptr));
  gatun_status status = gatun_stream_wait(stream);
  CHECK(status == GATUN_OK || status == GATUN_OUT_OF_MEMORY);
  CHECK_OK(backward());
  CHECK_FAILS(gatun_stream_wait(stream), GATUN_OUT_OF_MEMORY,
              "out of device memory: attention_backward needs");
  CHECK(says("largest holders: weights"));
  CHECK_OK(gatun_buffer_free(rest));
  CHECK_OK(gatun_fill(stream, &lse, 0));
  CHECK_OK(backward());
  CHECK_OK(gatun_stream_wait(stream));
  CHECK(info_of(device).memory_used_bytes > info.memory_used_bytes);  // the workspace is kept
  CHECK_OK(gatun_device_trim(device));
  CHECK(info_of(device).memory_used_bytes == info.memory_used_bytes);
  CHECK_OK(gatun_device_close(device));
}

// What the options of a product must not be together, and that a residual may be out itself.
void products() {
  gatun_device device = open_cpu();
  gatun_stream stream;
  CHECK_OK(gatun_stream_create(device, &stream));
  gatun_buffer buffer;
  CHECK_OK(gatun_buffer_alloc(stream, 1024, GATUN_OTHER, &buffer));
  const gatun_tensor a = tensor_of(buffer, GATUN_F32, {4, 4});
  const gatun_tensor out = tensor_of(buffer, GATUN_F32, {4, 4}, 64);
  const gatun_tensor other = tensor_of(buffer, GATUN_F32, {4, 4}, 128);
  const gatun_tensor shifted = tensor_of(buffer, GATUN_F32, {4, 4}, 80);
  const gatun_tensor narrow = tensor_of(buffer, GATUN_F32, {4, 3}, 128);
  const gatun_tensor half = tensor_of(buffer, GATUN_F16, {4, 4}, 128);
  const auto with = [&](const auto& change) {
    gatun_matmul_args args = {};
    args.struct_size = sizeof args;
    change(args);
    return gatun_matmul(stream, &out, &a, &a, &args);
  };
  const auto residual = [&](const gatun_tensor& tensor, int32_t accumulate = 0) {
    return with([&](gatun_matmul_args& args) {
      args.residual = &tensor;
      args.accumulate = accumulate;
    });
  };
  const auto gradient = [&](const gatun_tensor* preactivation) {
    return with([&](gatun_matmul_args& args) {
      args.epilogue = GATUN_EPILOGUE_GELU_GRADIENT;
      args.preactivation = preactivation;
    });
  };
  CHECK_FAILS(with([](gatun_matmul_args& args) { args.epilogue = 4; }), GATUN_INVALID_ARGUMENT,
              "matmul: args->epilogue is 4, epilogues are 0 to 3");
  CHECK_FAILS(with([](gatun_matmul_args& args) { args.precision = -1; }), GATUN_INVALID_ARGUMENT,
              "matmul: args->precision is -1, precisions are 0 to 1");
  CHECK_FAILS(residual(other, 1), GATUN_INVALID_ARGUMENT,
              "accumulate and a residual cannot be combined");
  CHECK_FAILS(residual(narrow), GATUN_INVALID_ARGUMENT,
              "residual is [4, 3], out is [4, 4]: they must be the same");
  CHECK_FAILS(residual(half), GATUN_INVALID_ARGUMENT,
              "residual is f16, out is f32: they must be the same");
  CHECK_FAILS(residual(shifted), GATUN_INVALID_ARGUMENT,
              "out overlaps residual; it may be the same tensor, or apart from it");
  CHECK_FAILS(gradient(nullptr), GATUN_INVALID_ARGUMENT,
              "the epilogue GELU_GRADIENT reads a preactivation, preactivation is null");
  CHECK_FAILS(gradient(&out), GATUN_INVALID_ARGUMENT, "out overlaps preactivation");
  CHECK_FAILS(with([&](gatun_matmul_args& args) { args.preactivation = &other; }),
              GATUN_INVALID_ARGUMENT, "only the epilogues BIAS_GELU and GELU_GRADIENT");
  CHECK_OK(gatun_fill(stream, &a, 1));
  CHECK_OK(gatun_fill(stream, &out, 2));
  CHECK_OK(residual(out));
  float values[16];
  CHECK_OK(gatun_buffer_read(stream, values, buffer, 64, sizeof values));
  for (float value : values) CHECK(value == 6);
  CHECK_OK(gradient(&other));
  CHECK_OK(gatun_device_close(device));
}

void profile() {
  gatun_device device = open_cpu();
  gatun_stream stream;
  CHECK_OK(gatun_stream_create(device, &stream));
  gatun_buffer buffer;
  CHECK_OK(gatun_buffer_alloc(stream, 1 << 20, GATUN_OTHER, &buffer));
  const gatun_tensor a = tensor_of(buffer, GATUN_F32, {64, 64});
  const gatun_tensor b = tensor_of(buffer, GATUN_F32, {64, 64}, 64 * 64 * 4);
  CHECK_OK(gatun_fill(stream, &a, 1));  // before: not counted
  CHECK_OK(gatun_profile_enable(device, 1));
  CHECK_OK(gatun_fill(stream, &a, 1));
  for (int i = 0; i < 3; ++i) CHECK_OK(gatun_matmul(stream, &b, &a, &a, nullptr));
  CHECK_OK(gatun_profile_enable(device, 0));
  CHECK_OK(gatun_fill(stream, &a, 1));  // after: not counted
  gatun_profile_entry entries[8];
  int32_t count = 0;
  CHECK_OK(gatun_profile_read(device, entries, 8, &count));
  CHECK(count == 2);
  for (int i = 0; i < count; ++i) {
    const gatun_profile_entry& entry = entries[i];
    const bool matmul = std::string(entry.op) == "matmul";
    CHECK(matmul || std::string(entry.op) == "fill");
    CHECK(entry.calls == (matmul ? 3 : 1));
    CHECK(entry.nanos > 0);
    CHECK(entry.flops == (matmul ? 3 * 2.0 * 64 * 64 * 64 : 0));
    CHECK(entry.bytes == (matmul ? 3 * 3.0 : 1.0) * 64 * 64 * 4);
  }
  CHECK(entries[0].nanos >= entries[1].nanos);
  CHECK_OK(gatun_device_close(device));
}

// Handles are looked up while other threads close and reopen them: wrong, perhaps, never a crash.
void races() {
  gatun_device device = open_cpu(256 << 20);
  constexpr int kThreads = 4, kSlots = 8;
  std::atomic<gatun_buffer> shared[kSlots] = {};
  std::atomic<bool> done{false};
  std::atomic<int64_t> good{0}, stale{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      gatun_stream stream;
      CHECK_OK(gatun_stream_create(device, &stream));
      uint64_t state = 0x9e3779b97f4a7c15u * static_cast<uint64_t>(t + 1);
      while (!done.load(std::memory_order_relaxed)) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        std::atomic<gatun_buffer>& slot = shared[state >> 61];
        switch (state >> 40 & 15) {
          case 0:
          case 1: {
            gatun_buffer fresh;
            CHECK_OK(gatun_buffer_alloc(stream, (state >> 44 & 1) != 0 ? 4096 : 3 << 20,
                                        GATUN_OTHER, &fresh));
            const gatun_buffer old = slot.exchange(fresh);
            if (old != 0) CHECK_OK(gatun_buffer_free(old));
            break;
          }
          case 2: {
            static thread_local float host[1024];
            gatun_buffer wrap;
            CHECK_OK(gatun_buffer_wrap(device, host, sizeof host, &wrap));
            const gatun_tensor tensor = tensor_of(wrap, GATUN_F32, {1024});
            CHECK_OK(gatun_fill(stream, &tensor, 1));
            CHECK_OK(gatun_buffer_free(wrap));
            break;
          }
          case 3:
            if ((state >> 48 & 31) == 0) CHECK_OK(gatun_device_trim(device));
            break;
          case 4:
            CHECK_OK(gatun_stream_destroy(stream));
            CHECK_OK(gatun_stream_create(device, &stream));
            break;
          default: {
            const gatun_tensor tensor = tensor_of(slot.load(), GATUN_F32, {1024});
            const gatun_status status = gatun_fill(stream, &tensor, 1);
            if (status == GATUN_OK)
              ++good;
            else if (status == GATUN_INVALID_HANDLE)
              ++stale;
            else
              CHECK_OK(status);
          }
        }
      }
    });
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  done = true;
  for (std::thread& thread : threads) thread.join();
  CHECK_OK(gatun_device_close(device));
  std::printf("races: %lld fills went well, %lld met a dead buffer\n", static_cast<long long>(good),
              static_cast<long long>(stale));
  CHECK(good > 1000);

  // a device closed under the hands of its users
  for (int round = 0; round < 20; ++round) {
    device = open_cpu(64 << 20);
    std::vector<std::thread> users;
    std::atomic<int> ready{0};
    for (int t = 0; t < 3; ++t)
      users.emplace_back([&] {
        gatun_stream stream;
        CHECK_OK(gatun_stream_create(device, &stream));
        ++ready;
        gatun_status status = GATUN_OK;
        while (status == GATUN_OK) {
          gatun_buffer buffer;
          status = gatun_buffer_alloc(stream, 4096, GATUN_OTHER, &buffer);
          if (status != GATUN_OK) break;
          const gatun_tensor tensor = tensor_of(buffer, GATUN_F32, {1024});
          status = gatun_fill(stream, &tensor, 1);
          if (status == GATUN_OK) status = gatun_stream_wait(stream);
          const gatun_status freed = gatun_buffer_free(buffer);
          if (status == GATUN_OK) status = freed;
        }
        CHECK(status == GATUN_INVALID_HANDLE);
      });
    while (ready < 3) std::this_thread::yield();
    CHECK_OK(gatun_device_close(device));
    for (std::thread& user : users) user.join();
  }
}

}  // namespace

int main() {
  CHECK(std::strlen(gatun_last_error()) == 0);
  levels();
  names();
  handles();
  order_and_events();
  memory();
  wrapped();
  faults();
  workspace();
  products();
  profile();
  races();
  std::printf("ok\n");
  return 0;
}
