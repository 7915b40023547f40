#include "ops/check.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace gatun {

namespace {

constexpr const char* kDtypeNames[] = {"f32", "f16", "bf16", "u8", "i8", "i32", "i64"};
constexpr int64_t kDtypeSizes[] = {4, 2, 2, 1, 1, 4, 8};

// The elements of an empty tensor are none, but its other dimensions are still loop bounds.
constexpr int64_t kLargestEmpty = int64_t{1} << 31;

}  // namespace

const char* dtype_name(int32_t dtype) {
  return dtype >= 0 && dtype <= GATUN_I64 ? kDtypeNames[dtype] : nullptr;
}

int64_t dtype_size(int32_t dtype) {
  return dtype >= 0 && dtype <= GATUN_I64 ? kDtypeSizes[dtype] : 0;
}

ShapeText::ShapeText(const int64_t* shape, int rank) {
  int at = std::snprintf(text, sizeof text, "[");
  for (int i = 0; i < rank && at < static_cast<int>(sizeof text); ++i)
    at += std::snprintf(text + at, sizeof text - static_cast<size_t>(at),
                        i == 0 ? "%lld" : ", %lld", static_cast<long long>(shape[i]));
  if (at < static_cast<int>(sizeof text))
    std::snprintf(text + at, sizeof text - static_cast<size_t>(at), "]");
}

NameText::NameText(const Operand& operand) {
  if (operand.index >= 0)
    std::snprintf(text, sizeof text, "%s[%d]", operand.name, operand.index);
  else
    std::snprintf(text, sizeof text, "%s", operand.name);
}

Call::Call(Op op, gatun_stream stream) : op_(op), pin_(streams(), stream) {
  if (!pin_) streams().explain(stream, type_of(op).name, "stream");
  stream_ = pin_.object<Stream>();
}

void Call::error(const char* format, ...) {
  char sentence[kMaxMessage];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(sentence, sizeof sentence, format, arguments);
  va_end(arguments);
  fail(GATUN_INVALID_ARGUMENT, "%s: %.*s", op(), static_cast<int>(kMaxMessage) - 64, sentence);
}

void Call::check_pointer(const char* name, const void* pointer, size_t alignment) {
  if (pointer == nullptr) error("%s is null", name);
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0)
    error("%s %p is not aligned to %zu bytes", name, pointer, alignment);
}

void Call::add(const Extent& extent) {
  if (operands_ < kInline)
    inline_[operands_] = extent;
  else
    more_.push_back(extent);
  ++operands_;
}

