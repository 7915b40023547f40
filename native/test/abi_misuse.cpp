// Every exported function, called wrongly many thousand times: null, negative, zero, huge, NaN,
// misaligned, freed, foreign and made-up handles, another device's buffers, wrong struct sizes.
// Each call starts from a valid one. A call that was made wrong for certain must give a status and
// a sentence; one that was made strange may be right. None may end the process.
//
//   abi_misuse [seed [calls]]
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "testing.h"

namespace {

constexpr int64_t kBufferBytes = 64 << 10;
constexpr int kTensors = 12;

std::mt19937_64 generator;
uint64_t seed = 20261125;

uint64_t random_bits() { return generator(); }
int pick(int n) { return static_cast<int>(generator() % static_cast<uint64_t>(n)); }
template <typename T>
T one_of(std::initializer_list<T> values) {
  return values.begin()[pick(static_cast<int>(values.size()))];
}

int64_t strange_int() {
  return one_of<int64_t>({0,
                          1,
                          -1,
                          2,
                          3,
                          7,
                          63,
                          64,
                          65,
                          -64,
                          1000,
                          INT32_MAX,
                          INT32_MIN,
                          int64_t{1} << 31,
                          int64_t{1} << 32,
                          int64_t{1} << 40,
                          int64_t{1} << 62,
                          INT64_MAX,
                          INT64_MIN,
                          INT64_MAX - 1,
                          INT64_MIN + 1,
                          static_cast<int64_t>(random_bits())});
}
double strange_double() {
  return one_of<double>(
      {0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e300, -1e300, 1e9,
       std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
       -std::numeric_limits<double>::infinity(), std::numeric_limits<double>::denorm_min()});
}

// ---- the world: two devices, what belongs to them, what is gone ----

struct World {
  gatun_device device[2];
  gatun_stream stream[2];
  gatun_event event[2];
  gatun_graph graph;  // of the first device
  gatun_buffer buffer[2][kTensors];
  std::vector<uint64_t> dead;  // handles that were closed
  alignas(64) unsigned char host[kBufferBytes + 64];
} world;

gatun_device open_device() {
  gatun_device_options options = {};
  options.struct_size = sizeof options;
  options.threads = 1;
  options.memory_budget_bytes = 64 << 20;
  gatun_device device;
  CHECK_OK(gatun_device_open("cpu", &options, &device));
  return device;
}

void make_world() {
  for (int i = 0; i < 2; ++i) {
    world.device[i] = open_device();
    CHECK_OK(gatun_stream_create(world.device[i], &world.stream[i]));
    CHECK_OK(gatun_event_create(world.device[i], &world.event[i]));
    CHECK_OK(gatun_event_record(world.event[i], world.stream[i]));
    for (gatun_buffer& buffer : world.buffer[i]) {
      CHECK_OK(gatun_buffer_alloc(world.stream[i], kBufferBytes, GATUN_OTHER, &buffer));
      CHECK_OK(gatun_buffer_write(world.stream[i], buffer, 0, world.host, kBufferBytes));
    }
  }
  CHECK_OK(gatun_graph_begin(world.stream[0]));
  CHECK_OK(gatun_graph_end(world.stream[0], &world.graph));
  const gatun_device gone = open_device();
  gatun_stream stream;
  gatun_event event;
  gatun_graph graph;
  gatun_buffer buffer;
  CHECK_OK(gatun_stream_create(gone, &stream));
  CHECK_OK(gatun_event_create(gone, &event));
  CHECK_OK(gatun_buffer_alloc(stream, 4096, GATUN_OTHER, &buffer));
  CHECK_OK(gatun_graph_begin(stream));
  CHECK_OK(gatun_graph_end(stream, &graph));
  CHECK_OK(gatun_device_close(gone));
  world.dead = {gone, stream, event, graph, buffer};
  CHECK_OK(gatun_buffer_alloc(world.stream[0], 4096, GATUN_OTHER, &buffer));
  CHECK_OK(gatun_buffer_free(buffer));
  world.dead.push_back(buffer);
}

// A handle that is certainly not a live one of the kind (1 device, 2 stream, 3 event, 4 buffer, 5
// graph).
uint64_t wrong_handle(int kind) {
  switch (pick(5)) {
    case 0:
      return 0;
    case 1:
      return world.dead[static_cast<size_t>(pick(static_cast<int>(world.dead.size())))];
    case 2: {  // of another kind
      const uint64_t others[] = {world.device[0], world.stream[0], world.event[0],
                                 world.buffer[0][0], world.graph};
      const int other = pick(4);
      return others[other < kind - 1 ? other : other + 1];
    }
    case 3:  // a live index under a generation that was never reached
      return world.buffer[0][0] ^ (uint64_t{0x7ffff000} << 24) ^
             (static_cast<uint64_t>(kind ^ 4) << 56);
    default:
      return random_bits() | uint64_t{1} << 63;
  }
}

// ---- one call ----

struct Call {
  uint64_t handle[2] = {};
  int kind[2] = {};  // as above; 0: not used
  gatun_tensor storage[kTensors];
  const gatun_tensor* tensor[kTensors] = {};
  bool optional[kTensors] = {};
  int tensors = 0;
  double real[2] = {};
  int64_t integer[3] = {};
  uint32_t mask = 0;
  void* out = nullptr;  // where a result goes
  bool out_required = false;
  // option structs, and pointers to them that may be bent
  gatun_matmul_args matmul = {};
  gatun_attention_args attention = {};
  gatun_cross_entropy_args loss = {};
  gatun_sample_args sample = {};
  gatun_adamw_args adamw = {};
  gatun_philox philox = {};
  gatun_device_options device_options = {};
  gatun_device_info info = {};
  void* options = nullptr;  // the one of them that this function takes
  uint32_t* struct_size = nullptr;
  bool options_required = false;
  const gatun_philox* philox_pointer = nullptr;
  bool philox_used = false;
  gatun_tensor step;
  uint64_t result[2] = {};
  const gatun_tensor* list[5][2] = {};
  float decay[2] = {0.1f, 0};
  const char* text = nullptr;
  alignas(16) unsigned char bent[256];  // a misaligned copy of a struct

