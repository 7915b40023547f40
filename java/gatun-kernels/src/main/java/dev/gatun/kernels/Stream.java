package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import dev.gatun.kernels.internal.gatun_adamw_args;
import dev.gatun.kernels.internal.gatun_attention_args;
import dev.gatun.kernels.internal.gatun_cross_entropy_args;
import dev.gatun.kernels.internal.gatun_matmul_args;
import dev.gatun.kernels.internal.gatun_philox;
import dev.gatun.kernels.internal.gatun_sample_args;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * The device's stream as one Ops sees it, or a native one of its own: with what its calls need
 * (argument structs and a staging area, made once) and the thread that it is confined to.
 */
final class Stream {
    // fits the second-level cache, so that the extra copy on the way to a heap array stays cheap
    private static final int STAGING_BYTES = 256 << 10;

    final Device device;
    final Descriptors descriptors;
    final MemorySegment matmulArgs;
    final MemorySegment attentionArgs;
    final MemorySegment crossEntropyArgs;
    final MemorySegment sampleArgs;
    final MemorySegment adamwArgs;
    final MemorySegment philox;
    private final MemorySegment result;
    private final long own;
    private @Nullable MemorySegment staging;
    private MemorySegment scratch;
    private @Nullable Thread owner;

    Stream(Device device) {
        this(device, 0);
    }

    /** A native stream of its own: its ops a graph remembers, or its copies run beside the ops. */
    static Stream apart(Device device) {
        return new Stream(device, create(device));
    }

    private Stream(Device device, long own) {
        this.own = own;
        this.device = device;
        this.descriptors = new Descriptors(device.descriptors);
        Arena arena = Arena.ofAuto();
        this.result = arena.allocate(ValueLayout.JAVA_LONG);
        this.matmulArgs = arena.allocate(gatun_matmul_args.layout());
        gatun_matmul_args.struct_size(matmulArgs, (int) matmulArgs.byteSize());
        this.attentionArgs = arena.allocate(gatun_attention_args.layout());
        gatun_attention_args.struct_size(attentionArgs, (int) attentionArgs.byteSize());
        this.crossEntropyArgs = arena.allocate(gatun_cross_entropy_args.layout());
        gatun_cross_entropy_args.struct_size(crossEntropyArgs, (int) crossEntropyArgs.byteSize());
        this.sampleArgs = arena.allocate(gatun_sample_args.layout());
        gatun_sample_args.struct_size(sampleArgs, (int) sampleArgs.byteSize());
        this.adamwArgs = arena.allocate(gatun_adamw_args.layout());
        gatun_adamw_args.struct_size(adamwArgs, (int) adamwArgs.byteSize());
        this.philox = arena.allocate(gatun_philox.layout());
        this.scratch = MemorySegment.NULL;
    }

    /** The native stream, for the thread that owns it. */
    long handle() {
        check();
        return own == 0 ? device.stream() : own;
    }

    /** Throws unless the calling thread is the owner; a stream without one is guarded by a lock. */
    void check() {
        Thread expected = owner;
        if (expected != null && expected != Thread.currentThread()) {
            throw new IllegalStateException(
                    ("an Ops belongs to one thread: %s has it, %s used it;"
                                    + " call adopt() on the new thread once the old one is done")
                            .formatted(expected, Thread.currentThread()));
        }
    }

    /** A new native stream. */
    static long create(Device device) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment result = arena.allocate(ValueLayout.JAVA_LONG);
            Native.check(GatunH.gatun_stream_create(device.handle(), result), "stream_create");
            return result.get(ValueLayout.JAVA_LONG, 0);
        }
    }

    boolean apart() {
        return own != 0;
    }

    void adopt(@Nullable Thread thread) {
        owner = thread;
    }

    /** Off-heap memory for the arrays of one call. */
    MemorySegment scratch(long bytes) {
        if (scratch.byteSize() < bytes) {
            scratch = Arena.ofAuto().allocate(Math.max(4096, Long.highestOneBit(bytes) << 1), 64);
        }
        return scratch;
    }

    /** An array of pointers to tensors' structs, in {@link #scratch}. */
    MemorySegment pointers(List<Tensor> tensors) {
        MemorySegment pointers = scratch(8L * Math.max(1, tensors.size()));
        for (int i = 0; i < tensors.size(); i++) {
            pointers.setAtIndex(ValueLayout.ADDRESS, i, tensors.get(i).pointer());
        }
        return pointers;
    }

    long allocate(long bytes, Purpose purpose) {
        Native.check(
                GatunH.gatun_buffer_alloc(handle(), bytes, purpose.code(), result), "buffer_alloc");
        return result.get(ValueLayout.JAVA_LONG, 0);
    }

    void await() {
        Native.check(GatunH.gatun_stream_wait(handle()), "stream_wait");
    }

    /** Copies from a buffer into a heap array's segment; waits. */
    void read(MemorySegment to, long buffer, long offsetBytes) {
        MemorySegment stage = staging();
        long total = to.byteSize();
        // at least one call, so that a fault shows even where there is nothing to copy
        long done = 0;
        do {
            long bytes = Math.min(stage.byteSize(), total - done);
            Native.check(
                    GatunH.gatun_buffer_read(handle(), stage, buffer, offsetBytes + done, bytes),
                    "buffer_read");
            MemorySegment.copy(stage, 0, to, done, bytes);
            done += bytes;
        } while (done < total);
    }

    /** Copies a heap array's segment into a buffer, stream-ordered. */
    void write(MemorySegment from, long buffer, long offsetBytes) {
        MemorySegment stage = staging();
        long total = from.byteSize();
        for (long done = 0; done < total; ) {
            long bytes = Math.min(stage.byteSize(), total - done);
            MemorySegment.copy(from, done, stage, 0, bytes);
            Native.check(
                    GatunH.gatun_buffer_write(handle(), buffer, offsetBytes + done, stage, bytes),
                    "buffer_write");
            done += bytes;
        }
    }

    private MemorySegment staging() {
        MemorySegment stage = staging;
        if (stage == null) {
            stage = Arena.ofAuto().allocate(STAGING_BYTES, 64);
            staging = stage;
        }
        return stage;
    }
}
