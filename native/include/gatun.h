/*
 * gatun.h: the C ABI of Gatun, a kernel library for transformers.
 *
 * Read it top to bottom: version, status, dtypes, device, stream and event, buffer, graph,
 * tensor, profile, then the ops. Five rules hold everywhere:
 *
 *  1. Every function returns a gatun_status; GATUN_OK is 0. Any other value leaves a sentence in
 *     gatun_last_error() of the calling thread. No call aborts, throws or raises a signal,
 *     whatever its arguments; only a host pointer to memory that is not mapped is beyond help.
 *  2. Devices, streams, events, graphs and buffers are generation-tagged 64-bit handles. One that
 *     was closed, made up, or belongs to another device is an error, never a crash. 0 is none.
 *  3. Ops are stream-ordered: a call checks its arguments, enqueues and returns. Host copies and
 *     waits see all that was enqueued before. A fault that shows only during execution (an id
 *     beyond the vocabulary, a CUDA fault) is reported once, by the next call that waits.
 *  4. Argument order: stream, destinations, sources, options. A destination overlaps no source and
 *     no other destination unless its entry says so; this is checked.
 *  5. Gradient destinations may be null (frozen). Bit i of `accumulate` belongs to the i-th
 *     gradient destination of the call: 0 overwrites, 1 adds.
 *
 * 16-bit floats are storage: every device computes in f32 (sums of a reduction in f32 or wider) and
 * rounds to nearest even on store. There is no type promotion: mixed dtypes only where listed.
 */
#ifndef GATUN_H
#define GATUN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define GATUN_API
#else
#define GATUN_API __attribute__((visibility("default")))
#endif

/* ---- Version ------------------------------------------------------------------------------- */

#define GATUN_ABI_VERSION 1

/* The GATUN_ABI_VERSION that the library was built with; compare it after loading. */
GATUN_API int32_t gatun_abi_version(void);

/* Library version and build ("0.1.0 linux-x86_64 oneDNN 3.13"); static storage. */
GATUN_API const char* gatun_version(void);

/* Does nothing: the cost of the call itself. */
GATUN_API void gatun_nop(void);

/* ---- Status -------------------------------------------------------------------------------- */

typedef enum gatun_status {
  GATUN_OK = 0,
  GATUN_INVALID_ARGUMENT = 1,  /* null, wrong shape, dtype, stride, size, alias, option */
  GATUN_INVALID_HANDLE = 2,    /* closed, made up, of another kind or of another device */
  GATUN_OUT_OF_MEMORY = 3,     /* the device's budget, or the machine */
  GATUN_UNSUPPORTED = 4,       /* this op, dtype or option is not on this device */
  GATUN_UNAVAILABLE = 5,       /* there is no such device here; the sentence says why */
  GATUN_OUT_OF_RANGE = 6,      /* a value on the device (an id) was beyond its limit */
  GATUN_DEVICE_FAULT = 7,      /* an asynchronous failure of earlier work */
  GATUN_INTERNAL = 8           /* a defect of the library; the sentence says where */
} gatun_status;

/* The last error sentence of the calling thread, "" if there was none. Valid until that thread's
 * next failing call. Never null. */
GATUN_API const char* gatun_last_error(void);

/* ---- Dtypes -------------------------------------------------------------------------------- */

typedef enum gatun_dtype {
  GATUN_F32 = 0,
  GATUN_F16 = 1,
  GATUN_BF16 = 2,
  GATUN_U8 = 3,
  GATUN_I8 = 4,
  GATUN_I32 = 5,
  GATUN_I64 = 6
} gatun_dtype;

/* ---- Device -------------------------------------------------------------------------------- */

typedef uint64_t gatun_device;
typedef uint64_t gatun_stream;
typedef uint64_t gatun_event;
typedef uint64_t gatun_graph;
typedef uint64_t gatun_buffer;