  // The i-th tensor: in its own buffer of device 0.
  const gatun_tensor* add(int32_t dtype, std::initializer_list<int64_t> shape,
                          bool may_be_null = false) {
    storage[tensors] = tensor_of(world.buffer[0][tensors], dtype, shape);
    tensor[tensors] = &storage[tensors];
    optional[tensors] = may_be_null;
    return tensor[tensors++];
  }
  template <typename T>
  void take(T& struct_, bool required) {
    struct_.struct_size = sizeof struct_;
    options = &struct_;
    struct_size = &struct_.struct_size;
    options_required = required;
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(options);
  }
  void random(uint64_t sites = 5) {
    step = tensor_of(world.buffer[0][kTensors - 1], GATUN_I64, {1});
    philox = {42, static_cast<uint32_t>(pick(static_cast<int>(sites))), 1, &step};
    philox_pointer = &philox;
    philox_used = true;
  }
  void on_stream() {
    handle[0] = world.stream[0];
    kind[0] = 2;
  }
};

struct Function {
  const char* name;
  std::function<void(Call&)> make;
  std::function<gatun_status(Call&)> run;
};

std::vector<Function> functions;

void op(const char* name, std::function<void(Call&)> make, std::function<gatun_status(Call&)> run) {
  functions.push_back({name,
                       [make](Call& c) {
                         c.on_stream();
                         make(c);
                       },
                       run});
}

int32_t float_type() { return one_of<int32_t>({GATUN_F32, GATUN_F16, GATUN_BF16}); }

void describe_functions() {
  // ---- devices, streams, events, buffers, profile ----
  functions.push_back({"device_open",
                       [](Call& c) {
                         c.text = "cpu";
                         c.take(c.device_options, false);
                         c.device_options.threads = 1;
                         c.device_options.memory_budget_bytes = 1 << 20;
                         c.out = &c.result[0];
                         c.out_required = true;
                       },
                       [](Call& c) {
                         const gatun_status status = gatun_device_open(
                             c.text, c.as<gatun_device_options>(), static_cast<uint64_t*>(c.out));
                         if (status == GATUN_OK) {
                           world.dead.push_back(c.result[0]);
                           CHECK_OK(gatun_device_close(c.result[0]));
                         }
                         return status;
                       }});
  functions.push_back({"device_close",
                       [](Call& c) {
                         c.handle[0] = open_device();
                         c.kind[0] = 1;
                         c.result[1] = c.handle[0];
                       },
                       [](Call& c) {
                         const gatun_status status = gatun_device_close(c.handle[0]);
                         if (c.handle[0] != c.result[1]) CHECK_OK(gatun_device_close(c.result[1]));
                         return status;
                       }});
  const auto on_device = [](Call& c) {
    c.handle[0] = world.device[0];
    c.kind[0] = 1;
  };
  functions.push_back(
      {"device_get_info",
       [on_device](Call& c) {
         on_device(c);
         c.take(c.info, true);
       },
       [](Call& c) { return gatun_device_get_info(c.handle[0], c.as<gatun_device_info>()); }});
  functions.push_back({"device_reset_peak", on_device,
                       [](Call& c) { return gatun_device_reset_peak(c.handle[0]); }});
  functions.push_back(
      {"device_wait", on_device, [](Call& c) { return gatun_device_wait(c.handle[0]); }});
  functions.push_back(
      {"device_trim", on_device, [](Call& c) { return gatun_device_trim(c.handle[0]); }});
  functions.push_back({"stream_create",
                       [on_device](Call& c) {
                         on_device(c);
                         c.out = &c.result[0];
                         c.out_required = true;
                       },
                       [](Call& c) {
                         const gatun_status status =
                             gatun_stream_create(c.handle[0], static_cast<uint64_t*>(c.out));
                         if (status == GATUN_OK) CHECK_OK(gatun_stream_destroy(c.result[0]));
                         return status;
                       }});
  functions.push_back({"stream_destroy",
                       [](Call& c) {
                         CHECK_OK(gatun_stream_create(world.device[0], &c.handle[0]));
                         c.kind[0] = 2;
                         c.result[1] = c.handle[0];
                       },
                       [](Call& c) {
                         const gatun_status status = gatun_stream_destroy(c.handle[0]);
                         if (c.handle[0] != c.result[1])
                           CHECK_OK(gatun_stream_destroy(c.result[1]));
                         return status;
                       }});
  functions.push_back({"stream_wait", [](Call& c) { c.on_stream(); },
                       [](Call& c) { return gatun_stream_wait(c.handle[0]); }});
  functions.push_back({"event_create",
                       [on_device](Call& c) {
                         on_device(c);
                         c.out = &c.result[0];
                         c.out_required = true;
                       },
                       [](Call& c) {
                         const gatun_status status =
                             gatun_event_create(c.handle[0], static_cast<uint64_t*>(c.out));
                         if (status == GATUN_OK) CHECK_OK(gatun_event_destroy(c.result[0]));
                         return status;
                       }});
  functions.push_back({"event_destroy",
                       [](Call& c) {
                         CHECK_OK(gatun_event_create(world.device[0], &c.handle[0]));
                         c.kind[0] = 3;
                         c.result[1] = c.handle[0];
                       },
                       [](Call& c) {
                         const gatun_status status = gatun_event_destroy(c.handle[0]);
                         if (c.handle[0] != c.result[1]) CHECK_OK(gatun_event_destroy(c.result[1]));
                         return status;
                       }});
  const auto event_and_stream = [](Call& c) {
    c.handle[0] = world.event[0];
    c.kind[0] = 3;
    c.handle[1] = world.stream[0];
    c.kind[1] = 2;
  };
  functions.push_back({"event_record", event_and_stream,
                       [](Call& c) { return gatun_event_record(c.handle[0], c.handle[1]); }});
  functions.push_back({"stream_wait_event", event_and_stream,
                       [](Call& c) { return gatun_stream_wait_event(c.handle[1], c.handle[0]); }});
  functions.push_back({"event_wait",
                       [](Call& c) {
                         c.handle[0] = world.event[0];
                         c.kind[0] = 3;
                       },
                       [](Call& c) { return gatun_event_wait(c.handle[0]); }});
  functions.push_back({"event_elapsed",
                       [](Call& c) {
                         c.handle[0] = c.handle[1] = world.event[0];
                         c.kind[0] = c.kind[1] = 3;
                         c.out = &c.result[0];
                         c.out_required = true;
                       },
                       [](Call& c) {
                         return gatun_event_elapsed(c.handle[0], c.handle[1],
                                                    static_cast<double*>(c.out));
                       }});
  // A stream of its own, captured or not.
  const auto own_stream = [](Call& c, bool captured) {
    CHECK_OK(gatun_stream_create(world.device[0], &c.result[1]));
    if (captured) CHECK_OK(gatun_graph_begin(c.result[1]));
    c.handle[0] = c.result[1];
    c.kind[0] = 2;
  };
  functions.push_back({"graph_begin", [own_stream](Call& c) { own_stream(c, false); },
                       [](Call& c) {
                         const gatun_status status = gatun_graph_begin(c.handle[0]);
                         CHECK_OK(gatun_stream_destroy(c.result[1]));
                         return status;
                       }});
  functions.push_back({"graph_end",
                       [own_stream](Call& c) {
                         own_stream(c, true);
                         c.out = &c.result[0];
                         c.out_required = true;
                       },
                       [](Call& c) {
                         const gatun_status status =
                             gatun_graph_end(c.handle[0], static_cast<uint64_t*>(c.out));
                         if (status == GATUN_OK) CHECK_OK(gatun_graph_destroy(c.result[0]));
                         CHECK_OK(gatun_stream_destroy(c.result[1]));
                         return status;
                       }});
  functions.push_back({"graph_launch",
                       [](Call& c) {
                         c.on_stream();
                         c.handle[1] = world.graph;
                         c.kind[1] = 5;
                       },
                       [](Call& c) { return gatun_graph_launch(c.handle[0], c.handle[1]); }});
  functions.push_back({"graph_destroy",
                       [](Call& c) {
                         CHECK_OK(gatun_graph_begin(world.stream[0]));
                         CHECK_OK(gatun_graph_end(world.stream[0], &c.handle[0]));
                         c.kind[0] = 5;
                         c.result[1] = c.handle[0];
                       },
                       [](Call& c) {
                         const gatun_status status = gatun_graph_destroy(c.handle[0]);
                         if (c.handle[0] != c.result[1]) CHECK_OK(gatun_graph_destroy(c.result[1]));
                         return status;
                       }});
  functions.push_back({"buffer_alloc",
                       [](Call& c) {
                         c.on_stream();
                         c.integer[0] = pick(5000);
                         c.integer[1] = pick(7);
                         c.out = &c.result[0];
                         c.out_required = true;
                       },
                       [](Call& c) {
                         const gatun_status status = gatun_buffer_alloc(
                             c.handle[0], c.integer[0], static_cast<int32_t>(c.integer[1]),
                             static_cast<uint64_t*>(c.out));
                         if (status == GATUN_OK) CHECK_OK(gatun_buffer_free(c.result[0]));
                         return status;
                       }});
  functions.push_back({"buffer_wrap",
                       [on_device](Call& c) {
                         on_device(c);
                         c.integer[0] = kBufferBytes;
                         c.integer[1] = 0;
                         c.out = &c.result[0];
                         c.out_required = true;
                       },
                       [](Call& c) {
                         void* address =
                             c.integer[1] == -1 ? nullptr : world.host + (c.integer[1] & 63);
                         const gatun_status status = gatun_buffer_wrap(
                             c.handle[0], address, c.integer[0], static_cast<uint64_t*>(c.out));
                         if (status == GATUN_OK) CHECK_OK(gatun_buffer_free(c.result[0]));
                         return status;
                       }});
  functions.push_back({"buffer_free",
                       [](Call& c) {
                         CHECK_OK(gatun_buffer_alloc(world.stream[0], 100, 1, &c.handle[0]));
                         c.kind[0] = 4;
                         c.result[1] = c.handle[0];
                       },
                       [](Call& c) {
                         const gatun_status status = gatun_buffer_free(c.handle[0]);
                         if (c.handle[0] != c.result[1]) CHECK_OK(gatun_buffer_free(c.result[1]));
                         return status;
                       }});
  functions.push_back({"buffer_get",
                       [](Call& c) {
                         c.handle[0] = world.buffer[0][0];
                         c.kind[0] = 4;
                         c.out = &c.result[0];
                       },
                       [](Call& c) {
                         int64_t bytes;
                         return gatun_buffer_get(c.handle[0], static_cast<void**>(c.out), &bytes);
                       }});
  const auto copying = [](Call& c) {
    c.on_stream();
    c.handle[1] = world.buffer[0][0];
    c.kind[1] = 4;
    c.integer[0] = pick(100);
    c.integer[1] = pick(3000);
    c.out = world.host;
    c.out_required = true;
  };
  functions.push_back({"buffer_write", copying, [](Call& c) {
                         return gatun_buffer_write(c.handle[0], c.handle[1], c.integer[0], c.out,
                                                   c.integer[1]);
                       }});
  functions.push_back({"buffer_read", copying, [](Call& c) {
                         return gatun_buffer_read(c.handle[0], c.out, c.handle[1], c.integer[0],
                                                  c.integer[1]);
                       }});
  functions.push_back({"profile_enable",
                       [on_device](Call& c) {
                         on_device(c);
                         c.integer[0] = pick(2);
                       },
                       [](Call& c) {
                         return gatun_profile_enable(c.handle[0],
                                                     static_cast<int32_t>(c.integer[0]));
                       }});
  functions.push_back({"profile_read",
                       [on_device](Call& c) {
                         on_device(c);
                         c.integer[0] = pick(9);
                         c.out = &c.result[0];
                         c.out_required = true;
                       },
                       [](Call& c) {
                         static gatun_profile_entry entries[64];
                         const auto capacity = static_cast<int32_t>(c.integer[0]);
                         return gatun_profile_read(c.handle[0], entries,
                                                   capacity > 64 ? 64 : capacity,
                                                   static_cast<int32_t*>(c.out));
                       }});

  // ---- ops ----
  op(
      "fill",
      [](Call& c) {
        c.add(one_of<int32_t>({0, 1, 2, 3, 4, 5, 6}), {3, 5});
        c.real[0] = 2;
      },
      [](Call& c) { return gatun_fill(c.handle[0], c.tensor[0], c.real[0]); });
  op(
      "copy",
      [](Call& c) {
        c.add(float_type(), {3, 5});
        c.add(float_type(), {3, 5});
      },
      [](Call& c) { return gatun_copy(c.handle[0], c.tensor[0], c.tensor[1]); });
  op(
      "random_uniform",
      [](Call& c) {
        c.add(float_type(), {7});
        c.real[1] = 1;
        c.random();
      },
      [](Call& c) {
        return gatun_random_uniform(c.handle[0], c.tensor[0], c.real[0], c.real[1],
                                    c.philox_pointer);
      });
  op(
      "random_normal",
      [](Call& c) {
        c.add(float_type(), {7});
        c.real[1] = 1;
        c.random();
      },
      [](Call& c) {
        return gatun_random_normal(c.handle[0], c.tensor[0], c.real[0], c.real[1],
                                   c.philox_pointer);
      });
  op(
      "add",
      [](Call& c) {
        const int32_t type = float_type();
        for (int i = 0; i < 3; ++i) c.add(type, {4, 3, 2});
      },
      [](Call& c) { return gatun_add(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2]); });
  op(
      "increment",
      [](Call& c) {
        c.add(one_of<int32_t>({GATUN_I32, GATUN_I64}), {3});
        c.integer[0] = 1;
      },
      [](Call& c) { return gatun_increment(c.handle[0], c.tensor[0], c.integer[0]); });
  op(
      "matmul",
      [](Call& c) {
        const int32_t type = float_type();
        const int m = 1 + pick(9), n = 1 + pick(9), k = 1 + pick(9);
        c.take(c.matmul, false);
        c.matmul.transpose_a = pick(2);
        c.matmul.transpose_b = pick(2);
        c.matmul.epilogue = pick(4);
        c.matmul.precision = pick(2);
        const bool batched = pick(2) != 0;
        const auto matrix = [&](int rows, int columns) {
          if (batched)
            c.add(type, {2, rows, columns});
          else
            c.add(type, {rows, columns});
        };
        matrix(m, n);
        c.matmul.transpose_a != 0 ? matrix(k, m) : matrix(m, k);
        c.matmul.transpose_b != 0 ? matrix(n, k) : matrix(k, n);
        const bool gradient = c.matmul.epilogue == GATUN_EPILOGUE_GELU_GRADIENT;
        if (c.matmul.epilogue != 0 && !gradient) c.matmul.bias = c.add(type, {n});
        if (c.matmul.epilogue >= GATUN_EPILOGUE_BIAS_GELU) {
          matrix(m, n);
          c.optional[c.tensors - 1] = !gradient;
          c.matmul.preactivation = c.tensor[c.tensors - 1];
        }
        if (pick(2) != 0) {
          matrix(m, n);
          c.optional[c.tensors - 1] = true;
          c.matmul.residual = c.tensor[c.tensors - 1];
        }
      },
      [](Call& c) {
        int at = 3;  // the tensors may have been bent
        for (const gatun_tensor** operand :
             {&c.matmul.bias, &c.matmul.preactivation, &c.matmul.residual})
          if (*operand != nullptr) *operand = c.tensor[at++];
        return gatun_matmul(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                            c.as<gatun_matmul_args>());
      });
  op(
      "bias_backward",
      [](Call& c) {
        const int32_t type = float_type();
        c.add(type, {6}, true);
        c.add(type, {3, 6});
      },
      [](Call& c) { return gatun_bias_backward(c.handle[0], c.tensor[0], c.tensor[1], c.mask); });
  op(
      "layer_norm_forward",
      [](Call& c) {
        const int32_t type = float_type();
        const bool fused = pick(2) != 0;
        c.add(type, {3, 6});
        if (fused)
          c.add(type, {3, 6});
        else
          c.tensor[c.tensors++] = nullptr;
        c.add(GATUN_F32, {3}, true);
        c.add(GATUN_F32, {3}, true);
        c.add(type, {3, 6});
        if (fused)
          c.add(type, {3, 6});
        else
          c.tensor[c.tensors++] = nullptr;
        c.add(type, {6});
        c.add(type, {6}, true);
        c.real[0] = 1e-5;
        if (fused && pick(2) != 0) {
          c.real[1] = 0.1;
          c.random();
        }
      },
      [](Call& c) {
        return gatun_layer_norm_forward(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                                        c.tensor[3], c.tensor[4], c.tensor[5], c.tensor[6],
                                        c.tensor[7], c.real[0], c.real[1], c.philox_pointer);
      });
  op(
      "layer_norm_backward",
      [](Call& c) {
        const int32_t type = float_type();
        const bool drops = pick(2) != 0;
        c.add(type, {3, 6}, !drops);
        c.add(type, {6}, true);
        c.add(type, {6}, true);
        if (drops) {
          c.add(type, {3, 6});
          c.real[0] = 0.1;
          c.random();
        } else {
          c.tensor[c.tensors++] = nullptr;
        }
        c.add(type, {3, 6});
        c.add(type, {3, 6});
        c.add(GATUN_F32, {3});
        c.add(GATUN_F32, {3});
        c.add(type, {6});
      },
      [](Call& c) {
        return gatun_layer_norm_backward(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                                         c.tensor[3], c.tensor[4], c.tensor[5], c.tensor[6],
                                         c.tensor[7], c.tensor[8], c.real[0], c.philox_pointer,
                                         c.mask);
      });
  op(
      "embedding_forward",
      [](Call& c) {
        const int32_t type = float_type();
        c.add(type, {2, 3, 4});
        c.add(GATUN_I32, {2, 3});
        c.add(type, {9, 4});
        c.add(type, {5, 4}, true);
        c.add(GATUN_I32, {2}, true);
      },
      [](Call& c) {
        return gatun_embedding_forward(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                                       c.tensor[3], c.tensor[4]);
      });
  op(
      "embedding_backward",
      [](Call& c) {
        const int32_t type = float_type();
        c.add(type, {9, 4}, true);
        c.add(type, {5, 4}, true);
        c.add(type, {2, 3, 4});
        c.add(GATUN_I32, {2, 3});
        c.add(GATUN_I32, {2}, true);
      },
      [](Call& c) {
        return gatun_embedding_backward(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                                        c.tensor[3], c.tensor[4], c.mask);
      });
  op(
      "gelu_forward",
      [](Call& c) {
        const int32_t type = float_type();
        c.add(type, {3, 7});
        c.add(type, {3, 7});
        c.integer[0] = pick(2);
      },
      [](Call& c) {
        return gatun_gelu_forward(c.handle[0], c.tensor[0], c.tensor[1],
                                  static_cast<int32_t>(c.integer[0]));
      });
  op(
      "gelu_backward",
      [](Call& c) {
        const int32_t type = float_type();
        c.add(type, {3, 7}, true);
        c.add(type, {3, 7});
        c.add(type, {3, 7});
        c.integer[0] = pick(2);
      },
      [](Call& c) {
        return gatun_gelu_backward(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                                   static_cast<int32_t>(c.integer[0]), c.mask);
      });
  op(
      "dropout",
      [](Call& c) {
        const int32_t type = float_type();
        c.add(type, {3, 7});
        c.add(type, {3, 7});
        c.real[0] = 0.1;
        c.random();
      },
      [](Call& c) {
        return gatun_dropout(c.handle[0], c.tensor[0], c.tensor[1], c.real[0], c.philox_pointer,
                             c.mask);
      });
  op(
      "attention_forward",
      [](Call& c) {
        const int32_t type = float_type();
        const int keys = 1 + pick(5);
        c.add(type, {2, 4, 3, 8});
        c.add(GATUN_F32, {2, 4, 3}, true);
        c.add(type, {2, 4, 3, 8});
        c.add(type, {2, 2, keys, 8});
        c.add(type, {2, 2, keys, 8});
        c.take(c.attention, false);
        c.attention.causal = pick(2);
        c.attention.lengths = c.add(GATUN_I32, {2}, true);
      },
      [](Call& c) {
        c.attention.lengths = c.tensor[5];
        return gatun_attention_forward(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                                       c.tensor[3], c.tensor[4], c.as<gatun_attention_args>());
      });
  op(
      "attention_backward",
      [](Call& c) {
        const int32_t type = float_type();
        const int keys = 1 + pick(5);
        c.add(type, {2, 4, 3, 8}, true);
        c.add(type, {2, 2, keys, 8}, true);
        c.add(type, {2, 2, keys, 8}, true);
        c.add(type, {2, 4, 3, 8});
        c.add(type, {2, 4, 3, 8});
        c.add(GATUN_F32, {2, 4, 3});
        c.add(type, {2, 4, 3, 8});
        c.add(type, {2, 2, keys, 8});
        c.add(type, {2, 2, keys, 8});
        c.take(c.attention, false);
        c.attention.causal = pick(2);
        c.attention.lengths = c.add(GATUN_I32, {2}, true);
      },
      [](Call& c) {
        c.attention.lengths = c.tensor[9];
        return gatun_attention_backward(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                                        c.tensor[3], c.tensor[4], c.tensor[5], c.tensor[6],
                                        c.tensor[7], c.tensor[8], c.as<gatun_attention_args>(),
                                        c.mask);
      });
  op(
      "attention_forward, packed",
      [](Call& c) {
        const int32_t type = float_type();
        const int keys = 1 + pick(5);
        c.add(type, {1, 4, 3, 8});
        c.add(GATUN_F32, {1, 4, 3}, true);
        c.add(type, {1, 4, 3, 8});
        c.add(type, {1, 2, keys, 8});
        c.add(type, {1, 2, keys, 8});
        c.take(c.attention, false);
        c.attention.causal = pick(2);
        c.add(GATUN_I32, {3});
        c.add(GATUN_I32, {3});
      },
      [](Call& c) {
        c.attention.q_starts = c.tensor[5];
        c.attention.k_starts = c.tensor[6];
        return gatun_attention_forward(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                                       c.tensor[3], c.tensor[4], c.as<gatun_attention_args>());
      });
  op(
      "attention_backward, packed",
      [](Call& c) {
        const int32_t type = float_type();
        const int keys = 1 + pick(5);
        c.add(type, {1, 4, 3, 8}, true);
        c.add(type, {1, 2, keys, 8}, true);
        c.add(type, {1, 2, keys, 8}, true);
        c.add(type, {1, 4, 3, 8});
        c.add(type, {1, 4, 3, 8});
        c.add(GATUN_F32, {1, 4, 3});
        c.add(type, {1, 4, 3, 8});
        c.add(type, {1, 2, keys, 8});
        c.add(type, {1, 2, keys, 8});
        c.take(c.attention, false);
        c.attention.causal = pick(2);
        c.attention.dq_atomic = pick(2);
        c.add(GATUN_I32, {3});
        c.add(GATUN_I32, {3});
      },
      [](Call& c) {
        c.attention.q_starts = c.tensor[9];
        c.attention.k_starts = c.tensor[10];
        return gatun_attention_backward(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                                        c.tensor[3], c.tensor[4], c.tensor[5], c.tensor[6],
                                        c.tensor[7], c.tensor[8], c.as<gatun_attention_args>(),
                                        c.mask);
      });
  op(
      "kv_append",
      [](Call& c) {
        const int32_t type = float_type();
        c.add(type, {4, 2, 16, 8});
        c.add(type, {4, 2, 16, 8});
        c.add(type, {2, 2, 3, 8});
        c.add(type, {2, 2, 3, 8});
        c.add(GATUN_I32, {2, 2}, true);
        c.add(GATUN_I32, {2});
      },
      [](Call& c) {
        return gatun_kv_append(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2], c.tensor[3],
                               c.tensor[4], c.tensor[5]);
      });
  op(
      "attention_decode",
      [](Call& c) {
        const int32_t type = float_type();
        c.add(type, {2, 4, 1, 8});
        c.add(type, {2, 4, 1, 8});
        c.add(type, {4, 2, 16, 8});
        c.add(type, {4, 2, 16, 8});
        c.add(GATUN_I32, {2, 2}, true);
        c.add(GATUN_I32, {2});
      },
      [](Call& c) {
        return gatun_attention_decode(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                                      c.tensor[3], c.tensor[4], c.tensor[5], c.real[0]);
      });
  op(
      "cross_entropy",
      [](Call& c) {
        c.add(GATUN_F32, {1});
        c.add(GATUN_F32, {5}, true);
        c.add(float_type(), {5, 11});
        c.add(GATUN_I32, {5});
        c.take(c.loss, true);
        c.loss.ignore_index = -100;
        c.loss.write_gradient = pick(2);
        c.loss.factor = c.add(GATUN_F32, {1}, true);
      },
      [](Call& c) {
        c.loss.factor = c.tensor[4];
        return gatun_cross_entropy(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2], c.tensor[3],
                                   c.as<gatun_cross_entropy_args>());
      });
  op(
      "global_norm",
      [](Call& c) {
        c.add(GATUN_F32, {1});
        c.add(GATUN_F32, {});
        c.add(float_type(), {5, 4});
        c.add(float_type(), {7});
        c.real[0] = 1;
        c.integer[0] = 2;
      },
      [](Call& c) {
        c.list[0][0] = c.tensor[2];
        c.list[0][1] = c.tensor[3];
        // a count beyond the array would read what is not ours to read
        const auto count = static_cast<int32_t>(c.integer[0]);
        return gatun_global_norm(c.handle[0], c.tensor[0], c.tensor[1], c.list[0],
                                 count > 2 && count <= 1 << 20 ? 2 : count, c.real[0]);
      });
  op(
      "unscale",
      [](Call& c) {
        c.add(GATUN_F32, {1});
        c.add(float_type(), {5, 4});
        c.add(float_type(), {7});
        c.add(GATUN_F32, {});
        c.integer[0] = 2;
      },
      [](Call& c) {
        c.list[0][0] = c.tensor[1];
        c.list[0][1] = c.tensor[2];
        const auto count = static_cast<int32_t>(c.integer[0]);
        return gatun_unscale(c.handle[0], c.tensor[0], c.list[0],
                             count > 2 && count <= 1 << 20 ? 2 : count, c.tensor[3]);
      });
  op(
      "adamw",
      [](Call& c) {
        c.add(GATUN_F32, {5, 4});
        c.add(float_type(), {5, 4});
        c.add(GATUN_F32, {5, 4});
        c.add(GATUN_F32, {5, 4});
        c.add(one_of<int32_t>({GATUN_F16, GATUN_BF16}), {5, 4}, true);
        c.add(GATUN_F32, {1});
        c.add(GATUN_I64, {1});
        c.add(GATUN_F32, {1}, true);
        c.take(c.adamw, true);
        c.adamw.count = 1;
        c.adamw.decay = c.decay;
        c.adamw.beta1 = 0.9;
        c.adamw.beta2 = 0.999;
        c.adamw.eps = 1e-8;
      },
      [](Call& c) {
        for (int i = 0; i < 5; ++i) c.list[i][0] = c.tensor[i];
        gatun_adamw_args& args = c.adamw;
        args.weights = c.list[0];
        args.gradients = c.list[1];
        args.m = c.list[2];
        args.v = c.list[3];
        args.copies = c.list[4];
        args.learning_rate = c.tensor[5];
        args.step = c.tensor[6];
        args.clip = c.tensor[7];
        if (args.count > 1 && args.count <= 1 << 20) args.count = 1;
        if (c.options == c.bent + 1) std::memcpy(c.bent + 1, &args, sizeof args);
        return gatun_adamw(c.handle[0], c.as<gatun_adamw_args>());
      });
  op(
      "argmax",
      [](Call& c) {
        c.add(GATUN_I32, {5});
        c.add(float_type(), {5, 11});
      },
      [](Call& c) { return gatun_argmax(c.handle[0], c.tensor[0], c.tensor[1]); });
  op(
      "sample",
      [](Call& c) {
        c.add(GATUN_I32, {5});
        c.add(GATUN_F32, {5}, true);
        c.add(float_type(), {5, 11});
        c.take(c.sample, true);
        c.sample.temperature = 0.8f;
        c.sample.top_k = 5;
        c.sample.top_p = 0.9f;
        c.random();
      },
      [](Call& c) {
        return gatun_sample(c.handle[0], c.tensor[0], c.tensor[1], c.tensor[2],
                            c.as<gatun_sample_args>(), c.philox_pointer);
      });
}

