// What the native tests share: a check that says what it saw, and tensors over the C ABI.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "gatun.h"

#define CHECK(condition)                                                                    \
  do {                                                                                      \
    if (!(condition)) {                                                                     \
      std::fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", __FILE__, __LINE__, \
                   #condition, gatun_last_error());                                         \
      std::exit(1);                                                                         \
    }                                                                                       \
  } while (false)

#define CHECK_OK(call)                                                                  \
  do {                                                                                  \
    const gatun_status status_ = (call);                                                \
    if (status_ != GATUN_OK) {                                                          \
      std::fprintf(stderr, "%s:%d: %s gave status %d: %s\n", __FILE__, __LINE__, #call, \
                   static_cast<int>(status_), gatun_last_error());                      \
      std::exit(1);                                                                     \
    }                                                                                   \
  } while (false)

inline gatun_tensor tensor_of(gatun_buffer buffer, int32_t dtype,
                              std::initializer_list<int64_t> shape, int64_t offset_bytes = 0) {
  gatun_tensor tensor = {};
  tensor.struct_size = sizeof tensor;
  tensor.dtype = dtype;
  tensor.buffer = buffer;
  tensor.offset_bytes = offset_bytes;
  for (int64_t n : shape) tensor.shape[tensor.rank++] = n;
  int64_t stride = 1;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    tensor.stride[i] = stride;
    stride *= tensor.shape[i];
  }
  return tensor;
}