/* A field that is 0 takes its default. */
typedef struct gatun_device_options {
  uint32_t struct_size;         /* sizeof(gatun_device_options) */
  int32_t threads;              /* cpu: compute threads; default: the cores this process may use */
  int32_t simd;                 /* cpu: 1 plain, 2 avx2, 3 avx512; default: the best there is */
  int32_t reserved;             /* 0 */
  int64_t memory_budget_bytes;  /* cpu: default 80 % of what the machine or its cgroup has free */
} gatun_device_options;

typedef struct gatun_device_info {
  uint32_t struct_size;
  int32_t threads;
  int32_t simd;                   /* the level in use, as above; 0 where it has no meaning */
  int32_t sm_count;               /* cuda; else 0 */
  int64_t memory_budget_bytes;    /* what the allocator may take */
  int64_t memory_used_bytes;      /* live buffers and workspaces */
  int64_t memory_reserved_bytes;  /* used + cached by the allocator */
  int64_t memory_peak_bytes;      /* the largest memory_used_bytes so far */
  int64_t buffers;                /* live buffer handles of this device */
  int32_t ops;                    /* ops of this header that the device has */
  int32_t ops_missing;            /* ops that it answers with GATUN_UNSUPPORTED */
  char name[64];                  /* "cpu", "cuda:0" */
  char description[192];          /* "Intel Xeon, AVX-512, 2 threads, oneDNN 3.13" */
} gatun_device_info;

/* Opens "cpu", "cuda", "cuda:1" or "sim". options may be null. GATUN_UNAVAILABLE says why there is
 * no such device ("cuda: no GPU here (libcuda.so.1 not found)"). Each open is a device of its own
 * with its own memory budget. */
GATUN_API gatun_status gatun_device_open(const char* name, const gatun_device_options* options,
                                         gatun_device* device);

/* Waits for the device's work, then frees its streams, events, graphs and buffers and closes it. */
GATUN_API gatun_status gatun_device_close(gatun_device device);

/* Fills info; info->struct_size must be set. */
GATUN_API gatun_status gatun_device_get_info(gatun_device device, gatun_device_info* info);

/* Starts memory_peak_bytes anew at memory_used_bytes. */
GATUN_API gatun_status gatun_device_reset_peak(gatun_device device);

/* Waits for all work of the device and reports its first pending fault. */
GATUN_API gatun_status gatun_device_wait(gatun_device device);

/* Waits, then gives cached memory back to the system. */
GATUN_API gatun_status gatun_device_trim(gatun_device device);

/* ---- Stream and event ---------------------------------------------------------------------- */

GATUN_API gatun_status gatun_stream_create(gatun_device device, gatun_stream* stream);

/* Waits for the stream's work, then destroys it. */
GATUN_API gatun_status gatun_stream_destroy(gatun_stream stream);

/* Waits for the stream's work and reports the device's first pending fault. */
GATUN_API gatun_status gatun_stream_wait(gatun_stream stream);

GATUN_API gatun_status gatun_event_create(gatun_device device, gatun_event* event);
GATUN_API gatun_status gatun_event_destroy(gatun_event event);

/* Marks the point reached by the stream. Recording again moves the mark. */
GATUN_API gatun_status gatun_event_record(gatun_event event, gatun_stream stream);

/* Makes later work of the stream wait for the event (at once if it was never recorded). */
GATUN_API gatun_status gatun_stream_wait_event(gatun_stream stream, gatun_event event);

/* Waits on the host for the event. */
GATUN_API gatun_status gatun_event_wait(gatun_event event);

/* Milliseconds of device time between two recorded events; waits for both. */
GATUN_API gatun_status gatun_event_elapsed(gatun_event start, gatun_event end, double* millis);

/* ---- Buffer -------------------------------------------------------------------------------- */

/* What a buffer is for: named in "out of memory" sentences. */
typedef enum gatun_purpose {
  GATUN_OTHER = 0,
  GATUN_WEIGHTS = 1,
  GATUN_GRADIENTS = 2,
  GATUN_OPTIMIZER = 3,
  GATUN_ACTIVATIONS = 4,
  GATUN_KV_CACHE = 5,
  GATUN_WORKSPACE = 6
} gatun_purpose;

