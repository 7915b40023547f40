// The tables of the SIMD levels, for tests and for the cpu device (cpu/level/backend.cpp).
#pragma once

#include "core/backend.h"

extern "C" {
extern const gatun::Backend gatun_backend_plain;
extern const gatun::Backend gatun_backend_avx2;
extern const gatun::Backend gatun_backend_avx512;
}