// ---- making a call wrong ----

template <typename T>
const T* misaligned(Call& c, const T* from) {
  std::memcpy(c.bent + 1, from, sizeof *from);
  return reinterpret_cast<const T*>(c.bent + 1);
}

// Bends one thing so that the call is certainly wrong; false if this thing is not there to bend.
bool make_wrong(Call& c, std::string* what) {
  switch (pick(6)) {
    case 0: {  // a handle
      const int i = pick(2);
      if (c.kind[i] == 0) return false;
      c.handle[i] = wrong_handle(c.kind[i]);
      *what = "handle " + std::to_string(c.handle[i]);
      return true;
    }
    case 1: {  // another device's stream or event
      if (c.tensors == 0 && c.kind[1] == 0) return false;
      if (c.kind[0] == 2)
        c.handle[0] = world.stream[1];
      else if (c.kind[0] == 3)
        c.handle[0] = world.event[1];
      else
        return false;
      *what = "another device";
      return true;
    }
    case 2: {  // a destination of a result
      if (!c.out_required || (c.integer[1] == 0 && c.out == world.host)) return false;
      c.out = nullptr;
      *what = "null result";
      return true;
    }
    case 3: {  // options
      if (c.options == nullptr) return false;
      if (pick(2) == 0) {
        *c.struct_size = one_of<uint32_t>({0, 1, *c.struct_size - 4, *c.struct_size + 8, 1u << 31});
        *what = "struct_size";
      } else if (c.options_required && pick(2) == 0) {
        c.options = nullptr;
        *what = "null options";
      } else {
        std::memcpy(c.bent + 1, c.options, *c.struct_size < 200 ? *c.struct_size : 200);
        c.options = c.bent + 1;
        *what = "misaligned options";
      }
      return true;
    }
    case 4: {  // philox
      if (!c.philox_used) return false;
      switch (pick(4)) {
        case 0:
          c.philox_pointer = nullptr;
          *what = "null philox";
          return true;
        case 1:
          c.philox_pointer = misaligned(c, &c.philox);
          *what = "misaligned philox";
          return true;
        case 2:
          c.philox.site = 65536u + static_cast<uint32_t>(pick(1000));
          *what = "philox site";
          return true;
        default:
          c.step.dtype = GATUN_F32;
          *what = "philox step";
          return true;
      }
    }
    default: {  // a tensor
      if (c.tensors == 0) return false;
      const int i = pick(c.tensors);
      if (c.tensor[i] == nullptr) return false;
      gatun_tensor& t = c.storage[i];
      const std::string name = "tensor " + std::to_string(i) + " ";
      const int last = t.rank - 1;
      switch (pick(11)) {
        case 0:
          if (c.optional[i]) return false;
          c.tensor[i] = nullptr;
          *what = name + "null";
          return true;
        case 1:
          c.tensor[i] = misaligned(c, &t);
          *what = name + "misaligned";
          return true;
        case 2:
          t.struct_size = one_of<uint32_t>({0, 64, 127, 129, 136, 0xffffffffu});
          *what = name + "struct_size";
          return true;
        case 3:
          t.dtype = one_of<int32_t>({-1, 7, 100, INT32_MAX, INT32_MIN});
          *what = name + "dtype";
          return true;
        case 4:
          t.rank = one_of<int32_t>({-1, 7, 100, INT32_MAX, INT32_MIN});
          *what = name + "rank";
          return true;
        case 5:
          t.reserved = 1 + pick(100);
          *what = name + "reserved";
          return true;
        case 6:
          t.buffer = pick(3) == 0 ? world.buffer[1][i] : wrong_handle(4);
          *what = name + "buffer";
          return true;
        case 7:
          t.offset_bytes = one_of<int64_t>({-4, -1, INT64_MIN, INT64_MAX - 7, kBufferBytes,
                                            kBufferBytes + 64, int64_t{1} << 40});
          *what = name + "offset";
          return true;
        case 8:
          if (last < 0) return false;
          t.shape[pick(t.rank)] =
              one_of<int64_t>({-1, -5, INT64_MIN, INT64_MAX, int64_t{1} << 40, int64_t{1} << 62});
          *what = name + "shape";
          return true;
        case 9: {
          if (last < 0) return false;
          const int d = pick(t.rank);
          if (t.shape[d] < 2) return false;
          t.stride[d] =
              one_of<int64_t>({-1, INT64_MIN, INT64_MAX, int64_t{1} << 40, int64_t{1} << 62});
          *what = name + "stride";
          return true;
        }
        default:
          if (t.dtype == GATUN_U8 || t.dtype == GATUN_I8) return false;
          t.offset_bytes = 1;
          *what = name + "misaligned offset";
          return true;
      }
    }
  }
}