/* Allocates bytes >= 0, aligned to 64, contents undefined, usable by work enqueued on this stream
 * from now on. 0 bytes is a valid buffer without memory. */
GATUN_API gatun_status gatun_buffer_alloc(gatun_stream stream, int64_t bytes, int32_t purpose,
                                          gatun_buffer* buffer);

/* Names foreign memory that the device can reach (host memory on cpu), aligned to 4 bytes at
 * least. The memory stays the caller's and must outlive the buffer. */
GATUN_API gatun_status gatun_buffer_wrap(gatun_device device, void* address, int64_t bytes,
                                         gatun_buffer* buffer);

/* The handle is dead at once; the memory is reused after the work enqueued on its stream before.
 * For a wrapped buffer the call waits, so that the caller may unmap the memory. */
GATUN_API gatun_status gatun_buffer_free(gatun_buffer buffer);

/* The device address and the size. On cpu the address may be read and written by the host after a
 * wait. Either destination may be null. */
GATUN_API gatun_status gatun_buffer_get(gatun_buffer buffer, void** address, int64_t* bytes);

/* Copies host memory into the buffer, stream-ordered; source may be reused when this returns. */
GATUN_API gatun_status gatun_buffer_write(gatun_stream stream, gatun_buffer buffer,
                                          int64_t offset_bytes, const void* source, int64_t bytes);

/* Copies from the buffer to host memory; waits, and reports a pending fault. */
GATUN_API gatun_status gatun_buffer_read(gatun_stream stream, void* destination,
                                         gatun_buffer buffer, int64_t offset_bytes, int64_t bytes);

/* ---- Graph --------------------------------------------------------------------------------- */

/* From here to gatun_graph_end the ops of this stream are remembered, not run; a step that does not
 * change, launched as one graph, costs the host one call. What changes from launch to launch
 * (positions, ids, learning rates, steps of random numbers) is the value of a device tensor.
 * Buffers that are allocated on the stream meanwhile lie in the graph's own memory, which stays
 * theirs until both the graph and they are gone: each launch writes them anew. Waits, events and
 * copies to or from the host are refused. The profile leaves out what a graph runs. */
GATUN_API gatun_status gatun_graph_begin(gatun_stream stream);

/* Ends the capture; the stream runs again what it is given. Also where it fails. */
GATUN_API gatun_status gatun_graph_end(gatun_stream stream, gatun_graph* graph);

/* Enqueues all ops of the graph on a stream, in their order. GATUN_INVALID_HANDLE if a buffer that
 * they use, and that was not allocated during the capture, was freed. */
GATUN_API gatun_status gatun_graph_launch(gatun_stream stream, gatun_graph graph);

/* Waits for the device's work, then frees the graph. */
GATUN_API gatun_status gatun_graph_destroy(gatun_graph graph);

/* ---- Tensor -------------------------------------------------------------------------------- */

#define GATUN_MAX_RANK 6

/* A view of a buffer: nothing is owned. Strides are in elements; the last dimension's is 1 (any
 * value where that dimension has fewer than 2 elements), the others are >= 0; 0 repeats a row (bias
 * and mask broadcasts, where an entry allows it). A scalar has rank 0 or shape [1]. */
typedef struct gatun_tensor {
  uint32_t struct_size; /* sizeof(gatun_tensor) */
  int32_t dtype;
  int32_t rank; /* 0 .. GATUN_MAX_RANK */
  int32_t reserved;
  gatun_buffer buffer;
  int64_t offset_bytes; /* a multiple of the element size */
  int64_t shape[GATUN_MAX_RANK];
  int64_t stride[GATUN_MAX_RANK];
} gatun_tensor;

/* ---- Profile ------------------------------------------------------------------------------- */