Operand Call::resolve(const char* base_name, const gatun_tensor* tensor, View& view, int index,
                      bool written, bool repeats) {
  const Operand operand{&view, base_name, index};
  const auto name = [&] { return NameText(operand); };
  if (tensor == nullptr) error("%s is null", name().text);
  if (reinterpret_cast<uintptr_t>(tensor) % alignof(gatun_tensor) != 0)
    error("%s %p is not aligned to %zu bytes", name().text, static_cast<const void*>(tensor),
          alignof(gatun_tensor));
  if (tensor->struct_size != sizeof(gatun_tensor))
    error(
        "%s->struct_size is %u, this library's is %zu: caller and library were built with "
        "different gatun.h",
        name().text, tensor->struct_size, sizeof(gatun_tensor));
  // One copy: the caller's struct may be changed by another thread meanwhile.
  const int32_t dtype = tensor->dtype, rank = tensor->rank;
  const int64_t size = dtype_size(dtype);
  if (size == 0) error("%s has dtype %d, the dtypes are 0 to %d", name().text, dtype, GATUN_I64);
  if (rank < 0 || rank > GATUN_MAX_RANK)
    error("%s has rank %d, ranks are 0 to %d", name().text, rank, GATUN_MAX_RANK);
  if (tensor->reserved != 0)
    error("%s->reserved is %d, it must be 0", name().text, tensor->reserved);

  view.dtype = dtype;
  view.rank = rank;
  int64_t elements = 1, last = 0;  // `last`: distance of the last element from the first
  bool empty = false, too_large = false;
  for (int i = 0; i < rank; ++i) {
    const int64_t n = tensor->shape[i], stride = tensor->stride[i];
    view.shape[i] = n;
    view.stride[i] = stride;
    if (n < 0)
      error("%s has shape %s: a dimension is below 0", name().text,
            ShapeText(tensor->shape, rank).text);
    if (n == 0) {
      empty = true;
      continue;
    }
    too_large |= __builtin_mul_overflow(elements, n, &elements);
    if (n == 1) continue;
    if (i == rank - 1 && stride != 1)
      error("%s has stride %lld in its last dimension, 1 is wanted", name().text,
            static_cast<long long>(stride));
    if (stride < 0)
      error("%s has stride %lld in dimension %d, below 0", name().text,
            static_cast<long long>(stride), i);
    if (stride == 0 && !repeats)
      error("%s has stride 0 in dimension %d: repeated elements are not allowed here", name().text,
            i);
    int64_t reach;
    too_large |= __builtin_mul_overflow(n - 1, stride, &reach);
    too_large |= __builtin_add_overflow(last, reach, &last);
  }
  int64_t needed = 0;
  if (!too_large && !empty)
    too_large = __builtin_add_overflow(last, int64_t{1}, &needed) ||
                __builtin_mul_overflow(needed, size, &needed);
  if (too_large || (empty && elements > kLargestEmpty))
    error("%s has shape %s and strides %s: too large to address", name().text,
          ShapeText(tensor->shape, rank).text, ShapeText(tensor->stride, rank).text);

  HandleTable::Words words;
  const gatun_buffer handle = tensor->buffer;
  if (!buffers().read(handle, &words)) buffers().explain(handle, op(), name().text);
  const Buffer buffer = Buffer::unpack(words);
  if (buffer.device != stream_->device)
    fail(GATUN_INVALID_HANDLE, "%s: %s lies in a buffer of another device than the stream's, %s",
         op(), name().text, stream_->device->name);
  if (Capture* capture = stream_->capture.load(std::memory_order_relaxed);
      capture != nullptr && buffer.capture != capture)
    capture->use(handle);
  const int64_t offset = tensor->offset_bytes;
  if (offset < 0 || offset % size != 0)
    error("%s has offset_bytes %lld, a multiple of %lld (%s) from 0 up is wanted", name().text,
          static_cast<long long>(offset), static_cast<long long>(size), dtype_name(dtype));
  if (needed > buffer.bytes || offset > buffer.bytes - needed)
    error(
        "%s has shape %s and strides %s of %s at byte %lld and reaches %lld bytes further, its "
        "buffer has %lld bytes",
        name().text, ShapeText(view).text, ShapeText(view.stride, rank).text, dtype_name(dtype),
        static_cast<long long>(offset), static_cast<long long>(needed),
        static_cast<long long>(buffer.bytes));
  const auto address = reinterpret_cast<uintptr_t>(buffer.address) + static_cast<uintptr_t>(offset);
  if (needed > 0 && address % static_cast<uintptr_t>(size) != 0)
    error("%s lies at address %p, which is not a multiple of %lld (%s)", name().text,
          reinterpret_cast<void*>(address), static_cast<long long>(size), dtype_name(dtype));
  view.data = reinterpret_cast<void*>(address);

  if (written && !empty) {
    ++written_elements_;
    // Nested strides: each covers all that the smaller ones reach, so no element is named twice.
    int order[GATUN_MAX_RANK], used = 0;
    for (int i = 0; i < rank; ++i) {
      if (view.shape[i] <= 1) continue;
      int at = used++;
      for (; at > 0 && view.stride[order[at - 1]] > view.stride[i]; --at) order[at] = order[at - 1];
      order[at] = i;
    }
    int64_t reach = 0;
    for (int i = 0; i < used; ++i) {
      if (view.stride[order[i]] <= reach)
        error("%s has shape %s and strides %s: its elements overlap, and it is written",
              name().text, ShapeText(view).text, ShapeText(view.stride, rank).text);
      reach += (view.shape[order[i]] - 1) * view.stride[order[i]];
    }
  }
  add({&view, base_name, index, written, address, address + static_cast<uintptr_t>(needed)});
  return operand;
}

