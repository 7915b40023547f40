// share_memory() against the definition: the sets of bytes that two views touch.
#include <algorithm>
#include <random>
#include <set>

#include "ops/check.h"
#include "testing.h"

using namespace gatun;

namespace {

View view_of(void* data, int32_t dtype, std::initializer_list<int64_t> shape,
             std::initializer_list<int64_t> stride) {
  View view;
  view.data = data;
  view.dtype = dtype;
  for (int64_t n : shape) view.shape[view.rank++] = n;
  std::copy(stride.begin(), stride.end(), view.stride);
  return view;
}

std::set<uintptr_t> bytes_touched(const View& view) {
  std::set<uintptr_t> bytes;
  const int64_t n = view.elements(), size = dtype_size(view.dtype);
  for (int64_t e = 0; e < n; ++e) {
    int64_t rest = e, at = 0;
    for (int i = view.rank - 1; i >= 0; --i) {
      at += rest % view.shape[i] * view.stride[i];
      rest /= view.shape[i];
    }
    for (int64_t b = 0; b < size; ++b)
      bytes.insert(reinterpret_cast<uintptr_t>(view.data) + static_cast<uintptr_t>(at * size + b));
  }
  return bytes;
}

bool truth(const View& a, const View& b) {
  const std::set<uintptr_t> x = bytes_touched(a), y = bytes_touched(b);
  return std::any_of(x.begin(), x.end(), [&](uintptr_t byte) { return y.count(byte) != 0; });
}

alignas(64) char memory[1 << 20];

}  // namespace

int main() {
  // q, k, v of a packed [B, T, 3, H, D], seen as [B, H, T, D]
  const int64_t b = 2, t = 5, h = 3, d = 4;
  View packed[3];
  for (int i = 0; i < 3; ++i)
    packed[i] =
        view_of(memory + i * h * d * 4, GATUN_F32, {b, h, t, d}, {t * 3 * h * d, d, 3 * h * d, 1});
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) CHECK(share_memory(packed[i], packed[j]) == (i == j));
  // one head, one token, halves of the columns, halves of the time
  const View head = view_of(memory + d * 4, GATUN_F32, {b, t, d}, {t * 3 * h * d, 3 * h * d, 1});
  CHECK(share_memory(head, packed[0]) && !share_memory(head, packed[1]));
  const View left = view_of(memory, GATUN_BF16, {6, 5}, {10, 1});
  const View right = view_of(memory + 10, GATUN_BF16, {6, 5}, {10, 1});
  const View middle = view_of(memory + 8, GATUN_BF16, {6, 5}, {10, 1});
  CHECK(!share_memory(left, right) && share_memory(left, middle) && share_memory(middle, right));
  CHECK(!share_memory(right, left));
  const View early = view_of(memory, GATUN_F32, {4, 3, 8}, {80, 8, 1});
  const View late = view_of(memory + 3 * 8 * 4, GATUN_F32, {4, 7, 8}, {80, 8, 1});
  CHECK(!share_memory(early, late) && !share_memory(late, early));

  // never "apart" where bytes are shared; and how often it is right to say "apart"
  const unsigned seed = 20261125;
  std::mt19937 generator(seed);
  const auto pick = [&](int n) { return static_cast<int>(generator() % static_cast<unsigned>(n)); };
  int apart = 0, found = 0;
  for (int round = 0; round < 20000; ++round) {
    View views[2];
    // strides of one array, as views of one tensor have
    const int64_t inner = 2 + pick(6), middle_dim = 2 + pick(4);
    for (View& view : views) {
      const int64_t n = 1 + pick(static_cast<int>(inner)),
                    m = 1 + pick(static_cast<int>(middle_dim));
      const int64_t i = pick(static_cast<int>(inner)), j = pick(static_cast<int>(middle_dim));
      view = view_of(memory + ((j * inner) + i) * 4 + pick(3) * inner * middle_dim * 4, GATUN_F32,
                     {1 + pick(4), m, n}, {inner * middle_dim, inner, 1});
      if (pick(3) == 0) {
        view.dtype = GATUN_F16;
        for (int64_t& stride : view.stride) stride = stride == 1 ? 1 : stride * (1 + pick(2));
      }
    }
    const bool shared = truth(views[0], views[1]);
    const bool said = share_memory(views[0], views[1]);
    if (shared && !said) {
      std::fprintf(stderr, "seed %u, round %d: overlap not seen\n", seed, round);
      return 1;
    }
    CHECK(said == share_memory(views[1], views[0]));
    if (!shared) {
      ++apart;
      if (!said) ++found;
    }
  }
  std::printf("seed %u: %d of %d pairs that are apart were seen to be\n", seed, found, apart);
  CHECK(found > apart * 0.7);
  return 0;
}