typedef struct gatun_profile_entry {
  char op[40];
  int64_t calls;
  int64_t nanos; /* device time */
  double bytes;  /* ideal traffic: every operand once */
  double flops;
} gatun_profile_entry;

/* Starts (on != 0) from zero, or stops, recording of the device's ops. */
GATUN_API gatun_status gatun_profile_enable(gatun_device device, int32_t on);

/* Waits, then writes up to capacity entries, longest time first; *count is how many there are. */
GATUN_API gatun_status gatun_profile_read(gatun_device device, gatun_profile_entry* entries,
                                          int32_t capacity, int32_t* count);

/* ---- Ops: moving and making values --------------------------------------------------------- */

/* Random numbers are Philox4x32-10 (Salmon et al., SC11): key = seed; counter words =
 * (element index / 4 low, element index / 4 high 16 bits | site << 16, step, micro_batch); element
 * i takes word i % 4. Hence the same values on every device and in any order of execution. `step`
 * is the value of a device scalar, so that a captured graph may be replayed. */
typedef struct gatun_philox {
  uint64_t seed;
  uint32_t site;        /* which random op of the step this is, in forward order; < 65536 */
  uint32_t micro_batch; /* which part of the accumulation window */
  const gatun_tensor* step; /* i64 scalar on the device; null means 0 */
} gatun_philox;

/* out[...] = value, rounded to out's dtype (truncated for integers). Any dtype. */
GATUN_API gatun_status gatun_fill(gatun_stream stream, const gatun_tensor* out, double value);

/* out = src, same shape; casts between any two of f32, f16, bf16 and between i32 and i64; other
 * pairs must be equal. NaN stays NaN, f16 overflow becomes infinity. src may have stride 0. */
GATUN_API gatun_status gatun_copy(gatun_stream stream, const gatun_tensor* out,
                                  const gatun_tensor* src);

/* out uniform in [low, high), float dtypes. */
GATUN_API gatun_status gatun_random_uniform(gatun_stream stream, const gatun_tensor* out,
                                            double low, double high, const gatun_philox* philox);

/* out ~ N(mean, std^2) by Box-Muller on Philox pairs, float dtypes. */
GATUN_API gatun_status gatun_random_normal(gatun_stream stream, const gatun_tensor* out,
                                           double mean, double std, const gatun_philox* philox);

/* out = a + b, same shape and dtype. out may be a or b themselves. */
GATUN_API gatun_status gatun_add(gatun_stream stream, const gatun_tensor* out,
                                 const gatun_tensor* a, const gatun_tensor* b);

/* out += by on an i32 or i64 tensor: what counts tokens and steps on the device. */
GATUN_API gatun_status gatun_increment(gatun_stream stream, const gatun_tensor* out, int64_t by);

/* ---- Ops: matrix products ------------------------------------------------------------------ */

typedef enum gatun_epilogue {
  GATUN_EPILOGUE_NONE = 0,
  GATUN_EPILOGUE_BIAS = 1,      /* + bias[N] */
  GATUN_EPILOGUE_BIAS_GELU = 2, /* gelu(. + bias[N]); tanh or erf as `gelu_erf` says */
  GATUN_EPILOGUE_GELU_GRADIENT = 3, /* . * gelu'(preactivation): the backward pass of a GELU */
} gatun_epilogue;

/* What may be left out of a product of f32 operands. It permits, and obliges no device: products of
 * 16-bit operands are exact in any case, and the cpu device always multiplies f32 in full. */
typedef enum gatun_matmul_precision {
  GATUN_MATMUL_F32 = 0,    /* nothing: as accurate as multiplication in f32 */
  GATUN_MATMUL_BF16X3 = 1, /* all but three products of bf16, x = hi + lo, hi hi + hi lo + lo hi:
                              what is left out of a term is below 2^-15 of it; half the work of F32
                              where tensor cores multiply */
} gatun_matmul_precision;

