// Embedding: rows of a table gathered by id, plus positions; the backward pass scatters.
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/level/backend.h"
#include "cpu/level/rows.h"
#include "cpu/level/vec.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

// ids [B, T] or [T] read as [B, T], with the start position of each row.
struct Tokens {
  Context& context;
  const View& ids;
  const View& start;
  int64_t vocabulary;
  int64_t positions;  // 0: none
  int64_t length;     // T

  Tokens(Context& context, const View& ids, const View& start, int64_t vocabulary,
         int64_t positions)
      : context(context),
        ids(ids),
        start(start),
        vocabulary(vocabulary),
        positions(positions),
        length(ids.size(0)) {}

  int64_t count() const { return ids.elements(); }

  // The table row of a token; one that the table lacks becomes the nearest and is reported.
  int64_t id(int64_t token) const {
    const int64_t b = token / length;
    const int64_t t = token % length;
    const int32_t id = ids.as<int32_t>()[b * ids.step(1) + t * ids.step(0)];
    if (id >= 0 && id < vocabulary) return id;
    context.fault(GATUN_OUT_OF_RANGE, "embedding", "id %d at [%lld,%lld] is not in [0, %lld)", id,
                  static_cast<long long>(b), static_cast<long long>(t),
                  static_cast<long long>(vocabulary));
    return id < 0 ? 0 : vocabulary - 1;
  }

  // Likewise its row of the positions.
  int64_t position(int64_t token) const {
    const int64_t b = token / length;
    const int64_t t = token % length;
    const int64_t p = (start ? start.as<int32_t>()[b * start.step(0)] : 0) + t;
    if (p >= 0 && p < positions) return p;
    context.fault(GATUN_OUT_OF_RANGE, "embedding",
                  "position %lld at [%lld,%lld] is not in [0, %lld)", static_cast<long long>(p),
                  static_cast<long long>(b), static_cast<long long>(t),
                  static_cast<long long>(positions));
    return p < 0 ? 0 : positions - 1;
  }

  // Offset of a token's row in out or dout, [B, T, D] or [T, D].
  int64_t row(const View& out, int64_t token) const {
    return token / length * out.step(2) + token % length * out.step(1);
  }
};

template <typename T>
void add_rows(T* out, const T* a, const T* b, int64_t n) {
  each_vector(
      n, [&](int64_t i) { store(out + i, load(a + i) + load(b + i)); },
      [&](int64_t i, int count) {
        store_first(out + i, load_first(a + i, count) + load_first(b + i, count), count);
      });
}

template <typename T>
void add_into(float* sum, const T* row, int64_t n) {
  each_vector(
      n, [&](int64_t i) { store(sum + i, load(sum + i) + load(row + i)); },
      [&](int64_t i, int count) {
        store_first(sum + i, load_first(sum + i, count) + load_first(row + i, count), count);
      });
}

constexpr int64_t kColumns = 256;  // of a row that one work item sums: 2 x 1 KiB in the L1 cache
constexpr int kRun = 256;          // rows summed plainly before they join the total

// The tokens of each destination row as chains in token order: head[row] is its first token or
// -1, next[token] the one after it; `named` lists the rows that have one.
struct Chains {
  int32_t* head;
  int32_t* next;
  int32_t* named;
  int64_t count = 0;

  static size_t bytes(int64_t rows, int64_t tokens) {
    return static_cast<size_t>(rows + 2 * tokens) * sizeof(int32_t);
  }
  template <typename RowOf>
  Chains(int32_t* scratch, int64_t rows, int64_t tokens, RowOf row_of)
      : head(scratch), next(scratch + rows), named(scratch + rows + tokens) {
    std::memset(head, 0xff, static_cast<size_t>(rows) * sizeof(int32_t));
    for (int64_t token = tokens - 1; token >= 0; --token) {  // so chains ascend
      const int64_t row = row_of(token);
      if (head[row] < 0) named[count++] = static_cast<int32_t>(row);
      next[token] = head[row];
      head[row] = static_cast<int32_t>(token);
    }
  }
};

// Zeroes the rows that no token names.
void zero_others(Context& context, const View& destination, const Chains& chains, size_t size) {
  const int64_t rows = destination.shape[0];
  const int64_t columns = destination.size(0);
  parallel_parts(
      context, rows, 1, rows * columns < kSerialElements, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
          if (chains.head[row] < 0)
            std::memset(
                destination.as<char>() + row * destination.step(1) * static_cast<int64_t>(size), 0,
                static_cast<size_t>(columns) * size);
      });
}

