// Every tile choice of the kernels, one constexpr table an op, each entry with its reason. Plain
// C++: the host reads it too.
#pragma once

#include <cstdint>

namespace gatun::kernels {

// ---- layer_norm ----

// Values of a row that a thread keeps in registers. The backward pass holds four such sets (xhat,
// gradient, and the sums for weight and bias): 64 registers, within the 128 that a block of 512
// threads may have. 32 would spill there.
constexpr int kNormValues = 16;

struct NormTile {
  int threads;     // that share a row
  int rows;        // that a block has in flight
  int min_blocks;  // a multiprocessor should hold at once (__launch_bounds__)
};

constexpr NormTile kNormTiles[] = {
    {32, 4, 4},   // up to 512 columns: a warp a row, no barriers; four rows make a block of 128
    {128, 1, 4},  // up to 2048
    {512, 1, 1},  // up to 8192
};
constexpr int kNormTileCount = sizeof kNormTiles / sizeof kNormTiles[0];

// Longer rows, and rows that 16-byte loads cannot read, are walked in a loop and read again from
// the cache by each pass.
constexpr int kNormLoopThreads = 256;
constexpr int kNormLoop = kNormTileCount;

// The tile for rows of this length: an index into kNormTiles, or kNormLoop.
constexpr int norm_tile(int64_t columns, bool aligned) {
  if (aligned)
    for (int i = 0; i < kNormTileCount; ++i)
      if (columns <= int64_t{kNormTiles[i].threads} * kNormValues) return i;
  return kNormLoop;
}
static_assert(norm_tile(512, true) == 0 && norm_tile(513, true) == 1);
static_assert(norm_tile(8192, true) == 2 && norm_tile(8193, true) == kNormLoop);
static_assert(norm_tile(64, false) == kNormLoop);

// Blocks of the backward pass: each adds up the parameter gradients of its rows and writes one
// partial result, which a second kernel reads, so there are only as many as fill the machine; and
// each has at least 8 rows, or the partial results would be as large as the input.
constexpr int64_t norm_backward_blocks(int64_t rows, int tile, int sm_count) {
  const int64_t rows_at_once = tile == kNormLoop ? 1 : kNormTiles[tile].rows;
  const int64_t resident =
      int64_t{sm_count} * (tile == kNormLoop ? 4 : kNormTiles[tile].min_blocks);
  const int64_t useful = (rows + 8 * rows_at_once - 1) / (8 * rows_at_once);
  return resident < useful ? resident : useful;
}

// The second kernel: 32 columns a block (one 128-byte line of f32), 8 threads a column.
constexpr int kNormFinishColumns = 32;
constexpr int kNormFinishThreads = 8;

}  // namespace gatun::kernels