typedef struct gatun_matmul_args {
  uint32_t struct_size;
  int32_t transpose_a; /* a is [.., K, M] instead of [.., M, K] */
  int32_t transpose_b; /* b is [.., N, K] instead of [.., K, N] */
  int32_t accumulate;  /* 0: out = ., 1: out += . (epilogue NONE only) */
  int32_t epilogue;    /* gatun_epilogue */
  int32_t gelu_erf;    /* 0: the tanh form, 1: the exact erf form */
  float alpha;         /* factor on the product; 0 means 1 */
  int32_t precision;   /* gatun_matmul_precision */
  const gatun_tensor* bias;           /* [N], dtype of out or f32; null without a bias epilogue */
  const gatun_tensor* preactivation;  /* like out. BIAS_GELU: receives . + bias; may be null.
                                         GELU_GRADIENT: what gelu was taken of; is read */
  const gatun_tensor* residual;       /* like out: added after the epilogue; may be out itself, or
                                         null; not with accumulate */
} gatun_matmul_args;

/* out[.., M, N] = epilogue(alpha * a . b) + residual. Rank 2 to 6. Leading (batch) dimensions of a and out agree; b has
 * the same or is rank 2 (one matrix for all). Dtypes: a and b equal (f32, f16, bf16), out equal to
 * them or f32. Any strides whose last dimension is 1. args may be null. */
GATUN_API gatun_status gatun_matmul(gatun_stream stream, const gatun_tensor* out,
                                    const gatun_tensor* a, const gatun_tensor* b,
                                    const gatun_matmul_args* args);

/* dbias[N] (+)= sum over rows of dy[.., N]; dbias f32 or dy's dtype. accumulate bit 0: dbias. */
GATUN_API gatun_status gatun_bias_backward(gatun_stream stream, const gatun_tensor* dbias,
                                           const gatun_tensor* dy, uint32_t accumulate);

/* ---- Ops: normalisation -------------------------------------------------------------------- */

/* Layer normalisation (Ba et al. 2016, arXiv:1607.06450) with a fused residual and dropout:
 *   sum = dropout(x) + residual (x itself without one);  y = (sum - mean) * rstd * weight + bias
 * over the last dimension D, variance biased, rstd = 1 / sqrt(var + eps), eps >= 0.
 * y, sum, x, residual: [.., D] of one dtype; weight, bias: [D] of that dtype or f32; bias may be
 * null. mean, rstd: f32 [..] for the backward pass, null in inference. sum is null exactly when
 * residual is. sum may be x or residual. p > 0 drops elements of x as gatun_dropout with this
 * philox would, to the bit; it wants a residual. philox may be null for p = 0. */
GATUN_API gatun_status gatun_layer_norm_forward(gatun_stream stream, const gatun_tensor* y,
                                                const gatun_tensor* sum, const gatun_tensor* mean,
                                                const gatun_tensor* rstd, const gatun_tensor* x,
                                                const gatun_tensor* residual,
                                                const gatun_tensor* weight,
                                                const gatun_tensor* bias, double eps, double p,
                                                const gatun_philox* philox);

/* Gradients with x = the forward's normalised input (its `sum` when there was a residual; the
 * residual's gradient equals dx). Gradient destinations, in accumulate order: dx [.., D],
 * dweight [D], dbias [D], ddropped [.., D]; dweight and dbias f32 or the dtype of weight. ddropped
 * is the gradient of an x that the forward pass dropped: dx, after any accumulation, dropped with
 * the same p and philox. It wants dx, and is null where p = 0. dx may be dy. */
GATUN_API gatun_status gatun_layer_norm_backward(gatun_stream stream, const gatun_tensor* dx,
                                                 const gatun_tensor* dweight,
                                                 const gatun_tensor* dbias,
                                                 const gatun_tensor* ddropped,
                                                 const gatun_tensor* dy, const gatun_tensor* x,
                                                 const gatun_tensor* mean,
                                                 const gatun_tensor* rstd,
                                                 const gatun_tensor* weight, double p,
                                                 const gatun_philox* philox, uint32_t accumulate);

