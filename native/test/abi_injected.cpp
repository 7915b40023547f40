// GATUN_FAULT: the k-th allocation, op or copy of the process fails with a sentence, the next ones
// do not.
#include <cstring>

#include "testing.h"

int main() {
  setenv("GATUN_FAULT", "alloc:2,launch:3,copy:1", 1);
  gatun_device device;
  CHECK_OK(gatun_device_open("cpu", nullptr, &device));
  gatun_stream stream;
  CHECK_OK(gatun_stream_create(device, &stream));
  gatun_buffer first, second;
  CHECK_OK(gatun_buffer_alloc(stream, 64, GATUN_OTHER, &first));
  CHECK(gatun_buffer_alloc(stream, 64, GATUN_WEIGHTS, &second) == GATUN_OUT_OF_MEMORY);
  CHECK(std::strstr(gatun_last_error(), "out of device memory: a buffer for weights needs 64"));
  CHECK_OK(gatun_buffer_alloc(stream, 64, GATUN_WEIGHTS, &second));
  const gatun_tensor tensor = tensor_of(first, GATUN_F32, {16});
  CHECK_OK(gatun_fill(stream, &tensor, 1));
  CHECK_OK(gatun_fill(stream, &tensor, 2));
  CHECK(gatun_fill(stream, &tensor, 3) == GATUN_DEVICE_FAULT);
  CHECK(std::strstr(gatun_last_error(), "GATUN_FAULT"));
  float values[16];
  CHECK(gatun_buffer_read(stream, values, first, 0, sizeof values) == GATUN_DEVICE_FAULT);
  CHECK_OK(gatun_buffer_read(stream, values, first, 0, sizeof values));
  CHECK(values[15] == 2);
  CHECK_OK(gatun_device_close(device));
  return 0;
}