Operand Call::destination(const char* name, const gatun_tensor* tensor, View& view, int index) {
  return resolve(name, tensor, view, index, true, false);
}
Operand Call::source(const char* name, const gatun_tensor* tensor, View& view, int index) {
  return resolve(name, tensor, view, index, false, false);
}
Operand Call::repeating_source(const char* name, const gatun_tensor* tensor, View& view) {
  return resolve(name, tensor, view, -1, false, true);
}
Operand Call::optional_destination(const char* name, const gatun_tensor* tensor, View& view,
                                   int index) {
  if (tensor == nullptr) return {&view, name, index};
  return destination(name, tensor, view, index);
}
Operand Call::optional_source(const char* name, const gatun_tensor* tensor, View& view, int index) {
  if (tensor == nullptr) return {&view, name, index};
  return source(name, tensor, view, index);
}

void Call::philox(const gatun_philox* philox, Philox& into) {
  check_pointer("philox", philox, alignof(gatun_philox));
  if (philox->site >= 65536) error("philox->site is %u, sites are below 65536", philox->site);
  into.seed = philox->seed;
  into.site = philox->site;
  into.micro_batch = philox->micro_batch;
  scalar(optional_source("philox->step", philox->step, into.step), GATUN_I64);
}

void Call::floating(std::initializer_list<Operand> operands) {
  for (const Operand& operand : operands)
    if (operand && operand->dtype > GATUN_BF16)
      error("%s is %s, a float dtype (f32, f16, bf16) is wanted", NameText(operand).text,
            dtype_name(operand->dtype));
}

void Call::dtype(const Operand& operand, int32_t wanted) {
  if (operand && operand->dtype != wanted)
    error("%s is %s, %s is wanted", NameText(operand).text, dtype_name(operand->dtype),
          dtype_name(wanted));
}

void Call::dtype_or_f32(const Operand& operand, const Operand& like) {
  if (operand && like && operand->dtype != like->dtype && operand->dtype != GATUN_F32)
    error("%s is %s, %s is %s: the same or f32 is wanted", NameText(operand).text,
          dtype_name(operand->dtype), NameText(like).text, dtype_name(like->dtype));
}

void Call::same_dtype(const Operand& operand, const Operand& like) {
  if (operand && like && operand->dtype != like->dtype)
    error("%s is %s, %s is %s: they must be the same", NameText(operand).text,
          dtype_name(operand->dtype), NameText(like).text, dtype_name(like->dtype));
}

void Call::same_shape(const Operand& operand, const Operand& like) {
  if (operand && like &&
      (operand->rank != like->rank ||
       !std::equal(operand->shape, operand->shape + operand->rank, like->shape)))
    error("%s is %s, %s is %s: they must be the same", NameText(operand).text,
          ShapeText(*operand.view).text, NameText(like).text, ShapeText(*like.view).text);
}

void Call::rank(const Operand& operand, int lowest, int highest) {
  if (!operand || (operand->rank >= lowest && operand->rank <= highest)) return;
  if (lowest == highest)
    error("%s is %s, of rank %d: rank %d is wanted", NameText(operand).text,
          ShapeText(*operand.view).text, operand->rank, lowest);
  error("%s is %s, of rank %d: a rank from %d to %d is wanted", NameText(operand).text,
        ShapeText(*operand.view).text, operand->rank, lowest, highest);
}

void Call::shape(const Operand& operand, const int64_t* wanted, int rank, const char* why) {
  if (operand && (operand->rank != rank || !std::equal(wanted, wanted + rank, operand->shape)))
    error("%s is %s, %s is wanted %s", NameText(operand).text, ShapeText(*operand.view).text,
          ShapeText(wanted, rank).text, why);
}

void Call::shape(const Operand& operand, std::initializer_list<int64_t> wanted, const char* why) {
  shape(operand, wanted.begin(), static_cast<int>(wanted.size()), why);
}