// destination[row, :] (+)= sum of source over the row's tokens, each row by one thread, in token
// order: the same bits whatever the number of threads.
template <typename Out, typename In>
void scatter(Context& context, const View& destination, const View& source, const Tokens& tokens,
             const Chains& chains, bool add) {
  const int64_t columns = destination.size(0);
  const int64_t blocks = (columns + kColumns - 1) / kColumns;
  const auto run = [&](int64_t item) {
    const int64_t row = chains.named[item / blocks];
    const int64_t first = item % blocks * kColumns;
    const int64_t n = std::min(kColumns, columns - first);
    Out* out = destination.as<Out>() + row * destination.step(1) + first;
    alignas(64) float part[kColumns];
    alignas(64) float total[kColumns] = {};
    for (int32_t token = chains.head[row]; token >= 0;) {
      std::memset(part, 0, sizeof part);
      for (int i = 0; i < kRun && token >= 0; ++i, token = chains.next[token])
        add_into(part, source.as<In>() + tokens.row(source, token) + first, n);
      add_into(total, part, n);
    }
    if (add) add_into(total, out, n);
    each_vector(
        n, [&](int64_t i) { store(out + i, load(total + i)); },
        [&](int64_t i, int count) { store_first(out + i, load_first(total + i, count), count); });
  };
  const int64_t items = chains.count * blocks;
  if (context.threads <= 1 || tokens.count() * columns < kSerialElements) {
    for (int64_t item = 0; item < items; ++item) run(item);
    return;
  }
  // frequent tokens have long chains: handed out as threads come free
#pragma omp parallel for num_threads(context.threads) schedule(dynamic, 8)
  for (int64_t item = 0; item < items; ++item) run(item);
}

template <typename RowOf>
void scatter_gradient(Context& context, const View& destination, const View& source,
                      const Tokens& tokens, int32_t* scratch, bool add, RowOf row_of) {
  if (!destination || destination.elements() == 0) return;
  const Chains chains(scratch, destination.shape[0], tokens.count(), row_of);
  with_float(destination.dtype, [&]<typename Out>() {
    if (!add) zero_others(context, destination, chains, sizeof(Out));
    with_float(source.dtype, [&]<typename In>() {
      scatter<Out, In>(context, destination, source, tokens, chains, add);
    });
  });
}

}  // namespace

void embedding_forward(Context& context, const EmbeddingForward& args) {
  const int64_t columns = args.out.size(0);
  const Tokens tokens(context, args.ids, args.start, args.table.shape[0],
                      args.positions ? args.positions.shape[0] : 0);
  if (args.out.elements() == 0) return;
  with_float(args.out.dtype, [&]<typename T>() {
    parallel_parts(
        context, tokens.count(), 1, tokens.count() * columns < kSerialElements,
        [&](int64_t begin, int64_t end) {
          for (int64_t token = begin; token < end; ++token) {
            T* out = args.out.as<T>() + tokens.row(args.out, token);
            const T* row = args.table.as<T>() + tokens.id(token) * args.table.step(1);
            if (args.positions)
              add_rows(out, row,
                       args.positions.as<T>() + tokens.position(token) * args.positions.step(1),
                       columns);
            else
              std::memcpy(out, row, static_cast<size_t>(columns) * sizeof(T));
          }
        });
  });
}

void embedding_backward(Context& context, const EmbeddingBackward& args) {
  const int64_t vocabulary = args.dtable ? args.dtable.shape[0] : 0;
  const int64_t positions = args.dpositions ? args.dpositions.shape[0] : 0;
  const Tokens tokens(context, args.ids, args.start, vocabulary, positions);
  int32_t* scratch = static_cast<int32_t*>(
      context.workspace(Chains::bytes(std::max(vocabulary, positions), tokens.count())));
  scatter_gradient(context, args.dtable, args.dout, tokens, scratch, adds(args.accumulate, 0),
                   [&](int64_t token) { return tokens.id(token); });
  scatter_gradient(context, args.dpositions, args.dout, tokens, scratch, adds(args.accumulate, 1),
                   [&](int64_t token) { return tokens.position(token); });
}

}  // namespace gatun::cpu::GATUN_LEVEL
