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
constexpr int kNormLoopBlocks = 4;  // a multiprocessor should hold: 64 registers a thread
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
      int64_t{sm_count} * (tile == kNormLoop ? kNormLoopBlocks : kNormTiles[tile].min_blocks);
  const int64_t useful = (rows + 8 * rows_at_once - 1) / (8 * rows_at_once);
  return resident < useful ? resident : useful;
}

// The second kernel: 32 columns a block (one 128-byte line of f32), 8 threads a column.
constexpr int kNormFinishColumns = 32;
constexpr int kNormFinishThreads = 8;

// ---- matmul ----

// The product of a block: m x n of the result, k of the sum at a time, by warps_m x warps_n warps.
struct MatmulTile {
  int m, n, k;
  int warps_m, warps_n;
  int stages;      // tiles of the operands in shared memory, all but one of them on their way there
  int min_blocks;  // a multiprocessor should hold at once (__launch_bounds__)
  double speed;    // of a full multiprocessor, relative; an estimate from shared-memory traffic

  constexpr int threads() const { return warps_m * warps_n * 32; }
};

// A warp of 64 x 64 reads 4 KiB of shared memory for 32 mma, one of 32 x 32 as much for 16: beyond
// 64 x 64 the accumulators (128 registers a thread) leave no room.
constexpr MatmulTile kMatmulTiles[] = {
    // 16-bit operands
    {128, 256, 32, 2, 4, 4, 1, 1.0},  // 96 KiB, what the smaller GPUs of this family have
    {64, 64, 64, 2, 2, 3, 3, 0.6},    // 48 KiB: enough blocks where the result is small
    // f32: six mma a pair of fragments, each operand in three parts, so 32 x 32 a warp; 72 KiB
    {128, 64, 32, 4, 2, 3, 1, 1.0},
};
constexpr int kMatmulTileLarge = 0;
constexpr int kMatmulTileSmall = 1;
constexpr int kMatmulTileF32 = 2;
// Operands that 16-byte copies cannot read, element by element: the small tiles; one is multiplied
// while the next is filled.
constexpr int kMatmulElementStages = 2;

constexpr int kMatmulMostSplits = 32;
// Rows of tiles that are walked together, so that blocks that run at once share columns of b in L2.
constexpr int kMatmulRaster = 8;
// The second kernel of a split sum.
constexpr int kMatmulFinishThreads = 256;

struct MatmulPlan {
  int tile;          // into kMatmulTiles
  int splits;        // parts of the sum over k
  int k_of_a_split;  // a multiple of the tile's k
};

// The tile and the number of splits for `batch` products m x n x k, of the tiles first … last:
// those with the least estimated time, in multiply-adds of one multiprocessor.
constexpr MatmulPlan matmul_plan(int first, int last, int64_t batch, int64_t m, int64_t n,
                                 int64_t k, int sm_count) {
  constexpr double kStart = 256;         // of k: filling the ring, storing the tile
  constexpr double kByte = 90;           // a byte of memory, per multiprocessor
  constexpr double kSecondKernel = 4e6;  // 3 us
  MatmulPlan best = {};
  double best_time = 0;
  for (int i = first; i <= last; ++i) {
    const MatmulTile& tile = kMatmulTiles[i];
    const double blocks = static_cast<double>(batch) *
                          static_cast<double>((m + tile.m - 1) / tile.m) *
                          static_cast<double>((n + tile.n - 1) / tile.n);
    const int64_t steps = (k + tile.k - 1) / tile.k;
    for (int wanted = 1; wanted <= kMatmulMostSplits && wanted <= steps; ++wanted) {
      const int64_t steps_of_a_split = (steps + wanted - 1) / wanted;
      const int64_t splits = (steps + steps_of_a_split - 1) / steps_of_a_split;
      if (splits != wanted) continue;
      const double at_once = static_cast<double>(sm_count) * tile.min_blocks;
      const double waves_exactly = blocks * static_cast<double>(splits) / at_once;
      auto waves = static_cast<int64_t>(waves_exactly);
      if (static_cast<double>(waves) < waves_exactly) ++waves;
      double time = static_cast<double>(waves) * tile.min_blocks * tile.m * tile.n *
                    (static_cast<double>(steps_of_a_split * tile.k) + kStart) / tile.speed;
      if (splits > 1)
        time += kSecondKernel + kByte * 8 * static_cast<double>(splits) *
                                    static_cast<double>(batch) * static_cast<double>(m) *
                                    static_cast<double>(n) / sm_count;
      if (best_time == 0 || time < best_time) {
        best_time = time;
        best = {i, static_cast<int>(splits), static_cast<int>(steps_of_a_split * tile.k)};
      }
    }
  }
  if (best.splits == 0) best = {first, 1, 0};  // k = 0
  return best;
}
// of an H100, for operands of 16 bits: 4096 cubed, GPT-2's projection, gradient of its weight,
// logits, a few rows, an empty sum
static_assert(matmul_plan(0, 1, 1, 4096, 4096, 4096, 132).tile == 0);
static_assert(matmul_plan(0, 1, 1, 4096, 4096, 4096, 132).splits == 1);
static_assert(matmul_plan(0, 1, 1, 8192, 768, 3072, 132).splits == 1);
static_assert(matmul_plan(0, 1, 1, 768, 3072, 8192, 132).splits > 1);
static_assert(matmul_plan(0, 1, 1, 8192, 50304, 768, 132).tile == 0);
static_assert(matmul_plan(0, 1, 1, 64, 768, 3072, 132).splits > 4);
static_assert(matmul_plan(0, 1, 1, 64, 64, 0, 132).splits == 1);