void Call::columns(const Operand& operand, const Operand& like) {
  if (!operand) return;
  rank(operand, 1, 1);
  if (operand->size(0) != like->size(0))
    error("%s has %lld elements, %s has %lld columns", NameText(operand).text,
          static_cast<long long>(operand->size(0)), NameText(like).text,
          static_cast<long long>(like->size(0)));
}

void Call::scalar(const Operand& operand, int32_t wanted_dtype) {
  if (!operand) return;
  dtype(operand, wanted_dtype);
  if (operand->rank > 1 || operand->elements() != 1)
    error("%s is %s, a scalar ([] or [1]) is wanted", NameText(operand).text,
          ShapeText(*operand.view).text);
}

void Call::rows(const Operand& operand, const Operand& like) {
  if (!operand) return;
  char why[80];
  std::snprintf(why, sizeof why, "(%s without its last dimension)", NameText(like).text);
  shape(operand, like->shape, std::max(like->rank - 1, 0), why);
}

void Call::finite(const char* name, double value) {
  if (!std::isfinite(value)) error("%s is %g, a finite number is wanted", name, value);
}

void Call::probability(double p) {
  if (!(p >= 0 && p < 1)) error("p is %g, a probability in [0, 1) is wanted", p);
}

void Call::mask(uint32_t accumulate, int count) {
  if (accumulate >> count != 0)
    error("accumulate is 0x%x, only the lowest %d bit%s have a meaning here", accumulate, count,
          count == 1 ? "" : "s");
}

void Call::contiguous(const Operand& operand) {
  if (operand && !operand->contiguous())
    error("%s has shape %s and strides %s: contiguous elements are wanted", NameText(operand).text,
          ShapeText(*operand.view).text, ShapeText(operand->stride, operand->rank).text);
}

void Call::flag(const char* name, int32_t value) {
  if (value != 0 && value != 1) error("%s is %d, 0 or 1 is wanted", name, value);
}

void Call::reserved(const char* name, int32_t value) {
  if (value != 0) error("%s is %d, it must be 0", name, value);
}

void Call::may_be(const Operand& destination, const Operand& other) {
  if (destination && other) allowed_[aliases_++] = {destination.view, other.view};
}

// ---- overlaps ----

bool share_memory(const View& a, const View& b) {
  struct Form {
    int64_t stride[GATUN_MAX_RANK], count[GATUN_MAX_RANK];  // bytes, dimensions with more than 1
    int dims = 0;
    int64_t size;
    uintptr_t begin, end;
    explicit Form(const View& v) : size(dtype_size(v.dtype)) {
      begin = reinterpret_cast<uintptr_t>(v.data);
      int64_t last = 0;
      for (int i = 0; i < v.rank; ++i) {
        if (v.shape[i] <= 1) continue;
        stride[dims] = v.stride[i] * size;
        count[dims] = v.shape[i];
        last += (v.shape[i] - 1) * stride[dims++];
      }
      end = begin + static_cast<uintptr_t>(last + size);
    }
    // Bytes from the start of a period to the end of what lies in it; 0 if it does not repeat with
    // this period.
    int64_t arc(int64_t period) const {
      int64_t reach = size;
      for (int i = 0; i < dims; ++i) {
        if (stride[i] >= period) {
          if (stride[i] % period != 0) return 0;
        } else {
          reach += (count[i] - 1) * stride[i];
        }
      }
      return reach <= period ? reach : 0;
    }
  };
  if (a.elements() == 0 || b.elements() == 0) return false;
  const Form x(a), y(b);
  if (x.end <= y.begin || y.end <= x.begin) return false;
  // Wrapped around a period, each view is an arc; if the arcs are apart, so are the views.
  const auto apart = [&](int64_t period) {
    const int64_t in_x = x.arc(period), in_y = y.arc(period);
    if (in_x == 0 || in_y == 0) return false;
    const auto shift = static_cast<int64_t>(y.begin - x.begin) % period;
    const int64_t distance = shift < 0 ? shift + period : shift;
    return distance >= in_x && period - distance >= in_y;
  };
  for (const Form* form : {&x, &y})
    for (int i = 0; i < form->dims; ++i)
      if (form->stride[i] > 0 && apart(form->stride[i])) return false;
  return true;
}

