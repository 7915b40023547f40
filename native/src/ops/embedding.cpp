// Checks of the embedding.
#include "ops/check.h"

using namespace gatun;

namespace {

// values [.., T, D] against ids [.., T] and the tables.
void check_shapes(Call& call, const Operand& values, const Operand& ids, const Operand& table,
                  const Operand& positions, const Operand& start) {
  call.floating({values, table, positions});
  call.dtype(ids, GATUN_I32);
  call.rank(ids, 1, 2);
  call.rank(values, ids->rank + 1, ids->rank + 1);
  for (int i = 0; i < ids->rank; ++i)
    if (values->shape[i] != ids->shape[i])
      call.error("%s is %s, ids is %s: all but the last dimension of %s must agree",
                 NameText(values).text, ShapeText(*values.view).text, ShapeText(*ids.view).text,
                 NameText(values).text);
  for (const Operand& rows : {table, positions}) {
    if (!rows) continue;
    call.rank(rows, 2, 2);
    if (rows->size(0) != values->size(0))
      call.error("%s has %lld columns, %s has %lld", NameText(rows).text,
                 static_cast<long long>(rows->size(0)), NameText(values).text,
                 static_cast<long long>(values->size(0)));
    if (rows->shape[0] == 0 && ids->elements() > 0)
      call.error("%s has no rows", NameText(rows).text);
  }
  call.dtype(start, GATUN_I32);
  call.shape(start, {ids->rank == 2 ? ids->shape[0] : 1}, "(one for each row of ids)");
}

}  // namespace

extern "C" {

gatun_status gatun_embedding_forward(gatun_stream stream, const gatun_tensor* out_,
                                     const gatun_tensor* ids_, const gatun_tensor* table_,
                                     const gatun_tensor* positions_, const gatun_tensor* start_) {
  return guard([&] {
    Call call(Op::embedding_forward, stream);
    EmbeddingForward args;
    const Operand out = call.destination("out", out_, args.out);
    const Operand ids = call.source("ids", ids_, args.ids);
    const Operand table = call.source("table", table_, args.table);
    const Operand positions = call.optional_source("positions", positions_, args.positions);
    const Operand start = call.optional_source("start", start_, args.start);
    check_shapes(call, out, ids, table, positions, start);
    call.same_dtype(table, out);
    call.same_dtype(positions, out);
    // of the tables only the rows that are named
    call.submit(
        args, positions ? elements_of(args.out) : 0,
        bytes_of(args.out) * (positions ? 2 : 1) - bytes_of(args.table) - bytes_of(args.positions));
  });
}

gatun_status gatun_embedding_backward(gatun_stream stream, const gatun_tensor* dtable_,
                                      const gatun_tensor* dpositions_, const gatun_tensor* dout_,
                                      const gatun_tensor* ids_, const gatun_tensor* start_,
                                      uint32_t accumulate) {
  return guard([&] {
    Call call(Op::embedding_backward, stream);
    EmbeddingBackward args;
    const Operand dtable = call.optional_destination("dtable", dtable_, args.dtable);
    const Operand dpositions =
        call.optional_destination("dpositions", dpositions_, args.dpositions);
    const Operand dout = call.source("dout", dout_, args.dout);
    const Operand ids = call.source("ids", ids_, args.ids);
    const Operand start = call.optional_source("start", start_, args.start);
    check_shapes(call, dout, ids, dtable, dpositions, start);
    call.dtype_or_f32(dtable, dout);
    call.dtype_or_f32(dpositions, dout);
    call.mask(accumulate, 2);
    args.accumulate = accumulate;
    // an accumulating destination reads and writes the rows that are named, no others
    double extra = 0;
    for (int i = 0; i < 2; ++i) {
      const View& table = i == 0 ? args.dtable : args.dpositions;
      if (table && adds(accumulate, i))
        extra += 2 * elements_of(args.dout) * static_cast<double>(dtype_size(table.dtype)) -
                 bytes_of(table);
    }
    call.submit(args, elements_of(args.dout) * ((dtable ? 1 : 0) + (dpositions ? 1 : 0)), extra);
  });
}

}  // extern "C"
