// Tensors of heads in device memory, for the tests of attention: side by side, with gaps, unaligned
// or 2^31 elements apart, and what a case (its text() names it) expects of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "attention.h"
#include "element.h"
#include "simt.h"
#include "tally.h"

namespace gatun::kernels {

// Of scores: a negative one, the usual one, or one of a wide spread, with which peaks rise from
// tile to tile by more than Softmax lets pass.
inline double some_scale(int columns) {
  const unsigned spread = generator() % 8;
  return spread == 0 ? -0.3 : (spread == 1 ? 8 : 1) / std::sqrt(static_cast<double>(columns));
}

template <typename T>
using Device = std::vector<T, simt::DeviceAllocator<T>>;

// How [batch, heads, rows, columns] lies in memory.
enum class Layout {
  kContiguous,
  kInterleaved,  // [batch, rows, heads, columns] with gaps, as views of a packed projection
  kUnaligned,    // rows that 16-byte accesses cannot read
};

struct Heads {
  ElementType type;
  int64_t batch, heads, rows, columns;
  int64_t batch_stride, head_stride, row_stride;
  Device<uint4> memory;
  int64_t start;  // byte
  static constexpr int64_t kMargin = 64;

  Heads(ElementType t, int64_t b, int64_t h, int64_t r, int64_t c, Layout layout)
      : type(t), batch(b), heads(h), rows(r), columns(c) {
    if (layout == Layout::kInterleaved) {
      head_stride = c + 8;
      row_stride = h * head_stride + 16;
      batch_stride = r * row_stride + 8;
    } else {
      row_stride = c + (layout == Layout::kUnaligned ? 3 : 0);
      head_stride = r * row_stride + (layout == Layout::kUnaligned ? 1 : 0);
      batch_stride = h * head_stride;
    }
    start = kMargin + (layout == Layout::kUnaligned ? size() : 0);
    memory.resize(static_cast<size_t>((b * batch_stride + c) * size() / 16 + 2 * kMargin / 16 + 2));
    std::memset(memory.data(), 0xA5, memory.size() * 16);
  }
  int64_t size() const { return static_cast<int64_t>(size_of(type)); }
  char* bytes() { return reinterpret_cast<char*>(memory.data()); }
  int64_t offset(int64_t b, int64_t h, int64_t r, int64_t c) const {
    return start + (b * batch_stride + h * head_stride + r * row_stride + c) * size();
  }
  double get(int64_t b, int64_t h, int64_t r, int64_t c) const {
    return value_at(type, reinterpret_cast<const char*>(memory.data()) + offset(b, h, r, c));
  }
  void set(int64_t b, int64_t h, int64_t r, int64_t c, double value) {
    set_value(type, bytes() + offset(b, h, r, c), static_cast<float>(value));
  }
  template <typename F>
  void each(F f) const {
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < columns; ++c) f(b, h, r, c);
  }
  Heads& random(double scale) {
    std::normal_distribution<double> normal(0, scale);
    each([&](int64_t b, int64_t h, int64_t r, int64_t c) { set(b, h, r, c, normal(generator)); });
    return *this;
  }
  // As numbers of one head: [rows][columns].
  std::vector<double> head(int64_t b, int64_t h) const {
    std::vector<double> values;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) values.push_back(get(b, h, r, c));
    return values;
  }
  HeadRows view() { return {bytes() + start, batch_stride, head_stride, row_stride}; }
  // All memory but the elements, to be compared after a run.
  std::vector<char> outside() {
    std::vector<char> all(bytes(), bytes() + memory.size() * 16);
    each([&](int64_t b, int64_t h, int64_t r, int64_t c) {
      std::memset(all.data() + offset(b, h, r, c), 0, static_cast<size_t>(size()));
    });
    return all;
  }
  std::vector<char> all() { return {bytes(), bytes() + memory.size() * 16}; }
};

template <typename C>
void fail(const C& c, const std::string& what) {
  if (++failures <= 20)
    std::fprintf(stderr, "FAILED (seed %u) %s: %s\n", seed, c.text().c_str(), what.c_str());
}

