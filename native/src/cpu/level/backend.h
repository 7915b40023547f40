// The cpu device's functions at one SIMD level, declared from ops.def. They are weak: an op without
// a definition leaves its slot empty, which the core reports as GATUN_UNSUPPORTED.
#pragma once

#include "core/backend.h"

namespace gatun::cpu::GATUN_LEVEL {

#define OP(name, Args) [[gnu::weak]] void name(Context& context, const Args& args);
#include "ops/ops.def"
#undef OP

}  // namespace gatun::cpu::GATUN_LEVEL