// ---- matmul with few rows ----

// Up to so many rows every byte of b is read once and multiplied in registers: with more, tensor
// cores are faster.
constexpr int kFewRows = 8;
constexpr int kFewRowsThreads = 256;
// A multiprocessor should hold at once (__launch_bounds__), of elements of `size` bytes: what the
// sums of eight rows leave registers for.
constexpr int few_rows_min_blocks(int rows, size_t size) {
  return rows == 1 ? 5 : size == 4 ? 3 : 2;
}
// b as rows of k: a warp walks along four of them, so that its sums are a vector of out. Bytes of a
// row of a in shared memory: 32 KiB for eight rows.
constexpr int kFewRowsColumns = 4;
constexpr int kFewRowsBytes = 4096;
// b as rows of n: lanes side by side read one 128-byte line, the others of a warp the next rows; a
// thread has four such loads in flight. Of k in shared memory: 32 KiB of f32 for eight rows.
constexpr int kFewRowsLanes = 8;
constexpr int kFewRowsAhead = 4;
constexpr int kFewRowsDepth = 1024;

// Parts of the sum over k, at least `least` each: so many that loads are in flight everywhere.
constexpr int few_rows_splits(int64_t column_blocks, int64_t k, int64_t least, int sm_count) {
  const int64_t wanted = (int64_t{sm_count} * 4 + column_blocks - 1) / column_blocks;
  int64_t splits = k / least;
  if (splits > wanted) splits = wanted;
  if (splits > kMatmulMostSplits) splits = kMatmulMostSplits;
  return splits < 1 ? 1 : static_cast<int>(splits);
}
static_assert(few_rows_splits(1571, 768, 256, 132) == 1);  // GPT-2's logits
static_assert(few_rows_splits(12, 3072, 64, 132) == 32);   // its second projection

// ---- bias_backward ----

constexpr int kColumnSumThreads = 256;  // 8 warps, each takes every eighth row
// Parts of the rows: as layer_norm's, only as many as fill the machine, of at least 64 rows.
constexpr int64_t column_sum_parts(int64_t rows, int64_t column_blocks, int sm_count) {
  const int64_t resident = (int64_t{sm_count} * 8 + column_blocks - 1) / column_blocks;
  const int64_t useful = rows < 64 ? 1 : (rows + 63) / 64;
  return resident < useful ? resident : useful;
}

// ---- optimizer ----

// Threads of a block that works on a chunk of one tensor of a list.
constexpr int kListThreads = 256;

// Elements of a chunk: long enough that finding it costs little (1 us of the 5 that a block needs
// to move it), short enough that a model of 10^8 parameters gives each multiprocessor hundreds.
constexpr int kAdamWChunk = 8192;
constexpr int kListChunk = 16384;

// Blocks of adamw_update on a multiprocessor: 4 of 256 threads with 8 16-byte loads each keep
// 128 KiB in flight, and may have 64 registers a thread.
constexpr int kAdamWMinBlocks = 4;

// Tensors of one launch: what fits into 4 KiB of arguments.
constexpr int kAdamWRuns = 64;
constexpr int kListRuns = 128;

// The block that adds up the sums of all chunks.
constexpr int kNormFinishSums = 1024;

// ---- cross_entropy ----

struct LossTile {
  int threads;       // that share a row
  int words;         // 16-byte words of the row that a thread keeps in registers
  int rows;          // that a block has in flight
  int min_blocks;    // a multiprocessor should hold at once (__launch_bounds__)
  int shared_words;  // of a row, at most, beside those in registers
};