/* ---- Ops: embedding ------------------------------------------------------------------------ */

/* out[b, t, :] = table[ids[b, t], :] + positions[start[b] + t, :]. ids i32 [B, T] (or [T]: B = 1);
 * out [B, T, D] ([T, D]); table [V, D]; positions [P, D] or null; start i32 [B] or null (0).
 * Float dtypes equal. An id or position out of range is clamped and reported by the next wait. */
GATUN_API gatun_status gatun_embedding_forward(gatun_stream stream, const gatun_tensor* out,
                                               const gatun_tensor* ids, const gatun_tensor* table,
                                               const gatun_tensor* positions,
                                               const gatun_tensor* start);

/* Gradient destinations in accumulate order: dtable [V, D], dpositions [P, D] (f32 or dout's
 * dtype). Rows that no id names are zeroed by OVERWRITE. Deterministic. */
GATUN_API gatun_status gatun_embedding_backward(gatun_stream stream, const gatun_tensor* dtable,
                                                const gatun_tensor* dpositions,
                                                const gatun_tensor* dout, const gatun_tensor* ids,
                                                const gatun_tensor* start, uint32_t accumulate);

/* ---- Ops: activation and dropout ----------------------------------------------------------- */

/* y = x * Phi(x) (erf != 0), or the tanh form of Hendrycks & Gimpel 2016 (arXiv:1606.08415),
 * 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). y may be x. */
GATUN_API gatun_status gatun_gelu_forward(gatun_stream stream, const gatun_tensor* y,
                                          const gatun_tensor* x, int32_t erf);

/* dx (+)= dy * gelu'(x). accumulate bit 0: dx. dx may be dy or x. */
GATUN_API gatun_status gatun_gelu_backward(gatun_stream stream, const gatun_tensor* dx,
                                           const gatun_tensor* dy, const gatun_tensor* x,
                                           int32_t erf, uint32_t accumulate);

/* y = x / (1 - p) where Philox keeps the element (uniform >= p), else 0; 0 <= p < 1. The same call
 * with gradients for x and y is the backward pass: no mask is kept. accumulate bit 0: y. y may be
 * x. */
GATUN_API gatun_status gatun_dropout(gatun_stream stream, const gatun_tensor* y,
                                     const gatun_tensor* x, double p, const gatun_philox* philox,
                                     uint32_t accumulate);

/* ---- Ops: attention ------------------------------------------------------------------------ */

typedef struct gatun_attention_args {
  uint32_t struct_size;
  int32_t causal;    /* the last query sees the last key: query i sees keys j <= i + Tk - Tq */
  float scale;       /* 0 means 1 / sqrt(head size) */
  int32_t dq_atomic; /* backward: 0: the same bits every time; 1: dq by f32 atomic additions in any
                        order, 5 products instead of 7. cpu, f32 and D > 128 take 1 for 0. */
  const gatun_tensor* lengths;  /* i32 [B]: keys j < lengths[b] are visible; null: all Tk */
  const gatun_tensor* q_starts; /* i32 [S + 1]: packed sequences, below; null: there are none */
  const gatun_tensor* k_starts; /* i32 [S + 1] */
} gatun_attention_args;

/* Scaled dot-product attention (Vaswani et al. 2017; online softmax of Milakov & Gimelshein 2018,
 * tiled as FlashAttention, arXiv:2205.14135): out = softmax(scale q k^T + mask) v.
 * q, out [B, H, Tq, D]; k, v [B, Hkv, Tk, D], H a multiple of Hkv (grouped queries); one float
 * dtype; any strides with the last 1 (so views of a packed [B, T, 3, H, D] need no copy).
 * lse f32 [B, H, Tq]: log-sum-exp of the scaled scores, for the backward pass; may be null.
 * A row that sees no key gives 0 and lse -inf. D <= 512. With lengths the causal diagonal stays
 * at Tk - Tq. args may be null (not causal).
 * Packed: B = 1 and no lengths. Sequence s has the queries q_starts[s] .. q_starts[s + 1] - 1 and
 * the keys k_starts[s] .. k_starts[s + 1] - 1, either maybe none, and attends as if it were alone,
 * its causal diagonal at its own end. Starts ascend from 0 and end within Tq and Tk; one that does
 * not is moved to the nearest that does and reported by the next wait. Rows behind the last
 * sequence see nothing, and nobody sees them: out and gradients 0, lse -inf. */
