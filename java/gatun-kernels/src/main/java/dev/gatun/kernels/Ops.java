package dev.gatun.kernels;

import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * A scope on the device's stream: ops enqueue there, and what they make dies with the scope, in
 * stream order. {@link #scope()} nests, so that a layer of a forward pass drops its intermediates
 * and {@link #keep}s its output; {@link #reset()} starts over, so that a decode loop opens nothing
 * per token.
 *
 * <p>Each method is one line into the class of the op, which holds its documentation, its backward
 * pass and its limits. An Ops belongs to one thread at a time; another one that uses it gets an
 * IllegalStateException.
 */
public sealed class Ops implements AutoCloseable permits Tape {
    final Stream stream;
    private final @Nullable Ops parent;
    private final @Nullable Tape tape;
    private final String label;
    private final List<Storage> owned = new ArrayList<>();
    private int children;
    private boolean closed;

    // of the root: random numbers and the number of the next random op
    private final Rng rng;
    private int site;

    Ops(Stream stream, Rng rng) {
        this.stream = stream;
        this.parent = null;
        this.rng = rng;
        this.tape = this instanceof Tape t ? t : null;
        this.label = (tape == null ? "ops " : "tape ") + stream.device.scopes.incrementAndGet();
        stream.device.leaks.made(this);
    }

    private Ops(Ops parent) {
        this.stream = parent.stream;
        this.parent = parent;
        this.rng = parent.rng;
        this.tape = parent.tape;
        this.label = "a scope of " + parent.root().label;
    }

    /** A tape within another Ops. */
    Ops(Ops parent, Rng rng) {
        this.stream = parent.stream;
        this.parent = parent;
        this.rng = rng;
        this.tape = (Tape) this;
        this.label = "a tape of " + parent.root().label;
    }

    public Device device() {
        return stream.device;
    }

    /** Whether what is done here is remembered for a backward pass. */
    public boolean recording() {
        return tape != null && tape.remembers();
    }

    /**
     * A scope within this one, on the same stream; on a tape it records too, and what the backward
     * pass needs outlives it.
     */
    public Ops scope() {
        open();
        children++;
        return new Ops(this);
    }

    /**
     * A tape within this scope, on the same stream, with random numbers of its own: a step of
     * several backward passes opens one for each. What is done on it, this Ops does not remember.
     */
    public Tape tape(Rng rng) {
        open();
        children++;
        return new Tape(this, rng);
    }

    /**
     * Moves a tensor of this scope to the scope around it, or from the outermost one to the caller,
     * who then closes it. What lives longer than this scope already stays as it is.
     *
     * @return the tensor
     */
    public Tensor keep(Tensor tensor) {
        open();
        tensor.alive();
        Storage storage = tensor.storage;
        if (storage.scope != this) {
            for (Ops around = parent; around != null; around = around.parent) {
                if (storage.scope == around) {
                    return tensor;
                }
            }
            if (storage.scope == null) {
                return tensor;
            }
            throw new IllegalStateException(
                    "keep: %s belongs to %s, not to %s".formatted(tensor, storage.scope, this));
        }
        if (parent == null && tensor != tensor.base()) {
            throw new IllegalStateException(
                    "keep: %s is a view and cannot be closed by a caller: keep a contiguous() copy"
                            .formatted(tensor));
        }
        disown(storage);
        storage.moveTo(parent);
        if (parent != null) {
            parent.own(storage);
        }
        return tensor;
    }

    /** Drops what this scope made, and starts its random sites anew; the scope stays usable. */
    public void reset() {
        open();
        if (children > 0) {
            throw new IllegalStateException("reset: a scope within " + this + " is still open");
        }
        dropOwned("its scope (" + label + ") was reset");
        if (root() == this) {
            site = 0;
        }
    }

    /** Waits for the work of the device so far and throws a pending fault. */
    public void await() {
        open();
        stream.await();
    }

    /**
     * Drops what this scope made; does not wait.
     *
     * @throws IllegalStateException the second time, or while a scope within it is open
     */
    @Override
    public void close() {
        if (closed) {
            throw new IllegalStateException(this + " is closed already");
        }
        stream.check();
        if (children > 0) {
            throw new IllegalStateException("close: a scope within " + this + " is still open");
        }
        closed = true;
        dropOwned("its scope (" + label + ") is closed");
        if (parent != null) {
            parent.children--;
        } else {
            device().leaks.gone(this);
            device().give(stream);
        }
    }

    /** Takes over an Ops that its thread has done with; from now on the caller's thread owns it. */
    public Ops adopt() {
        if (closed) {
            throw new IllegalStateException(this + " is closed");
        }
        stream.adopt(Thread.currentThread());
        return this;
    }

    @Override
    public String toString() {
        return label + " on " + device().name();
    }

    // ---- Making values --------------------------------------------------------------------

    /** A tensor with undefined values. */
    public Tensor empty(DType dtype, long... shape) {
        return make(dtype, shape.clone());
    }

    /** Zeros. */
    public Tensor zeros(DType dtype, long... shape) {
        return full(dtype, 0, shape);
    }

    /** One value everywhere, rounded to the dtype. */
    public Tensor full(DType dtype, double value, long... shape) {
        return Values.full(this, dtype, value, shape.clone());
    }

    /** Uniform in [low, high). */
    public Tensor rand(DType dtype, double low, double high, long... shape) {
        return Values.uniform(this, dtype, low, high, shape.clone());
    }

    /** Standard normal. */
    public Tensor randn(DType dtype, long... shape) {
        return Values.normal(this, dtype, 0, 1, shape.clone());
    }

    /** Overwrites with uniform numbers in [low, high). */
    public void uniform(Tensor out, double low, double high) {
        Values.uniform(this, out, low, high);
    }

    /** Overwrites with normal numbers of this mean and standard deviation. */
    public void normal(Tensor out, double mean, double std) {
        Values.normal(this, out, mean, std);
    }

    /** f32 values of the host. */
    public Tensor upload(float[] values, long... shape) {
        return Values.upload(this, values, shape.clone());
    }

    /** i32 values of the host. */
    public Tensor upload(int[] values, long... shape) {
        return Values.upload(this, values, shape.clone());
    }

    /** Token ids of the host, i32, each checked to be in [0, limit). */
    public Tensor ids(int[] ids, int limit, long... shape) {
        return Values.ids(this, ids, limit, shape.clone());
    }

    /** Labels of the host, i32, each checked to be in [0, limit) or ignoreIndex. */
    public Tensor labels(int[] labels, int limit, int ignoreIndex, long... shape) {
        return Values.labels(this, labels, limit, ignoreIndex, shape.clone());
    }

    /** Overwrites an i32 tensor with token ids of the host, each checked to be in [0, limit). */
    public void ids(Tensor out, int[] ids, int limit) {
        Values.ids(out, ids, limit);
    }

    /**
     * Overwrites an i32 tensor with labels of the host, each checked to be in [0, limit) or
     * ignoreIndex.
     */
    public void labels(Tensor out, int[] labels, int limit, int ignoreIndex) {
        Values.labels(out, labels, limit, ignoreIndex);
    }

    /** What a tensor holds at this point of the device's work, for the host to read later. */
    public Snapshot snapshot(Tensor tensor) {
        return Snapshot.of(this, tensor);
    }

    // ---- Moving values --------------------------------------------------------------------

    /** out[...] = value. */
    public void fill(Tensor out, double value) {
        Values.fill(this, out, value);
    }

    /** out = src, cast where the dtypes differ. */
    public void copy(Tensor out, Tensor src) {
        Values.copy(this, out, src);
    }

    /** The values as another dtype; the tensor itself where it has it already. */
    public Tensor cast(Tensor x, DType dtype) {
        return Values.cast(this, x, dtype);
    }

    /** The values densely in row-major order; the tensor itself where they lie so already. */
    public Tensor contiguous(Tensor x) {
        return Values.contiguous(this, x);
    }

    /** a + b, of one shape and dtype. */
    public Tensor add(Tensor a, Tensor b) {
        return Values.add(this, a, b);
    }

    /** An i32 or i64 tensor += by: what counts tokens and steps on the device. */
    public void increment(Tensor out, long by) {
        Values.increment(this, out, by);
    }

    // ---- Matrix products ------------------------------------------------------------------

    /** a · b: [.., M, K] · [.., K, N]. */
    public Tensor matmul(Tensor a, Tensor b) {
        return MatMul.forward(this, a, b, MatMul.Options.PLAIN);
    }

    /** A matrix product with transposes and a factor. */
    public Tensor matmul(Tensor a, Tensor b, MatMul.Options options) {
        return MatMul.forward(this, a, b, options);
    }

    /** x · W: x [.., in], weight [in, out]. */
    public Tensor linear(Tensor x, Tensor weight) {
        return Linear.forward(this, x, weight, null, null);
    }

    /** x · W + b: x [.., in], weight [in, out] (GPT-2's Conv1D), bias [out]. */
    public Tensor linear(Tensor x, Tensor weight, @Nullable Tensor bias) {
        return Linear.forward(this, x, weight, bias, null);
    }

    /** x · W + b + residual in one pass: x [.., in], weight [in, out], residual [.., out]. */
    public Tensor linear(
            Tensor x, Tensor weight, @Nullable Tensor bias, @Nullable Tensor residual) {
        return Linear.forward(this, x, weight, bias, residual);
    }

    /** x · Wᵀ: x [.., in], weight [out, in]. */
    public Tensor linearTransposed(Tensor x, Tensor weight) {
        return Linear.transposed(this, x, weight, null, null);
    }

    /** x · Wᵀ + b: x [.., in], weight [out, in], bias [out]. */
    public Tensor linearTransposed(Tensor x, Tensor weight, @Nullable Tensor bias) {
        return Linear.transposed(this, x, weight, bias, null);
    }

    /** x · Wᵀ + b + residual in one pass: x [.., in], weight [out, in], residual [.., out]. */
    public Tensor linearTransposed(
            Tensor x, Tensor weight, @Nullable Tensor bias, @Nullable Tensor residual) {
        return Linear.transposed(this, x, weight, bias, residual);
    }

    /**
     * The scores of a vocabulary, x · Wᵀ: x [.., D], weight [V, D]. Their rows lie apart by a
     * multiple of 64 elements, so that 16-byte accesses can read every row, whatever V is; where V
     * is no such multiple, the result is not contiguous.
     */
    public Tensor logits(Tensor x, Tensor weight) {
        return Linear.logits(this, x, weight);
    }

    /** gelu(x · W + b) in one pass: x [.., in], weight [in, out], bias [out]. */
    public Tensor linearGelu(Tensor x, Tensor weight, Tensor bias, Gelu form) {
        return Linear.gelu(this, x, weight, bias, form);
    }

    // ---- Layers ---------------------------------------------------------------------------

    /** The Gaussian error linear unit. */
    public Tensor gelu(Tensor x, Gelu form) {
        return Gelu.forward(this, x, form);
    }

    /** Layer normalisation over the last dimension. */
    public Tensor layerNorm(Tensor x, Tensor weight, @Nullable Tensor bias, double eps) {
        return LayerNorm.forward(this, x, weight, bias, eps);
    }

    /** Layer normalisation of x + residual, in one pass. */
    public LayerNorm.Residual layerNorm(
            Tensor x, Tensor residual, Tensor weight, @Nullable Tensor bias, double eps) {
        return LayerNorm.forward(this, x, residual, weight, bias, eps, 0);
    }

    /** Layer normalisation of dropout(x) + residual, in one pass. */
    public LayerNorm.Residual layerNorm(
            Tensor x,
            Tensor residual,
            Tensor weight,
            @Nullable Tensor bias,
            double eps,
            double dropout) {
        return LayerNorm.forward(this, x, residual, weight, bias, eps, dropout);
    }

    /** Rows of a table: ids i32 [B, T] or [T], table [V, D]. */
    public Tensor embedding(Tensor ids, Tensor table) {
        return Embedding.forward(this, ids, table, null, null);
    }

    /** Rows of a table plus rows of positions from start[b], or from 0. */
    public Tensor embedding(
            Tensor ids, Tensor table, @Nullable Tensor positions, @Nullable Tensor start) {
        return Embedding.forward(this, ids, table, positions, start);
    }

    /** Zeroes elements with probability p and scales the others, while recording; else x itself. */
    public Tensor dropout(Tensor x, double p) {
        return Dropout.forward(this, x, p);
    }

    /** Scaled dot-product attention; q [B, H, Tq, D], k and v [B, Hkv, Tk, D]. */
    public Tensor attention(Tensor q, Tensor k, Tensor v, Mask mask) {
        return Attention.forward(this, q, k, v, mask, Attention.Options.DEFAULT);
    }

    /** Attention with a scale other than 1 / sqrt(D). */
    public Tensor attention(Tensor q, Tensor k, Tensor v, Mask mask, double scale) {
        return attention(q, k, v, mask, new Attention.Options(scale, false));
    }

    /** Attention with options. */
    public Tensor attention(Tensor q, Tensor k, Tensor v, Mask mask, Attention.Options options) {
        return Attention.forward(this, q, k, v, mask, options);
    }

    /** Appends k and v to a paged cache. */
    public void kvAppend(
            Tensor kPages,
            Tensor vPages,
            Tensor k,
            Tensor v,
            @Nullable Tensor pageTable,
            Tensor lengths) {
        PagedAttention.append(this, kPages, vPages, k, v, pageTable, lengths);
    }

    /** Attention of the last tokens over a paged cache that holds them already. */
    public Tensor attentionDecode(
            Tensor q,
            Tensor kPages,
            Tensor vPages,
            @Nullable Tensor pageTable,
            Tensor lengths,
            double scale) {
        return PagedAttention.decode(this, q, kPages, vPages, pageTable, lengths, scale);
    }

    // ---- Loss and choice ------------------------------------------------------------------

    /**
     * The cross-entropy of logits [.., V] and targets i32 [..]; consumes logits while recording.
     */
    public Tensor crossEntropy(
            Tensor logits, Tensor targets, CrossEntropy.Options options, @Nullable Tensor factor) {
        return CrossEntropy.forward(this, logits, targets, options, factor);
    }

    /** The index of the largest value of each row: logits [R, V] to i32 [R]. */
    public Tensor argmax(Tensor logits) {
        return ArgMax.of(this, logits);
    }

    /** One token drawn per row: logits [R, V] to i32 [R]. */
    public Tensor sample(Tensor logits, Sampling sampling, Rng rng) {
        return sampling.draw(this, logits, rng);
    }

    // ---- Optimizer ------------------------------------------------------------------------

    /** The norm over all tensors together, and the factor that clips it to maxNorm. */
    public GlobalNorm.Norm globalNorm(List<Tensor> tensors, double maxNorm) {
        return GlobalNorm.of(this, tensors, maxNorm);
    }

    /** Multiplies tensors in place by 1 / scale; 1 where one was infinite or NaN, else 0. */
    public Tensor unscale(List<Tensor> tensors, Tensor inverseScale) {
        return Unscale.run(this, tensors, inverseScale);
    }

    /** One AdamW step of many weights. */
    public void adamw(
            AdamW.Options options,
            Tensor learningRate,
            Tensor step,
            @Nullable Tensor clip,
            AdamW.Group... groups) {
        AdamW.step(this, options, learningRate, step, clip, List.of(groups));
    }

    // ---- For the package ------------------------------------------------------------------

    /** The tape that remembers what is done here; null: nothing does. */
    @Nullable Tape tape() {
        return recording() ? tape : null;
    }

    /** The native stream of a call. */
    long handle() {
        open();
        return stream.handle();
    }

    /** A dense tensor of this scope with undefined values; the shape is not copied. */
    Tensor make(DType dtype, long... shape) {
        open();
        Storage storage =
                Storage.of(stream, Shapes.bytes("empty", dtype, shape), Purpose.ACTIVATIONS);
        own(storage);
        return Tensor.dense(storage, dtype, shape);
    }

    /** As {@link #make}, but rows start at multiples of 64 elements. */
    Tensor makeAligned(DType dtype, long... shape) {
        open();
        long[] padded = shape.clone();
        int last = shape.length - 1;
        padded[last] = Math.ceilDiv(shape[last], 64) * 64;
        Storage storage =
                Storage.of(stream, Shapes.bytes("empty", dtype, padded), Purpose.ACTIVATIONS);
        own(storage);
        return new Tensor(storage, dtype, shape, Shapes.strides(padded), 0, null);
    }

    Rng rng() {
        return rng;
    }

    /** The number of the next random op, in forward order. */
    int nextSite() {
        Ops root = root();
        if (root.site > 0xffff) {
            throw new IllegalStateException(
                    root + " has drawn 65536 times; reset() starts the count anew");
        }
        return root.site++;
    }

    void own(Storage storage) {
        storage.scope = this;
        storage.place = owned.size();
        owned.add(storage);
    }

    private void disown(Storage storage) {
        Storage last = owned.removeLast();
        if (last != storage) {
            owned.set(storage.place, last);
            last.place = storage.place;
        }
    }

    void open() {
        if (closed) {
            throw new IllegalStateException(this + " is closed");
        }
        stream.check();
    }

    private void dropOwned(String reason) {
        RuntimeException first = null;
        // newest first, so that the allocator sees its blocks come back as a stack
        for (int i = owned.size() - 1; i >= 0; i--) {
            try {
                owned.get(i).close(reason);
            } catch (RuntimeException e) {
                if (first == null) {
                    first = e;
                }
            }
        }
        owned.clear();
        if (first != null && device().isOpen()) {
            throw first;
        }
    }

    /** The outermost scope that has this one's random numbers. */
    private Ops root() {
        Ops ops = this;
        while (ops.parent != null && ops != ops.tape) {
            ops = ops.parent;
        }
        return ops;
    }
}
