#include "core/error.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace gatun {

Error::Error(gatun_status status, const char* message) : status(status) {
  std::snprintf(message_, sizeof message_, "%s", message);
}

// Out of line: their type information must exist once, or no level's throw would be caught.
Error::~Error() = default;
OutOfMemory::~OutOfMemory() = default;

void fail(gatun_status status, const char* format, ...) {
  char message[kMaxMessage];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw Error(status, message);
}

}  // namespace gatun
