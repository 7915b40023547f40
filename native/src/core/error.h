// How the library fails: anywhere below the C ABI by throwing Error, which the guard around every
// exported function (core/guard.h) turns into a status and a sentence.
#pragma once

#include <cstddef>
#include <exception>

#include "gatun.h"

namespace gatun {

constexpr size_t kMaxMessage = 512;

// A status and its sentence, held inside, so that failing allocates nothing but the exception.
class Error : public std::exception {
 public:
  Error(gatun_status status, const char* message);
  ~Error() override;
  const char* what() const noexcept override { return message_; }

  gatun_status status;

 private:
  char message_[kMaxMessage];
};

// The device's memory budget, or the machine's memory, does not hold what was asked for. The core
// names the op and the largest holders.
class OutOfMemory : public Error {
 public:
  explicit OutOfMemory(const char* message) : Error(GATUN_OUT_OF_MEMORY, message) {}
  ~OutOfMemory() override;
};

[[noreturn]] void fail(gatun_status status, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

}  // namespace gatun