// 6144 words are 96 KiB: every GPU since sm_80 gives a block that much, an H100 two blocks.
constexpr LossTile kLossTiles[] = {
    {32, 8, 4, 6, 0},       // up to 256 words: a warp a row, no barriers
    {128, 8, 1, 6, 0},      // up to 1024
    {512, 8, 1, 2, 6144},   // up to 10240: one block loads while the other stores
    {1024, 7, 1, 1, 6144},  // up to 13312; 8 words would spill
};
constexpr int kLossTileCount = sizeof kLossTiles / sizeof kLossTiles[0];

// Longer rows are read again for the gradient.
constexpr int kLossLoop = kLossTileCount;
constexpr int kLossLoopThreads = 1024;

// The tile for rows of so many words: an index into kLossTiles, or kLossLoop.
constexpr int loss_tile(int64_t words) {
  for (int i = 0; i < kLossTileCount; ++i)
    if (words <= int64_t{kLossTiles[i].threads} * kLossTiles[i].words + kLossTiles[i].shared_words)
      return i;
  return kLossLoop;
}
static_assert(loss_tile(50257 / 8) == 2, "GPT-2 in 16 bits: two blocks a multiprocessor");
static_assert(loss_tile(50257 / 4) == 3, "GPT-2 in f32: still on the chip");

constexpr int kLossFinishThreads = 1024;

// ---- argmax, sample ----

// A row of GPT-2's vocabulary is 6 words of bf16 a thread.
constexpr int kArgMaxThreads = 1024;

// Half of that: a barrier costs less, and there are dozens; and double sums need registers.
constexpr int kSampleThreads = 512;

// What thresholds are sought among: 64 KiB of shared memory, 16 a thread. Beyond top-k of 50 or
// top-p of 0.9 a language model leaves fewer.
constexpr int kSampleCandidates = 8192;

// ---- attention ----

// Whether so many blocks fit into a multiprocessor's shared memory; each costs 1 KiB more than it
// asks for.
constexpr size_t kSharedOfA100 = 164 << 10, kSharedOfH100 = 228 << 10;
constexpr bool shared_fits(size_t bytes, int blocks, size_t shared = kSharedOfA100) {
  return (bytes + 1024) * static_cast<size_t>(blocks) <= shared;
}

// Four warps: with eight, each has half the rows, and every key fragment feeds half the products
// (FlashAttention-2 found eight 18 to 28 % slower).
constexpr int kAttentionWarps = 4;
constexpr int kAttentionThreads = 32 * kAttentionWarps;

// Head sizes that have kernels; others are padded with zeros to the next one. Multiples of 32: a
// panel of the swizzled tiles.
constexpr int kAttentionWidths[] = {32, 64, 96, 128, 256};

constexpr int attention_width(int columns) {
  for (int width : kAttentionWidths)
    if (columns <= width) return width;
  return 0;
}
static_assert(attention_width(1) == 32 && attention_width(40) == 64 && attention_width(80) == 96);
static_assert(attention_width(128) == 128 && attention_width(257) == 0);

struct AttentionTile {
  int strips;      // of 16 rows that a warp owns
  int other;       // rows of the tile that passes by: keys, or queries where keys are owned
  int min_blocks;  // a multiprocessor should hold at once (__launch_bounds__)
  int rows = strips * 16 * kAttentionWarps;  // that a block owns
};

// Forward: 128 queries, 64 keys. Two strips a warp, so that a fragment of k or v read from shared
// memory (256 bytes) feeds two products: with one, shared memory and not the tensor cores would be
// the limit. At 128 columns the sums of out take 128 registers and the scores 64, which leaves no
// room for the queries (64): they stay in shared memory beyond 64 columns. At 256 columns the sums
// of one strip take 128 registers, and 32 keys keep two blocks within an H100's shared memory.
template <int kWidth>
constexpr AttentionTile kAttentionForward = kWidth <= 64    ? AttentionTile{2, 64, 2}
                                            : kWidth <= 128 ? AttentionTile{2, 32, 2}
                                                            : AttentionTile{1, 32, 2};
template <int kWidth>
constexpr bool kAttentionQueriesInRegisters = kWidth <= 64;

// Backward, gradients of k and v: a block owns keys, queries pass by in two tiles in flight. The
// sums of dk and dv take 128 registers, scores and their gradients 64 (32 at 128 columns, where 64
// did not fit). 64 KiB of shared memory at 128 columns: two blocks on an A100, too.
template <int kWidth>
constexpr AttentionTile kAttentionKeyGradient = kWidth <= 64    ? AttentionTile{2, 32, 2}
                                                : kWidth <= 96  ? AttentionTile{1, 64, 2}
                                                : kWidth <= 128 ? AttentionTile{1, 32, 2}
                                                                : AttentionTile{1, 32, 1};
