// The vocabulary in which the ops check their arguments: one Call per call. It pins the stream,
// resolves tensors into the views of the op's Args struct, checks them against each other, and
// enqueues. A check that fails throws a sentence "op: argument had this, that was wanted".
//
//   Call call(Op::add, stream);
//   Add args;
//   const Operand out = call.destination("out", out_, args.out);
//   const Operand a = call.source("a", a_, args.a);
//   call.same(a, out);
//   call.may_be(out, a);
//   call.submit(args, flops);
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "core/device.h"
#include "core/error.h"
#include "core/guard.h"
#include "core/handles.h"
#include "core/op.h"
#include "gatun.h"
#include "ops/args.h"

namespace gatun {

// What the dtype is called in sentences, and its size; null and 0 for what is none.
const char* dtype_name(int32_t dtype);
int64_t dtype_size(int32_t dtype);

// A resolved argument: its view in the Args struct and its name. Absent ones have no view data
// (operator bool is false); every check but require() passes them over.
struct Operand {
  const View* view;
  const char* name;
  int index = -1;  // for names like weights[3]

  explicit operator bool() const { return static_cast<bool>(*view); }
  const View* operator->() const { return view; }
};

// "[2, 3, 4]".
struct ShapeText {
  char text[160];
  ShapeText(const int64_t* shape, int rank);
  explicit ShapeText(const View& view) : ShapeText(view.shape, view.rank) {}
};

// "weights[3]" or "weights".
struct NameText {
  char text[48];
  explicit NameText(const Operand& operand);
};

class Call {
 public:
  Call(Op op, gatun_stream stream);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const char* op() const { return type_of(op_).name; }

  // ---- resolving: fills `view` from the caller's struct ----

  Operand destination(const char* name, const gatun_tensor* tensor, View& view, int index = -1);
  Operand source(const char* name, const gatun_tensor* tensor, View& view, int index = -1);
  // The same for arguments that may be null.
  Operand optional_destination(const char* name, const gatun_tensor* tensor, View& view,
                               int index = -1);
  Operand optional_source(const char* name, const gatun_tensor* tensor, View& view, int index = -1);
  // A source whose strides may be 0.
  Operand repeating_source(const char* name, const gatun_tensor* tensor, View& view);
  // A tensor that is read and written.
  Operand updated(const char* name, const gatun_tensor* tensor, View& view, int index = -1) {
    return destination(name, tensor, view, index);
  }

  // A struct of options: not null, aligned, of this library's size.
  template <typename Args>
  const Args& options(const char* name, const Args* args) {
    check_pointer(name, args, alignof(Args));
    if (args->struct_size != sizeof(Args))
      error(
          "%s->struct_size is %u, this library's is %zu: caller and library were built with "
          "different gatun.h",
          name, args->struct_size, sizeof(Args));
    return *args;
  }
  // An array of `count` elements.
  template <typename T>
  const T* array(const char* name, const T* elements, int32_t count) {
    if (count > 0) check_pointer(name, elements, alignof(T));
    return elements;
  }
  void philox(const gatun_philox* philox, Philox& into);

  // ---- checks ----

  void floating(std::initializer_list<Operand> operands);
  void dtype(const Operand& operand, int32_t wanted);
  // The dtype of `like` or f32.
  void dtype_or_f32(const Operand& operand, const Operand& like);
  void same_dtype(const Operand& operand, const Operand& like);
  void same_shape(const Operand& operand, const Operand& like);
  void same(const Operand& operand, const Operand& like) {
    same_dtype(operand, like);
    same_shape(operand, like);
  }
  void rank(const Operand& operand, int lowest, int highest);
  // The exact shape; `why` says where it comes from: "as x has 4096 columns".
  void shape(const Operand& operand, std::initializer_list<int64_t> wanted, const char* why);
  void shape(const Operand& operand, const int64_t* wanted, int rank, const char* why);
  // [like.size]: a weight or bias of the last dimension.
  void columns(const Operand& operand, const Operand& like);
  // Rank 0, or one element.
  void scalar(const Operand& operand, int32_t wanted_dtype);
  // Everything of `like` but its last dimension.
  void rows(const Operand& operand, const Operand& like);
  void finite(const char* name, double value);
  // p of a dropout.
  void probability(double p);
  // Only the first `count` bits may be set.
  void mask(uint32_t accumulate, int count);
  // Elements in order without gaps.
  void contiguous(const Operand& operand);
  void flag(const char* name, int32_t value);
  void reserved(const char* name, int32_t value);

  // `destination` may be exactly the tensor `other`.
  void may_be(const Operand& destination, const Operand& other);

  [[noreturn]] void error(const char* format, ...) __attribute__((format(printf, 2, 3)));

  // ---- running ----

  // Checks the overlaps of all operands, then enqueues. The traffic of the profile is every
  // operand once, `extra_bytes` more (what an accumulation reads, less what a gather leaves out).
  template <typename Args>
  void submit(Args& args, double flops, double extra_bytes = 0) {
    submit_erased(&args, flops, extra_bytes);
  }

 private:
  struct Extent {
    const View* view;
    const char* name;
    int index;
    bool written;
    uintptr_t begin, end;  // bytes; empty for a tensor without elements
  };
  struct Alias {
    const View* a;
    const View* b;
  };
  static constexpr int kInline = 16;

  Operand resolve(const char* name, const gatun_tensor* tensor, View& view, int index, bool written,
                  bool repeats);
  void check_pointer(const char* name, const void* pointer, size_t alignment);
  void check_overlaps();
  void check_pair(const Extent& a, const Extent& b);
  void submit_erased(void* args, double flops, double extra_bytes);
  Extent& extent(int i) {
    return i < kInline ? inline_[i] : more_[static_cast<size_t>(i - kInline)];
  }
  void add(const Extent& extent);

  const Op op_;
  const Pin pin_;
  Stream* stream_;
  int operands_ = 0;
  int written_elements_ = 0;  // destinations that have elements
  int aliases_ = 0;
  Extent inline_[kInline];
  std::vector<Extent> more_;
  Alias allowed_[4];
};

inline double bytes_of(const View& view) {
  return view ? static_cast<double>(view.elements() * dtype_size(view.dtype)) : 0;
}

// What the gradient destination of bit i reads, too, when it accumulates.
inline double accumulated(uint32_t accumulate, int i, const View& view) {
  return adds(accumulate, i) ? bytes_of(view) : 0;
}

inline double elements_of(const View& view) {
  return view ? static_cast<double>(view.elements()) : 0;
}

// Whether two tensors that lie in one range of memory share a byte. Exact where both repeat with
// one period (views of one packed tensor); otherwise it says yes.
bool share_memory(const View& a, const View& b);

}  // namespace gatun