// Bends something at random; the call may still be right.
void make_strange(Call& c) {
  switch (pick(8)) {
    case 0:
      c.real[pick(2)] = strange_double();
      break;
    case 1:
      c.integer[pick(3)] = strange_int();
      break;
    case 2:
      c.mask = static_cast<uint32_t>(random_bits()) >> pick(32);
      break;
    case 3:  // any field of any option struct, its size and pointers left alone
      c.matmul.alpha = static_cast<float>(strange_double());
      c.matmul.accumulate = pick(3);
      c.matmul.epilogue = pick(2) != 0 ? c.matmul.epilogue : static_cast<int32_t>(strange_int());
      c.matmul.precision = pick(3);
      c.attention.scale = static_cast<float>(strange_double());
      c.attention.causal = static_cast<int32_t>(strange_int());
      c.attention.dq_atomic = static_cast<int32_t>(strange_int());
      c.loss.label_smoothing = static_cast<float>(strange_double());
      c.loss.ignore_index = static_cast<int32_t>(strange_int());
      c.loss.accumulate = pick(3);
      c.sample.temperature = static_cast<float>(strange_double());
      c.sample.top_k = static_cast<int32_t>(strange_int());
      c.sample.top_p = static_cast<float>(strange_double());
      c.sample.min_p = static_cast<float>(strange_double());
      c.adamw.count = static_cast<int32_t>(strange_int());
      c.adamw.beta1 = strange_double();
      c.adamw.eps = strange_double();
      c.decay[0] = static_cast<float>(strange_double());
      c.device_options.threads = static_cast<int32_t>(strange_int());
      c.device_options.simd = pick(6) - 1;
      c.device_options.memory_budget_bytes = strange_int();
      break;
    case 4:
      if (c.text != nullptr)
        c.text = one_of<const char*>({nullptr, "", "cpu:0", "cuda", "cuda:", "cuda:99999", "sim",
                                      "%s%n%s", "gpu",
                                      "a name that is far longer than any device's name can be, "
                                      "so long that it does not fit anywhere"});
      break;
    default: {
      if (c.tensors == 0) break;
      const int i = pick(c.tensors);
      gatun_tensor& t = c.storage[i];
      switch (pick(7)) {
        case 0:
          c.tensor[i] = nullptr;
          break;
        case 1:
          t.dtype = pick(7);
          break;
        case 2:
          t.rank = pick(7);
          break;
        case 3:
          t.shape[pick(6)] = strange_int();
          break;
        case 4:
          t.stride[pick(6)] = strange_int();
          break;
        case 5:  // the same memory as another tensor
          t.buffer = world.buffer[0][pick(kTensors)];
          break;
        default:
          t.offset_bytes = strange_int();
      }
    }
  }
}