// Its columns of dk and dv in registers; a wider head is split, each part computing all scores.
template <int kWidth>
constexpr int kAttentionKeyGradientColumns = kWidth <= 128 ? kWidth : 128;

// Backward, gradient of q: a block owns queries, keys pass by.
template <int kWidth>
constexpr AttentionTile kAttentionQueryGradient = kWidth <= 64    ? AttentionTile{2, 32, 2}
                                                  : kWidth <= 96  ? AttentionTile{1, 64, 2}
                                                  : kWidth <= 128 ? AttentionTile{1, 32, 2}
                                                                  : AttentionTile{1, 32, 1};

// The backward pass's statistics of the rows: queries are padded to whole tiles of any size. Eight
// lanes share a row.
constexpr int kAttentionStatisticRows = 128;
constexpr int kAttentionRowLanes = 8;

// The backward pass's atomic dq: wider heads, whose keys are owned twice, keep the kernel of its
// own.
constexpr int kAttentionAtomicColumns = 128;

// f32 without tensor cores: 16 x 16 threads, each with a square of the scores of this edge; the
// backward pass at 256 columns has room for tiles of 32 rows only.
constexpr int kAttentionPlainThreads = 256;
template <int kWidth>
constexpr int kAttentionPlainEdge = kWidth <= 128 ? 4 : 2;

// Decode: 64 keys a tile, two tiles in flight. Few rows (a token's heads of one group): the four
// warps share 16 rows and each takes 16 of the 64 keys, joined at the end. Many: a warp has 16 rows
// of its own.
constexpr int kAttentionDecodeKeys = 64;
constexpr int attention_decode_rows(int64_t rows, bool tensor_cores) {
  return tensor_cores && rows > 16 ? 64 : 16;
}

// Parts into which the keys of a row are split, so that a machine of `sm_count` multiprocessors has
// two blocks on each; a part has at least two tiles of a full row, and four tiles are never split
// (the second kernel would cost more than it brings).
constexpr int attention_decode_splits(int64_t blocks, int64_t capacity, int sm_count) {
  const int64_t tiles = (capacity + kAttentionDecodeKeys - 1) / kAttentionDecodeKeys;
  if (tiles <= 4 || blocks < 1) return 1;
  const int64_t wanted = (2 * sm_count + blocks - 1) / blocks;
  const int64_t most = tiles / 2 < 128 ? tiles / 2 : 128;
  return static_cast<int>(wanted < most ? wanted : most);
}
static_assert(attention_decode_splits(12, 1024, 132) == 8);
static_assert(attention_decode_splits(128, 4096, 132) == 3);
static_assert(attention_decode_splits(1024, 4096, 132) == 1);
static_assert(attention_decode_splits(1, 256, 132) == 1);

// ---- elementwise ----

// Four packs of 16 bytes a thread: 64 bytes in flight for each of up to 2048 threads are four times
// what a multiprocessor of an H100 needs to keep its part of 3.35 TB/s at 0.7 us of latency (17
// KiB), so that half the occupancy and partly used packs still suffice.
constexpr int kElementwiseThreads = 256;
constexpr int kElementwisePacks = 4;

// Transposing copies: 32 x 32 elements through shared memory, four rows a thread. Sides shorter
// than a sector of the smallest elements that models use would leave most of a tile empty.
constexpr int kTransposeTile = 32;
constexpr int kTransposeRows = 8;
static_assert(kTransposeTile % kTransposeRows == 0);
constexpr bool transpose_pays(int64_t out_side, int64_t src_side) {
  return out_side >= 8 && src_side >= 8;
}

// ---- embedding ----

constexpr int kEmbeddingThreads = 256;  // 8 warps: a token each, or 32 rows of the table each
constexpr int kEmbeddingPacks = 4;      // of 16 bytes a thread has in flight
constexpr int kEmbeddingScan = 128;     // keys that a warp reads at once

// Sorted tokens that a block adds up: 16k tokens make 512 blocks, four for each multiprocessor of
// an H100, with 24 KiB in flight.
constexpr int kEmbeddingSegment = 32;
constexpr int kEmbeddingSumThreads = 128;
// One pack of columns each, in whole warps: 96 for the 768 columns of GPT-2 in 16 bits.
constexpr unsigned embedding_sum_threads(int64_t packs) {
  return packs < kEmbeddingSumThreads ? static_cast<unsigned>((packs + 31) / 32 * 32)
                                      : static_cast<unsigned>(kEmbeddingSumThreads);
}
static_assert(embedding_sum_threads(96) == 96 && embedding_sum_threads(1) == 32);

}  // namespace gatun::kernels
