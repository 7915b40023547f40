#include "cpu/onednn.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <dnnl.hpp>
#include <list>
#include <mutex>

#include "cpu/leaving.h"
#include "cpu/machine.h"

namespace gatun::cpu {
namespace {

// False where a row overlaps the next, which oneDNN refuses. The stride of a single row is never
// used, and may be anything: it becomes the row's length.
bool regular_strides(OneDnnProduct& p) {
  const auto regular = [](int64_t& stride, int64_t rows, int64_t columns) {
    if (rows == 1) stride = std::max<int64_t>(1, columns);
    return stride >= columns;
  };
  return regular(p.a_stride, p.a_transposed ? p.k : p.m, p.a_transposed ? p.m : p.k) &&
         regular(p.b_stride, p.b_transposed ? p.n : p.k, p.b_transposed ? p.k : p.n) &&
         regular(p.out_stride, p.m, p.n);
}

// What code is compiled for.
struct Shape {
  int64_t m, n, k, a_stride, b_stride, out_stride;
  float alpha;
  int threads;
  bool a_transposed, b_transposed, add, bf16_out;
  bool operator==(const Shape&) const = default;
};

struct Compiled {
  Shape shape;
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;
};

struct Cache {
  std::mutex mutex;
  std::list<Compiled> entries;  // the one used last first
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};

  Cache() { dnnl_set_primitive_cache_capacity(0); }  // this one is enough
};

Cache& cache() {
  static Cache& all = *new Cache;  // never destroyed: a queue may run while the process ends
  return all;
}

std::optional<Compiled> compile(dnnl::engine& engine, const Shape& s) {
  using dnnl::memory;
  const auto matrix = [](int64_t rows, int64_t columns, int64_t stride, bool transposed,
                         memory::data_type type) {
    return memory::desc({rows, columns}, type,
                        transposed ? memory::dims{1, stride} : memory::dims{stride, 1});
  };
  const auto bf16 = memory::data_type::bf16;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::post_ops after;
  if (s.alpha != 1.f) after.append_eltwise(dnnl::algorithm::eltwise_linear, s.alpha, 0.f);
  if (s.add) after.append_sum(1.f);
  attributes.set_post_ops(after);
  const dnnl::matmul::primitive_desc description(
      engine, matrix(s.m, s.k, s.a_stride, s.a_transposed, bf16),
      matrix(s.k, s.n, s.b_stride, s.b_transposed, bf16),
      matrix(s.m, s.n, s.out_stride, false, s.bf16_out ? bf16 : memory::data_type::f32), attributes,
      /*allow_empty=*/true);
  // any other code of it converts to f32 first, which packed.cpp does itself
  const auto is = [&](const char* isa) {
    return std::strstr(description.impl_info_str(), isa) != nullptr;
  };
  if (!description || !(is("amx") || is("avx512_core_bf16"))) return {};
  Compiled compiled{s, description, dnnl::matmul(description)};
  static std::once_flag& once = *new std::once_flag;
  std::call_once(once, guard_statics);
  return compiled;
}

// Throws dnnl::error.
std::optional<Compiled> find(const Shape& shape) {
  static const bool multiplies_bf16 =
      (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) ==
      dnnl_cpu_isa_avx512_core_bf16;
  if (!multiplies_bf16) return {};
  Cache& all = cache();
  std::lock_guard lock(all.mutex);
  const auto found = std::find_if(all.entries.begin(), all.entries.end(),
                                  [&](const Compiled& c) { return c.shape == shape; });
  if (found != all.entries.end()) {
    all.entries.splice(all.entries.begin(), all.entries, found);
    return all.entries.front();
  }
  std::optional<Compiled> compiled = compile(all.engine, shape);
  if (!compiled) return {};
  if (all.entries.size() == kCompiled) all.entries.pop_back();
  all.entries.push_front(*compiled);
  return compiled;
}

// None where oneDNN cannot take the product.
std::optional<Compiled> compiled_for(int threads, OneDnnProduct p, bool bf16_out) {
  if (!regular_strides(p)) return {};
  omp_set_num_threads(threads);  // code is compiled for a number of threads
  try {
    return find({p.m, p.n, p.k, p.a_stride, p.b_stride, p.out_stride, p.alpha, threads,
                 p.a_transposed, p.b_transposed, p.add, bf16_out});
  } catch (const dnnl::error&) {
    return {};
  }
}

}  // namespace

bool onednn_serves(int simd) {
  static const int best = best_simd();
  return simd == best;
}

bool onednn_f32_product(int threads, const OneDnnProduct& product) {
  OneDnnProduct p = product;
  if (!regular_strides(p)) return false;
  omp_set_num_threads(threads);
  return dnnl_sgemm(p.a_transposed ? 'T' : 'N', p.b_transposed ? 'T' : 'N', p.m, p.n, p.k, p.alpha,
                    static_cast<const float*>(p.a), p.a_stride, static_cast<const float*>(p.b),
                    p.b_stride, p.add ? 1.f : 0.f, static_cast<float*>(p.out),
                    p.out_stride) == dnnl_success;
}

std::optional<size_t> onednn_bf16_scratch_bytes(int threads, const OneDnnProduct& product,
                                                bool bf16_out) {
  const std::optional<Compiled> compiled = compiled_for(threads, product, bf16_out);
  if (!compiled) return {};
  return compiled->description.scratchpad_desc().get_size();
}

bool onednn_bf16_product(int threads, const OneDnnProduct& product, bool bf16_out, void* scratch) {
  const std::optional<Compiled> compiled = compiled_for(threads, product, bf16_out);
  if (!compiled) return false;
  const dnnl::matmul::primitive_desc& d = compiled->description;
  try {
    const dnnl::engine& engine = cache().engine;
    dnnl::stream stream(engine);
    compiled->primitive.execute(
        stream,
        {{DNNL_ARG_SRC, dnnl::memory(d.src_desc(), engine, const_cast<void*>(product.a))},
         {DNNL_ARG_WEIGHTS, dnnl::memory(d.weights_desc(), engine, const_cast<void*>(product.b))},
         {DNNL_ARG_DST, dnnl::memory(d.dst_desc(), engine, product.out)},
         {DNNL_ARG_SCRATCHPAD, dnnl::memory(d.scratchpad_desc(), engine, scratch)}});
    stream.wait();
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

}  // namespace gatun::cpu