// Device memory that ids, lengths, targets and values are read from: often nonsense.
void scramble_buffers() {
  for (int i = 0; i < kTensors; ++i) {
    uint32_t words[256];
    const int kind = pick(3);
    for (uint32_t& word : words)
      word = kind == 0   ? static_cast<uint32_t>(pick(4))
             : kind == 1 ? static_cast<uint32_t>(random_bits())
                         : 0x3f000000u;
    CHECK_OK(gatun_buffer_write(world.stream[0], world.buffer[0][i], 0, words, sizeof words));
  }
}

// What waits report is part of the play: an id out of range, say.
void settle() {
  const gatun_status status = gatun_stream_wait(world.stream[0]);
  CHECK(status == GATUN_OK || std::strlen(gatun_last_error()) > 0);
  CHECK(status != GATUN_INTERNAL);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  const int calls = argc > 2 ? std::atoi(argv[2]) : 60000;
  generator.seed(seed);
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  make_world();
  describe_functions();

  // Each valid call is valid: otherwise the rest would prove nothing.
  for (const Function& function : functions) {
    for (int i = 0; i < 20; ++i) {
      Call c;
      function.make(c);
      const gatun_status status = function.run(c);
      if (status != GATUN_OK) {
        std::fprintf(stderr, "seed %llu: a valid %s gave %d: %s\n",
                     static_cast<unsigned long long>(seed), function.name, status,
                     gatun_last_error());
        return 1;
      }
    }
    settle();
  }

  int wrong = 0, refused = 0;
  std::vector<int> wrong_of(functions.size());
  for (int i = 0; i < calls; ++i) {
    const int which = pick(static_cast<int>(functions.size()));
    const Function& function = functions[static_cast<size_t>(which)];
    Call c;
    function.make(c);
    std::string what;
    const bool certain = pick(2) == 0;
    if (certain) {
      bool done = false;
      for (int attempt = 0; attempt < 50 && !done; ++attempt) done = make_wrong(c, &what);
      if (!done) continue;
    } else {
      for (int n = 1 + pick(3); n > 0; --n) make_strange(c);
    }
    const gatun_status status = function.run(c);
    const char* sentence = gatun_last_error();
    const bool sound = status >= GATUN_OK && status <= GATUN_INTERNAL &&
                       (status == GATUN_OK || std::strlen(sentence) > 0) &&
                       status != GATUN_INTERNAL && (!certain || status != GATUN_OK);
    if (!sound) {
      std::fprintf(stderr, "seed %llu, call %d: %s with %s gave status %d: \"%s\"\n",
                   static_cast<unsigned long long>(seed), i, function.name,
                   certain ? what.c_str() : "strange values", status, sentence);
      return 1;
    }
    if (certain) {
      ++wrong;
      ++wrong_of[static_cast<size_t>(which)];
    }
    if (status != GATUN_OK) ++refused;
    if (i % 64 == 0) {
      settle();
      scramble_buffers();
    }
  }
  settle();
  for (size_t i = 0; i < functions.size(); ++i)
    if (wrong_of[i] < calls / 400) {
      std::fprintf(stderr, "only %d wrong calls of %s\n", wrong_of[i], functions[i].name);
      return 1;
    }
  // The library still works.
  gatun_tensor out = tensor_of(world.buffer[0][0], GATUN_F32, {4});
  settle();
  CHECK_OK(gatun_fill(world.stream[0], &out, 3));
  float values[4];
  CHECK_OK(gatun_buffer_read(world.stream[0], values, world.buffer[0][0], 0, sizeof values));
  for (float value : values) CHECK(value == 3);
  for (gatun_device device : world.device) CHECK_OK(gatun_device_close(device));
  std::printf("%d calls of %zu functions: %d certainly wrong, %d refused\n", calls,
              functions.size(), wrong, refused);
  return 0;
}
