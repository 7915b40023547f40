// A process that ends while the device works ends well: no crash in exit handlers, no hang on the
// library's threads. Each round is a child process.
#include <sys/wait.h>
#include <unistd.h>

#include "testing.h"

namespace {

[[noreturn]] void leave_at_work(int round) {
  gatun_device device;
  CHECK_OK(gatun_device_open("cpu", nullptr, &device));
  gatun_stream stream;
  CHECK_OK(gatun_stream_create(device, &stream));
  const int64_t n = 64 + 64 * (round % 4);
  gatun_buffer buffer;
  CHECK_OK(gatun_buffer_alloc(stream, 3 * n * n * 4, GATUN_OTHER, &buffer));
  const gatun_tensor a = tensor_of(buffer, GATUN_F32, {n, n});
  const gatun_tensor b = tensor_of(buffer, GATUN_F32, {n, n}, n * n * 4);
  const gatun_tensor out = tensor_of(buffer, GATUN_F32, {n, n}, 2 * n * n * 4);
  CHECK_OK(gatun_fill(stream, &a, 1));
  CHECK_OK(gatun_fill(stream, &b, 1));
  for (int i = 0; i < 200; ++i) CHECK_OK(gatun_matmul(stream, &out, &a, &b, nullptr));
  usleep(static_cast<useconds_t>(round) * 150);
  std::exit(0);
}

}  // namespace

int main() {
  for (int round = 0; round < 24; ++round) {
    std::fflush(nullptr);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(60);
      leave_at_work(round);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      std::fprintf(stderr, "round %d: the child ended with status 0x%x\n", round,
                   static_cast<unsigned>(status));
      return 1;
    }
  }
  return 0;
}
