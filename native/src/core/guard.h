// The one border between C++ and C: every exported function that can fail runs its body in here.
#pragma once

#include <exception>
#include <new>

#include "core/error.h"
#include "gatun.h"

namespace gatun {

// Remembers the calling thread's sentence; returns the status.
gatun_status set_error(gatun_status status, const char* message) noexcept;

template <typename Body>
gatun_status guard(Body&& body) noexcept {
  try {
    body();
    return GATUN_OK;
  } catch (const Error& e) {
    return set_error(e.status, e.what());
  } catch (const std::bad_alloc&) {
    return set_error(GATUN_OUT_OF_MEMORY, "the host has no memory left for the library's own data");
  } catch (const std::exception& e) {
    return set_error(GATUN_INTERNAL, e.what());
  } catch (...) {
    return set_error(GATUN_INTERNAL, "an exception that is not a std::exception");
  }
}

}  // namespace gatun
