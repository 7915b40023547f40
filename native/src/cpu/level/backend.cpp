// The table of one SIMD level: the only symbol of the level's objects that stays global
// (native/CMakeLists.txt).
#include "cpu/level/backend.h"

#define GATUN_JOIN_(a, b) a##b
#define GATUN_JOIN(a, b) GATUN_JOIN_(a, b)
#define GATUN_BACKEND GATUN_JOIN(gatun_backend_, GATUN_LEVEL)

extern "C" {
extern const gatun::Backend GATUN_BACKEND;
const gatun::Backend GATUN_BACKEND = {
#define OP(name, Args) .name = gatun::cpu::GATUN_LEVEL::name,
#include "ops/ops.def"
#undef OP
};
}
