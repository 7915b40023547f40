// Checks of the ops that move and make values.
#include <cmath>

#include "ops/check.h"

using namespace gatun;

namespace {

// A fill value must mean something in an integer dtype; floats take any.
void check_fits(Call& call, const Operand& out, double value) {
  double low, high;  // exclusive bounds of what truncates into the dtype
  switch (out->dtype) {
    case GATUN_U8:
      low = -1, high = 256;
      break;
    case GATUN_I8:
      low = -129, high = 128;
      break;
    case GATUN_I32:
      low = -0x1p31 - 1, high = 0x1p31;
      break;
    case GATUN_I64:
      low = std::nextafter(-0x1p63, -INFINITY), high = 0x1p63;
      break;
    default:
      return;
  }
  if (!(value > low && value < high))
    call.error("value %g does not fit in %s, the dtype of out", value, dtype_name(out->dtype));
}

bool casts(int32_t from, int32_t to) {
  const auto is_float = [](int32_t d) { return d <= GATUN_BF16; };
  const auto is_wide = [](int32_t d) { return d == GATUN_I32 || d == GATUN_I64; };
  return from == to || (is_float(from) && is_float(to)) || (is_wide(from) && is_wide(to));
}

}  // namespace

extern "C" {

gatun_status gatun_fill(gatun_stream stream, const gatun_tensor* out_, double value) {
  return guard([&] {
    Call call(Op::fill, stream);
    Fill args;
    const Operand out = call.destination("out", out_, args.out);
    check_fits(call, out, value);
    args.value = value;
    call.submit(args, 0);
  });
}

gatun_status gatun_copy(gatun_stream stream, const gatun_tensor* out_, const gatun_tensor* src_) {
  return guard([&] {
    Call call(Op::copy, stream);
    Copy args;
    const Operand out = call.destination("out", out_, args.out);
    const Operand src = call.repeating_source("src", src_, args.src);
    call.same_shape(src, out);
    if (!casts(src->dtype, out->dtype))
      call.error(
          "src is %s, out is %s: casts are between f32, f16 and bf16, and between i32 and i64",
          dtype_name(src->dtype), dtype_name(out->dtype));
    call.submit(args, 0);
  });
}

gatun_status gatun_random_uniform(gatun_stream stream, const gatun_tensor* out_, double low,
                                  double high, const gatun_philox* philox) {
  return guard([&] {
    Call call(Op::random_uniform, stream);
    Random args;
    const Operand out = call.destination("out", out_, args.out);
    call.floating({out});
    call.finite("low", low);
    call.finite("high", high);
    if (low >= high) call.error("low is %g and high is %g: low < high is wanted", low, high);
    call.philox(philox, args.philox);
    args.a = low;
    args.b = high;
    call.submit(args, 0);
  });
}

gatun_status gatun_random_normal(gatun_stream stream, const gatun_tensor* out_, double mean,
                                 double std, const gatun_philox* philox) {
  return guard([&] {
    Call call(Op::random_normal, stream);
    Random args;
    const Operand out = call.destination("out", out_, args.out);
    call.floating({out});
    call.finite("mean", mean);
    call.finite("std", std);
    if (std < 0) call.error("std is %g, below 0", std);
    call.philox(philox, args.philox);
    args.a = mean;
    args.b = std;
    call.submit(args, 0);
  });
}

gatun_status gatun_add(gatun_stream stream, const gatun_tensor* out_, const gatun_tensor* a_,
                       const gatun_tensor* b_) {
  return guard([&] {
    Call call(Op::add, stream);
    Add args;
    const Operand out = call.destination("out", out_, args.out);
    const Operand a = call.source("a", a_, args.a);
    const Operand b = call.source("b", b_, args.b);
    call.floating({out});
    call.same(a, out);
    call.same(b, out);
    call.may_be(out, a);
    call.may_be(out, b);
    call.submit(args, elements_of(args.out));
  });
}

gatun_status gatun_increment(gatun_stream stream, const gatun_tensor* out_, int64_t by) {
  return guard([&] {
    Call call(Op::increment, stream);
    Increment args;
    const Operand out = call.updated("out", out_, args.out);
    if (out->dtype != GATUN_I32 && out->dtype != GATUN_I64)
      call.error("out is %s, i32 or i64 is wanted", dtype_name(out->dtype));
    if (out->dtype == GATUN_I32 && (by < INT32_MIN || by > INT32_MAX))
      call.error("by is %lld, which does not fit in i32, the dtype of out",
                 static_cast<long long>(by));
    args.by = by;
    call.submit(args, 0, bytes_of(args.out));
  });
}

}  // extern "C"