void Call::check_pair(const Extent& a, const Extent& b) {
  if (!a.written && !b.written) return;
  if (a.begin >= b.end || b.begin >= a.end) return;
  const Extent& destination = a.written ? a : b;
  const Extent& other = a.written ? b : a;
  bool allowed = false;
  for (int i = 0; i < aliases_; ++i)
    allowed |= (allowed_[i].a == a.view && allowed_[i].b == b.view) ||
               (allowed_[i].a == b.view && allowed_[i].b == a.view);
  const NameText to(Operand{destination.view, destination.name, destination.index});
  const NameText from(Operand{other.view, other.name, other.index});
  if (allowed) {
    const View& v = *a.view;
    const View& w = *b.view;
    bool same = v.data == w.data && v.dtype == w.dtype && v.rank == w.rank;
    for (int i = 0; same && i < v.rank; ++i)
      same = v.shape[i] == w.shape[i] && (v.shape[i] == 1 || v.stride[i] == w.stride[i]);
    if (same || !share_memory(v, w)) return;
    error("%s overlaps %s; it may be the same tensor, or apart from it", to.text, from.text);
  }
  if (share_memory(*a.view, *b.view)) error("%s overlaps %s", to.text, from.text);
}

void Call::check_overlaps() {
  if (operands_ <= kInline) {
    for (int i = 0; i < operands_; ++i)
      for (int j = i + 1; j < operands_; ++j) check_pair(inline_[i], inline_[j]);
    return;
  }
  std::vector<const Extent*> sorted(static_cast<size_t>(operands_));
  for (int i = 0; i < operands_; ++i) sorted[static_cast<size_t>(i)] = &extent(i);
  std::sort(sorted.begin(), sorted.end(),
            [](const Extent* a, const Extent* b) { return a->begin < b->begin; });
  for (size_t i = 0; i < sorted.size(); ++i)
    for (size_t j = i + 1; j < sorted.size() && sorted[j]->begin < sorted[i]->end; ++j)
      check_pair(*sorted[i], *sorted[j]);
}

// ---- running ----

void Call::submit_erased(void* args, double flops, double extra_bytes) {
  check_overlaps();
  const OpType& type = type_of(op_);
  Device& device = *stream_->device;
  if (!type.offered(*device.backend))
    fail(GATUN_UNSUPPORTED, "%s: not on device %s yet; run it on cpu", type.name, device.name);
  if (written_elements_ == 0) return;
  if (injected(Injection::kLaunch))
    fail(GATUN_DEVICE_FAULT, "%s: a failure asked for by GATUN_FAULT", type.name);
  if (device.profiling.load(std::memory_order_relaxed) &&
      stream_->capture.load(std::memory_order_relaxed) == nullptr) {
    double bytes = extra_bytes;
    for (int i = 0; i < operands_; ++i) {
      const View& view = *extent(i).view;
      int64_t elements = 1;  // a repeated element is read once
      for (int k = 0; k < view.rank; ++k)
        if (view.shape[k] == 0 || view.stride[k] != 0 || k == view.rank - 1)
          elements *= view.shape[k];
      bytes += static_cast<double>(elements * dtype_size(view.dtype));
    }
    Device::Profile& profile = device.profile[static_cast<int>(op_)];
    profile.calls.fetch_add(1, std::memory_order_relaxed);
    profile.bytes.fetch_add(bytes, std::memory_order_relaxed);
    profile.flops.fetch_add(flops, std::memory_order_relaxed);
  }
  Failure failure;
  std::unique_lock<std::mutex> lock;
  if (Capture* capture = stream_->capture.load(std::memory_order_relaxed))
    lock = std::unique_lock(capture->submission);
  check(device.driver->submit(stream_->native, op_, args, failure), failure);
}

}  // namespace gatun
