// The ops of ops.def as data: what a device needs to hold a call's arguments for a while and to run
// it later, without knowing the op.
#pragma once

#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>

#include "core/backend.h"
#include "ops/args.h"

namespace gatun {

enum class Op : int {
#define OP(name, Args) name,
#include "ops/ops.def"
#undef OP
};

constexpr int kOps = 0
#define OP(name, Args) +1
#include "ops/ops.def"
#undef OP
    ;

// The largest argument struct of all ops.
constexpr size_t kMaxArgs = std::max({
#define OP(name, Args) sizeof(Args),
#include "ops/ops.def"
#undef OP
});

struct OpType {
  const char* name;  // without gatun_
  bool (*offered)(const Backend&);
  void (*move)(void* to, void* from);  // constructs *to from *from; *from stays to be destroyed
  void (*destroy)(void*);
  void (*run)(const Backend&, Context&, const void* args);
};

inline constexpr OpType kOpTypes[kOps] = {
#define OP(NAME, Args)                                                                \
  {#NAME, [](const Backend& backend) { return backend.NAME != nullptr; },             \
   [](void* to, void* from) { new (to) Args(std::move(*static_cast<Args*>(from))); }, \
   [](void* args) { static_cast<Args*>(args)->~Args(); },                             \
   [](const Backend& backend, Context& context, const void* args) {                   \
     backend.NAME(context, *static_cast<const Args*>(args));                          \
   }},
#include "ops/ops.def"
#undef OP
};

inline const OpType& type_of(Op op) { return kOpTypes[static_cast<int>(op)]; }

}  // namespace gatun