GATUN_API gatun_status gatun_attention_forward(gatun_stream stream, const gatun_tensor* out,
                                               const gatun_tensor* lse, const gatun_tensor* q,
                                               const gatun_tensor* k, const gatun_tensor* v,
                                               const gatun_attention_args* args);

/* Gradient destinations in accumulate order: dq, dk, dv, shaped as q, k, v. Recomputes the scores
 * from lse; args as in the forward pass. Deterministic but for dq_atomic. */
GATUN_API gatun_status gatun_attention_backward(gatun_stream stream, const gatun_tensor* dq,
                                                const gatun_tensor* dk, const gatun_tensor* dv,
                                                const gatun_tensor* dout, const gatun_tensor* out,
                                                const gatun_tensor* lse, const gatun_tensor* q,
                                                const gatun_tensor* k, const gatun_tensor* v,
                                                const gatun_attention_args* args,
                                                uint32_t accumulate);

/* Appends k, v [B, Hkv, T, D] to a paged cache at slots lengths[b] .. lengths[b] + T - 1 of row b.
 * k_pages, v_pages [pages, Hkv, slots, D], slots 1 or more per page; page_table i32
 * [B, max_pages]: page of slot s of row b is page_table[b, s / slots]; null: row b owns page b
 * alone. lengths i32 [B] is read, not advanced (gatun_increment does that once all layers have
 * appended). A slot beyond the pages, or a page id out of range, is dropped and reported by the
 * next wait. Dtypes: k, v equal; pages equal to them or any float. */
GATUN_API gatun_status gatun_kv_append(gatun_stream stream, const gatun_tensor* k_pages,
                                       const gatun_tensor* v_pages, const gatun_tensor* k,
                                       const gatun_tensor* v, const gatun_tensor* page_table,
                                       const gatun_tensor* lengths);

/* Attention of the last Tq tokens of each row over its paged cache, which already holds them: query
 * i of row b sits at position lengths[b] + i and sees slots 0 .. lengths[b] + i (lengths as
 * before the append). q, out [B, H, Tq, D]; pages and table as above. scale 0 means
 * 1 / sqrt(D). */
GATUN_API gatun_status gatun_attention_decode(gatun_stream stream, const gatun_tensor* out,
                                              const gatun_tensor* q, const gatun_tensor* k_pages,
                                              const gatun_tensor* v_pages,
                                              const gatun_tensor* page_table,
                                              const gatun_tensor* lengths, double scale);

/* ---- Ops: loss ----------------------------------------------------------------------------- */

typedef struct gatun_cross_entropy_args {
  uint32_t struct_size;
  int32_t ignore_index;   /* targets of this value count nothing; usually -100 */
  float label_smoothing;  /* e: (1 - e) nll + e mean_V(-log p); 0 <= e < 1 */
  int32_t write_gradient; /* != 0: logits are overwritten with the gradient of loss */
  const gatun_tensor* factor; /* f32 scalar on the device, 1 / target count (times a loss scale);
                                 null means 1 */
  int32_t accumulate;     /* 0: loss = ., 1: loss += . */
  int32_t reserved;
} gatun_cross_entropy_args;

/* loss f32 scalar (+)= factor * sum of the row losses; row_losses f32 [R] unscaled (0 where
 * ignored), may be null. logits [.., V] with R rows, consumed if write_gradient; targets i32 [..]
 * (R of them). A target that is neither ignore_index nor in [0, V) is reported by the next wait. */