template <typename C>
void check(const C& c, const char* what, int64_t b, int64_t h, int64_t r, int64_t i, double had,
           double wanted, double tolerance, bool& reported) {
  const bool same = std::isinf(wanted) ? had == wanted : std::fabs(had - wanted) <= tolerance;
  if (same || reported) return;
  reported = true;
  char line[200];
  std::snprintf(line, sizeof line, "%s[%lld,%lld,%lld,%lld]: had %.9g, wanted %.9g within %.3g",
                what, static_cast<long long>(b), static_cast<long long>(h),
                static_cast<long long>(r), static_cast<long long>(i), had, wanted, tolerance);
  fail(c, line);
}

template <typename C>
void unchanged(const C& c, const char* what, Heads& heads, const std::vector<char>& before) {
  ++checks;
  if (heads.outside() != before) fail(c, std::string(what) + ": wrote outside of the elements");
}

// Waits for what was launched.
template <typename C>
bool ran(const C& c, const char* what, cudaError_t launched) {
  ++checks;
  const cudaError_t error = launched != cudaSuccess ? launched : cudaDeviceSynchronize();
  if (error == cudaSuccess) return true;
  fail(c, std::string(what) + ": " + cudaGetErrorString(error));
  return false;
}

inline int pick(std::initializer_list<int> of) { return of.begin()[generator() % of.size()]; }

template <typename C>
void expect(const C& c, const char* what, int64_t had, int64_t wanted) {
  ++checks;
  if (had == wanted) return;
  fail(c,
       std::string(what) + ": had " + std::to_string(had) + ", wanted " + std::to_string(wanted));
}

inline simt::Counters counters_of(const char* launch) {
  for (const auto& [name, counters] : simt::kernel_counters())
    if (name == launch) return counters;
  return {};
}

template <typename C>
void whole_sectors(const C& c, const char* what, const simt::Counters::Global& had) {
  expect(c, what, had.sectors * 32, had.bytes);
}

// Where `loads`: of shared loads as well. The simulator counts a lane that leaves out a round of a
// loop with those of the next round, so there it finds conflicts that a GPU does not have.
template <typename C>
void no_conflicts(const C& c, const simt::Counters& had, bool loads = true) {
  expect(c, "wavefronts of ldmatrix", had.matrix.wavefronts, had.matrix.phases);
  expect(c, "wavefronts of copies", had.copy_store.wavefronts, had.copy_store.phases);
  if (loads) expect(c, "wavefronts of loads", had.shared_load.wavefronts, had.shared_load.phases);
  expect(c, "wavefronts of stores", had.shared_store.wavefronts, had.shared_store.phases);
}

// A copy of a tensor in a sparse mapping, its rows 2^31 elements apart.
struct FarHeads {
  static constexpr int64_t kRow = (int64_t{1} << 31) + 8;
  const Heads& like;
  char* memory;

  explicit FarHeads(const Heads& heads) : like(heads) {
    memory = static_cast<char*>(simt::allocate_sparse(
        static_cast<size_t>(heads.batch * heads.heads * heads.rows * kRow * heads.size())));
    if (memory == nullptr) return;
    like.each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      std::memcpy(at(b, h, r, e), near(b, h, r, e), static_cast<size_t>(like.size()));
    });
  }
  FarHeads(const FarHeads&) = delete;
  ~FarHeads() { simt::release(memory); }
  const char* near(int64_t b, int64_t h, int64_t r, int64_t e) const {
    return reinterpret_cast<const char*>(like.memory.data()) + like.offset(b, h, r, e);
  }
  char* at(int64_t b, int64_t h, int64_t r, int64_t e) const {
    return memory + (((b * like.heads + h) * like.rows + r) * kRow + e) * like.size();
  }
  HeadRows view() const { return {memory, like.heads * like.rows * kRow, like.rows * kRow, kRow}; }
  bool same() const {
    bool all = true;
    like.each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      all = all &&
            std::memcmp(at(b, h, r, e), near(b, h, r, e), static_cast<size_t>(like.size())) == 0;
    });
    return all;
  }
};

}  // namespace gatun::kernels
