// What a checked call costs its caller: nanoseconds a gatun_fill of one element over gatun_nop,
// while the device keeps up. Prints; fails only far beyond the target, as timings scatter.
#include <algorithm>
#include <chrono>

#include "testing.h"

namespace {

double nanos_of(int calls, void (*call)(void*), void* state) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) call(state);
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin)
             .count() /
         calls;
}

struct State {
  gatun_stream stream;
  gatun_tensor out, a;
};

}  // namespace

int main() {
  gatun_device_options options = {};
  options.struct_size = sizeof options;
  options.threads = 1;
  gatun_device device;
  CHECK_OK(gatun_device_open("cpu", &options, &device));
  State state = {};
  CHECK_OK(gatun_stream_create(device, &state.stream));
  gatun_buffer buffer;
  CHECK_OK(gatun_buffer_alloc(state.stream, 256, GATUN_OTHER, &buffer));
  state.out = tensor_of(buffer, GATUN_F32, {1});
  state.a = tensor_of(buffer, GATUN_F32, {1}, 64);
  double nop = 1e9, burst = 1e9, steady = 1e9, add = 1e9;
  for (int round = 0; round < 20; ++round) {
    nop = std::min(nop, nanos_of(
                            100000, [](void*) { gatun_nop(); }, &state));
    const auto fill = [](void* s) {
      auto* state = static_cast<State*>(s);
      CHECK(gatun_fill(state->stream, &state->out, 1) == GATUN_OK);
    };
    const auto sum = [](void* s) {
      auto* state = static_cast<State*>(s);
      CHECK(gatun_add(state->stream, &state->out, &state->a, &state->a) == GATUN_OK);
    };
    // the queue takes a burst without waiting for the worker
    for (int i = 0; i < 50; ++i) {
      CHECK_OK(gatun_stream_wait(state.stream));
      burst = std::min(burst, nanos_of(100, fill, &state));
      CHECK_OK(gatun_stream_wait(state.stream));
      add = std::min(add, nanos_of(100, sum, &state));
    }
    CHECK_OK(gatun_stream_wait(state.stream));
    steady = std::min(steady, nanos_of(100000, fill, &state));
    CHECK_OK(gatun_stream_wait(state.stream));
  }
  std::printf(
      "nop %.1f ns; fill [1] %.1f ns in bursts of 100, %.1f ns without end; add [1] %.1f ns\n", nop,
      burst, steady, add);
  CHECK_OK(gatun_device_close(device));
  CHECK(burst - nop < 2000);
  return 0;
}
