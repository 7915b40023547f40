// What this thread launched last: for the sentence of an error.
#pragma once

#include <cstddef>

namespace gatun::kernels {

struct LastLaunch {
  const char* kernel;
  unsigned grid[3];
  unsigned block[3];
  size_t shared_bytes;
};

inline thread_local LastLaunch last_launch = {"", {}, {}, 0};

}  // namespace gatun::kernels
