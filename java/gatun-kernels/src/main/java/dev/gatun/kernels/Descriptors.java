package dev.gatun.kernels;

import dev.gatun.kernels.internal.gatun_tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * A free list of off-heap {@code gatun_tensor} structs, one for each living tensor.
 *
 * <p>Automatic arenas: passing their segments to native code costs no reference count, and the
 * memory goes when the device does. A stream's list is used by its thread alone and fills itself
 * from the device's, which is locked.
 */
final class Descriptors {
    // 64 structs of 128 bytes: two pages a refill
    private static final int BATCH = 64;
    private static final long BYTES = gatun_tensor.layout().byteSize();

    private final @Nullable Descriptors shared;
    private MemorySegment[] free = new MemorySegment[BATCH];
    private int count;

    Descriptors(@Nullable Descriptors shared) {
        this.shared = shared;
    }

    /** A struct for one tensor; everything but its size is undefined. */
    MemorySegment take() {
        if (shared == null) {
            synchronized (this) {
                return pop();
            }
        }
        return pop();
    }

    /** Takes a struct back. */
    void give(MemorySegment descriptor) {
        if (shared == null) {
            synchronized (this) {
                push(descriptor);
            }
        } else {
            push(descriptor);
        }
    }

    private MemorySegment pop() {
        if (count == 0) {
            if (shared != null) {
                shared.moveTo(this);
            } else {
                allocate();
            }
        }
        return free[--count];
    }

    private void push(MemorySegment descriptor) {
        if (count == free.length) {
            free = Arrays.copyOf(free, 2 * count);
        }
        free[count++] = descriptor;
    }

    private synchronized void moveTo(Descriptors taker) {
        if (count == 0) {
            allocate();
        }
        for (int i = Math.min(count, BATCH); i > 0; i--) {
            taker.push(free[--count]);
        }
    }

    private void allocate() {
        MemorySegment block = Arena.ofAuto().allocate(BYTES * BATCH, 64);
        for (int i = 0; i < BATCH; i++) {
            MemorySegment descriptor = block.asSlice(i * BYTES, BYTES);
            gatun_tensor.struct_size(descriptor, (int) BYTES);
            push(descriptor);
        }
    }

    /**
     * A struct that the garbage collector takes back: for a view of a tensor that nobody scopes.
     */
    static MemorySegment collected() {
        MemorySegment descriptor = Arena.ofAuto().allocate(gatun_tensor.layout());
        gatun_tensor.struct_size(descriptor, (int) BYTES);
        return descriptor;
    }
}