GATUN_API gatun_status gatun_cross_entropy(gatun_stream stream, const gatun_tensor* loss,
                                           const gatun_tensor* row_losses,
                                           const gatun_tensor* logits, const gatun_tensor* targets,
                                           const gatun_cross_entropy_args* args);

/* ---- Ops: optimizer ------------------------------------------------------------------------ */

/* norm f32 scalar = sqrt(sum of squares of all tensors); factor f32 scalar =
 * min(1, max_norm / (norm + 1e-6)), or 1 for max_norm <= 0. tensors: an array of `count` pointers,
 * float dtypes. norm NaN or infinite gives factor NaN, so that a broken step cannot pass
 * unnoticed. */
GATUN_API gatun_status gatun_global_norm(gatun_stream stream, const gatun_tensor* norm,
                                         const gatun_tensor* factor,
                                         const gatun_tensor* const* tensors, int32_t count,
                                         double max_norm);

/* Undoes a loss scale (torch.amp): every tensor *= inverse_scale, f32 scalar, rounded to its dtype;
 * found_inf f32 scalar = 1 if any element was infinite or NaN before, else 0. tensors: an array of
 * `count` pointers, float dtypes. Elements are multiplied whatever was found. */
GATUN_API gatun_status gatun_unscale(gatun_stream stream, const gatun_tensor* found_inf,
                                     const gatun_tensor* const* tensors, int32_t count,
                                     const gatun_tensor* inverse_scale);

/* AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), the order of torch.optim.AdamW:
 *   w -= lr * decay * w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
 *   w -= lr * (m / (1 - b1^step)) / (sqrt(v / (1 - b2^step)) + eps),  g = gradient * clip.
 * All arrays have `count` entries; entries of one index have one shape. */
typedef struct gatun_adamw_args {
  uint32_t struct_size;
  int32_t count;
  const gatun_tensor* const* weights;   /* f32: masters */
  const gatun_tensor* const* gradients; /* f32, f16, bf16 */
  const gatun_tensor* const* m;         /* f32 */
  const gatun_tensor* const* v;         /* f32 */
  const gatun_tensor* const* copies;    /* 16-bit copies of the weights, or null; entries too */
  const float* decay;                   /* weight decay of each */
  const gatun_tensor* learning_rate;    /* f32 scalar on the device */
  const gatun_tensor* step;             /* i64 scalar on the device, 1 for the first step */
  const gatun_tensor* clip;             /* f32 scalar on the device; null means 1 */
  double beta1;
  double beta2;
  double eps;
} gatun_adamw_args;

GATUN_API gatun_status gatun_adamw(gatun_stream stream, const gatun_adamw_args* args);

/* ---- Ops: choosing tokens ------------------------------------------------------------------ */

/* out i32 [R] = index of the largest of logits [R, V], the lowest on ties; NaN is never chosen
 * unless all are (then 0, reported by the next wait). */
GATUN_API gatun_status gatun_argmax(gatun_stream stream, const gatun_tensor* out,
                                    const gatun_tensor* logits);

typedef struct gatun_sample_args {
  uint32_t struct_size;
  float temperature; /* > 0 */
  int32_t top_k;     /* 0: off; ties with the k-th survive */
  float top_p;       /* in (0, 1]; 1: off; the token that crosses p is kept */
  float min_p;       /* in [0, 1); 0: off; of the largest probability */
  int32_t reserved;
} gatun_sample_args;

/* out i32 [R]: one draw per row of softmax(logits / temperature) after top-k, then top-p, then
 * min-p (features of the reference library, in its order). The draw of row r takes the uniform of
 * Philox element r; rows are independent of the batch around them only through r. logprobs f32 [R]
 * of the chosen token under the final distribution; may be null. */
GATUN_API gatun_status gatun_sample(gatun_stream stream, const gatun_tensor* out,
                                    const gatun_tensor* logprobs, const gatun_tensor* logits,
                                    const gatun_sample_args* args, const gatun_philox* philox);

#ifdef __cplusplus
}
#endif

#endif /* GATUN_H */
