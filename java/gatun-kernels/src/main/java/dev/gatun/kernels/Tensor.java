package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import dev.gatun.kernels.internal.gatun_tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.Objects;
import java.util.Optional;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * Values of one dtype on a device: a shape over a buffer. What an {@link Ops} makes belongs to its
 * scope and dies with it; what the factories here make belongs to the caller, who closes it. Views
 * share the buffer and its life. Ops are methods of {@link Ops}, not of the tensor.
 *
 * <p>Reading to the host ({@link #toFloats()} and its kin) is what waits.
 */
public final class Tensor implements AutoCloseable {
    /** The largest rank. */
    public static final int MAX_RANK = 6;

    final Storage storage;
    final long[] shape;
    final long[] stride;
    // in elements, so that a gradient of another dtype has the same views
    final long offset;
    @Nullable Tensor next;

    private final DType dtype;
    private final @Nullable Tensor root;
    private @Nullable MemorySegment descriptor;

    // of a trained leaf
    private @Nullable Tensor gradient;
    private boolean stale;
    private boolean zeroed;

    // the op that put the gradient in the place of the values; null: they are there
    private @Nullable String consumer;

    Tensor(
            Storage storage,
            DType dtype,
            long[] shape,
            long[] stride,
            long offset,
            @Nullable Tensor root) {
        this.storage = storage;
        this.dtype = dtype;
        this.shape = shape;
        this.stride = stride;
        this.offset = offset;
        this.root = root;
        MemorySegment d = storage.descriptor(this);
        gatun_tensor.dtype(d, dtype.code());
        gatun_tensor.rank(d, shape.length);
        gatun_tensor.buffer(d, storage.buffer());
        gatun_tensor.offset_bytes(d, offset * dtype.bytes());
        long at = gatun_tensor.shape$offset();
        for (int i = 0; i < shape.length; i++) {
            d.set(ValueLayout.JAVA_LONG, at + 8L * i, shape[i]);
            d.set(ValueLayout.JAVA_LONG, at + 8L * (MAX_RANK + i), stride[i]);
        }
        this.descriptor = d;
    }

    /** A dense tensor over a storage of its own. */
    static Tensor dense(Storage storage, DType dtype, long[] shape) {
        return new Tensor(storage, dtype, shape, Shapes.strides(shape), 0, null);
    }

    /** A tensor of the caller's with undefined values. */
    public static Tensor empty(Device device, DType dtype, Purpose purpose, long... shape) {
        long bytes = Shapes.bytes("empty", dtype, shape);
        return dense(Storage.ofCaller(device, bytes, purpose), dtype, shape.clone());
    }

    /** An f32 tensor of the caller's with these values. */
    public static Tensor of(Device device, float[] values, long... shape) {
        return filled(device, DType.F32, values.length, shape, t -> t.write(values));
    }

    /** An i32 tensor of the caller's with these values. */
    public static Tensor of(Device device, int[] values, long... shape) {
        return filled(device, DType.I32, values.length, shape, t -> t.write(values));
    }

    /** An i64 tensor of the caller's with these values. */
    public static Tensor of(Device device, long[] values, long... shape) {
        return filled(device, DType.I64, values.length, shape, t -> t.write(values));
    }

    private static Tensor filled(
            Device device, DType dtype, long values, long[] shape, Consumer<Tensor> fill) {
        Shapes.wantElements("of", values, shape);
        Tensor made = empty(device, dtype, Purpose.OTHER, shape);
        try {
            fill.accept(made);
        } catch (RuntimeException e) {
            made.close();
            throw e;
        }
        return made;
    }

    /**
     * Names memory of the caller's to the device, without a copy. The memory must outlive the
     * tensor; closing the tensor waits for the work that uses it.
     *
     * @param memory off-heap memory that the device can reach, aligned to 4 bytes at least
     */
    public static Tensor wrap(Device device, MemorySegment memory, DType dtype, long... shape) {
        long bytes = Shapes.bytes("wrap", dtype, shape);
        if (!memory.isNative()) {
            throw new IllegalArgumentException("wrap: wanted off-heap memory, had a heap segment");
        }
        if (memory.byteSize() < bytes) {
            throw new IllegalArgumentException(
                    "wrap: %s needs %d bytes, the segment has %d"
                            .formatted(Shapes.text(dtype, shape), bytes, memory.byteSize()));
        }
        Storage storage = Storage.wrap(device, memory.asSlice(0, bytes));
        return dense(storage, dtype, shape.clone());
    }

    public DType dtype() {
        return dtype;
    }

    /** The sizes, as a copy. */
    public long[] shape() {
        return shape.clone();
    }

    /** The number of dimensions; 0 for a scalar. */
    public int rank() {
        return shape.length;
    }

    /** The size of a dimension; a negative one counts from the end. */
    public long size(int dim) {
        return shape[dimension("size", dim)];
    }

    /** The number of elements. */
    public long elements() {
        return Shapes.elements(shape);
    }

    public Device device() {
        return storage.device;
    }

    /** Whether the elements lie densely in row-major order. */
    public boolean contiguous() {
        return Shapes.dense(shape, stride);
    }

    // ---- Views ----------------------------------------------------------------------------

    /**
     * The same elements in the same order under another shape, without a copy.
     *
     * @param newShape sizes with the same product; one may be -1
     * @throws IllegalArgumentException where the layout does not allow it: {@link Ops#contiguous}
     */
    public Tensor view(long... newShape) {
        alive();
        long[] wanted = Shapes.resolve("view", newShape, elements());
        long[] strides = Shapes.viewStrides(shape, stride, wanted);
        if (strides == null) {
            throw new IllegalArgumentException(
                    ("view: %s has strides %s and cannot be seen as %s without a copy;"
                                    + " use contiguous()")
                            .formatted(this, Arrays.toString(stride), Arrays.toString(wanted)));
        }
        return new Tensor(storage, dtype, wanted, strides, offset, base());
    }

    /** Elements from (inclusive) to to (exclusive) of a dimension, without a copy. */
    public Tensor slice(int dim, long from, long to) {
        alive();
        int d = dimension("slice", dim);
        if (from < 0 || to < from || to > shape[d]) {
            throw new IllegalArgumentException(
                    "slice: [%d, %d) is not within dimension %d of %s"
                            .formatted(from, to, d, this));
        }
        long[] sizes = shape.clone();
        sizes[d] = to - from;
        return new Tensor(storage, dtype, sizes, stride, offset + from * stride[d], base());
    }

    /** The index-th entry of a dimension, which is dropped, without a copy. */
    public Tensor select(int dim, long index) {
        alive();
        int d = dimension("select", dim);
        if (index < 0 || index >= shape[d]) {
            throw new IllegalArgumentException(
                    "select: %d is not within dimension %d of %s".formatted(index, d, this));
        }
        long[] sizes = new long[shape.length - 1];
        long[] strides = new long[shape.length - 1];
        for (int i = 0, j = 0; i < shape.length; i++) {
            if (i != d) {
                sizes[j] = shape[i];
                strides[j++] = stride[i];
            }
        }
        return new Tensor(storage, dtype, sizes, strides, offset + index * stride[d], base());
    }

    /** The dimensions in another order, without a copy. */
    public Tensor permute(int... order) {
        alive();
        if (order.length != shape.length
                || Arrays.stream(order).distinct().count() != order.length
                || Arrays.stream(order).anyMatch(d -> d < 0 || d >= shape.length)) {
            throw new IllegalArgumentException(
                    "permute: %s is not an order of the %d dimensions of %s"
                            .formatted(Arrays.toString(order), shape.length, this));
        }
        long[] sizes = new long[order.length];
        long[] strides = new long[order.length];
        for (int i = 0; i < order.length; i++) {
            sizes[i] = shape[order[i]];
            strides[i] = stride[order[i]];
        }
        return new Tensor(storage, dtype, sizes, strides, offset, base());
    }

    // ---- Host -----------------------------------------------------------------------------

    /** The values of a float tensor in row-major order; waits. */
    public float[] toFloats() {
        want("toFloats", dtype.floating(), "a float dtype");
        float[] out = new float[Math.toIntExact(elements())];
        if (dtype == DType.F32) {
            read(MemorySegment.ofArray(out));
            return out;
        }
        short[] halves = new short[out.length];
        read(MemorySegment.ofArray(halves));
        for (int i = 0; i < out.length; i++) {
            out[i] =
                    dtype == DType.F16
                            ? Float.float16ToFloat(halves[i])
                            : Float.intBitsToFloat(halves[i] << 16);
        }
        return out;
    }

    /** The values of an i32, u8 or i8 tensor in row-major order; waits. */
    public int[] toInts() {
        want("toInts", !dtype.floating() && dtype != DType.I64, "i32, u8 or i8");
        int[] out = new int[Math.toIntExact(elements())];
        if (dtype == DType.I32) {
            read(MemorySegment.ofArray(out));
            return out;
        }
        byte[] bytes = new byte[out.length];
        read(MemorySegment.ofArray(bytes));
        for (int i = 0; i < out.length; i++) {
            out[i] = dtype == DType.U8 ? Byte.toUnsignedInt(bytes[i]) : bytes[i];
        }
        return out;
    }

    /** The values of an integer tensor in row-major order; waits. */
    public long[] toLongs() {
        if (dtype != DType.I64) {
            return Arrays.stream(toInts()).asLongStream().toArray();
        }
        long[] out = new long[Math.toIntExact(elements())];
        read(MemorySegment.ofArray(out));
        return out;
    }

    /** The only value of a tensor of one element; waits. */
    public double item() {
        want("item", elements() == 1, "one element");
        return dtype.floating() ? toFloats()[0] : toLongs()[0];
    }

    /** Overwrites a contiguous float tensor; 16-bit ones round to nearest even. */
    public void write(float[] values) {
        want("write", dtype.floating(), "a float dtype for float[]");
        if (dtype == DType.F32) {
            write(MemorySegment.ofArray(values), values.length);
            return;
        }
        short[] halves = new short[values.length];
        for (int i = 0; i < halves.length; i++) {
            halves[i] =
                    dtype == DType.F16 ? Float.floatToFloat16(values[i]) : BFloat16.of(values[i]);
        }
        write(MemorySegment.ofArray(halves), values.length);
    }

    /** Overwrites a contiguous i32 tensor. */
    public void write(int[] values) {
        want("write", dtype == DType.I32, "i32 for int[]");
        write(MemorySegment.ofArray(values), values.length);
    }

    /** Overwrites a contiguous i64 tensor. */
    public void write(long[] values) {
        want("write", dtype == DType.I64, "i64 for long[]");
        write(MemorySegment.ofArray(values), values.length);
    }

    /**
     * The memory of a contiguous tensor on cpu, for other code that wants no copy; waits. It ends
     * with the tensor: later use throws.
     */
    public MemorySegment segment() {
        want("segment", contiguous(), "a contiguous tensor");
        if (!device().hostMemory()) {
            throw new UnsupportedOperationException(
                    "segment: %s lies on %s, host code cannot reach it; use toFloats()"
                            .formatted(this, device()));
        }
        alive();
        device().await();
        return storage.expose(deviceAddress(), elements() * dtype.bytes());
    }

    /** The address of the first element on its device, for JCuda and friends; does not wait. */
    public long deviceAddress() {
        alive();
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment address = arena.allocate(ValueLayout.ADDRESS);
            Native.check(
                    GatunH.gatun_buffer_get(storage.buffer(), address, MemorySegment.NULL),
                    "buffer_get");
            return address.get(ValueLayout.ADDRESS, 0).address() + offset * dtype.bytes();
        }
    }

    private void read(MemorySegment to) {
        valued();
        Stream home = storage.home;
        if (home != null) {
            home.check();
            readOn(home, to);
        } else {
            device().transfer(stream -> {
                readOn(stream, to);
                return to;
            });
        }
    }

    private void readOn(Stream stream, MemorySegment to) {
        if (contiguous()) {
            stream.read(to, storage.buffer(), offset * dtype.bytes());
            return;
        }
        Storage packed = Storage.of(stream, to.byteSize(), Purpose.WORKSPACE);
        try {
            Values.copyOn(stream, dense(packed, dtype, shape), this);
            stream.read(to, packed.buffer(), 0);
        } finally {
            packed.close("it was a copy for the host");
        }
    }

    private void write(MemorySegment from, long values) {
        alive();
        want("write", contiguous(), "a contiguous tensor");
        if (values != elements()) {
            throw new IllegalArgumentException(
                    "write: %s has %d elements, had %d values".formatted(this, elements(), values));
        }
        Stream home = storage.home;
        if (home != null) {
            home.write(from, storage.buffer(), offset * dtype.bytes());
        } else {
            device().transfer(stream -> {
                stream.write(from, storage.buffer(), offset * dtype.bytes());
                return from;
            });
        }
        base().consumer = null;
    }

    // ---- Gradient -------------------------------------------------------------------------

    /**
     * Makes this tensor a trained leaf: a tape adds up its gradient, in f32, until {@link
     * #staleGradient()}.
     */
    public Tensor requireGradient() {
        alive();
        want("requireGradient", dtype.floating(), "a float dtype");
        want("requireGradient", root == null, "a tensor, not a view of one");
        if (storage.scope != null) {
            throw new IllegalStateException(
                    "requireGradient: %s belongs to %s; a leaf is the caller's own: keep() it"
                            .formatted(this, storage.scope));
        }
        if (gradient == null) {
            gradient = empty(device(), DType.F32, Purpose.GRADIENTS, shape);
            stale = true;
            zeroed = false;
        }
        return this;
    }

    /**
     * The gradient of a trained leaf, f32 of the same shape: zeros where no tape has reached it
     * since {@link #staleGradient()}. Ask anew each step.
     */
    public Optional<Tensor> gradient() {
        Tensor g = gradient;
        if (g != null && stale && !zeroed) {
            device().transfer(stream -> {
                Native.check(GatunH.gatun_fill(stream.handle(), g.raw(), 0), "fill");
                return g;
            });
            zeroed = true;
        }
        return Optional.ofNullable(g);
    }

    /** What the gradient holds is done with: the next tape overwrites it, so nothing is zeroed. */
    public void staleGradient() {
        stale = true;
        zeroed = false;
    }

    /** Frees the gradient; the tensor is frozen. */
    public void dropGradient() {
        if (gradient != null) {
            gradient.close();
            gradient = null;
        }
    }

    @Nullable Tensor leafGradient() {
        return gradient;
    }

    boolean stale() {
        return stale;
    }

    void fresh() {
        stale = false;
        zeroed = false;
    }

    // ---- Life -----------------------------------------------------------------------------

    /**
     * Frees the caller's tensor, in stream order, and its gradient. All its views die with it.
     *
     * @throws IllegalStateException for a view, for what a scope owns, and the second time
     */
    @Override
    public void close() {
        if (root != null) {
            throw new IllegalStateException(
                    "close: this is a view (%s): close the tensor that it views"
                            .formatted(Shapes.text(dtype, shape)));
        }
        if (storage.home != null && storage.alive()) {
            throw new IllegalStateException(
                    "close: %s belongs to %s and dies with it"
                            .formatted(this, storage.scope == null ? "a tape" : storage.scope));
        }
        if (!device().isOpen()) {
            // the device took its tensors along
            return;
        }
        synchronized (storage) {
            alive();
            dropGradient();
            storage.close("it was closed");
        }
    }

    @Override
    public String toString() {
        return Shapes.text(dtype, shape) + " on " + device().name();
    }

    // ---- For the package ------------------------------------------------------------------

    /** The tensor whose storage this is: itself, or what it is a view of. */
    Tensor base() {
        return root == null ? this : root;
    }

    /** This place in another storage with the base's layout (a gradient). */
    Tensor in(Tensor otherBase) {
        return otherBase.base() == otherBase && this == base()
                ? otherBase
                : new Tensor(
                        otherBase.storage,
                        otherBase.dtype,
                        shape,
                        stride,
                        offset,
                        otherBase.base());
    }

    /** Throws unless the values may be used. */
    void valued() {
        alive();
        String op = base().consumer;
        if (op != null) {
            throw new IllegalStateException(
                    "%s no longer holds its values: %s overwrote them with their gradient"
                            .formatted(this, op));
        }
    }

    /** The values make way for their gradient. */
    void consumedBy(String op) {
        base().consumer = op;
    }

    void alive() {
        if (!storage.alive()) {
            throw new IllegalStateException(
                    "%s can no longer be used: %s".formatted(this, storage.end()));
        }
    }

    /** The native struct, where the tensor may be used. */
    MemorySegment pointer() {
        valued();
        return Objects.requireNonNull(descriptor);
    }

    /** The native struct of an optional operand. */
    static MemorySegment pointer(@Nullable Tensor tensor) {
        return tensor == null ? MemorySegment.NULL : tensor.pointer();
    }

    /** The native struct of a tensor that a tape holds, even where its scope is closed. */
    MemorySegment raw() {
        MemorySegment d = descriptor;
        if (d == null) {
            throw new IllegalStateException(
                    "%s can no longer be used: %s".formatted(this, storage.end()));
        }
        return d;
    }

    static MemorySegment raw(@Nullable Tensor tensor) {
        return tensor == null ? MemorySegment.NULL : tensor.raw();
    }

    MemorySegment forget() {
        MemorySegment d = raw();
        descriptor = null;
        return d;
    }

    private int dimension(String what, int dim) {
        int d = dim < 0 ? dim + shape.length : dim;
        if (d < 0 || d >= shape.length) {
            throw new IllegalArgumentException(
                    "%s: there is no dimension %d in %s".formatted(what, dim, this));
        }
        return d;
    }

    private void want(String what, boolean met, String wanted) {
        if (!met) {
            throw new IllegalArgumentException(
                    "%s: wanted %s, had %s".formatted(what, wanted, this));
        }
    }
}
