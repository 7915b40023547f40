package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.concurrent.atomic.AtomicInteger;
import org.jspecify.annotations.Nullable;

/**
 * A device buffer and who needs it. The owner (a scope or the caller) is one reference; every
 * tensor that a tape saved and every gradient slot is one more. The memory goes when the last does.
 * All tensors over one storage live and die with it.
 */
final class Storage {
    final Device device;
    final long bytes;

    /** The stream whose thread may touch what a scope owns; null: the caller's, any thread. */
    @Nullable Stream home;

    /** The scope that owns it, and its place there. */
    @Nullable Ops scope;

    int place;

    private long buffer;
    // atomic: threads share weights, and each of their tapes holds them
    private final AtomicInteger references = new AtomicInteger(1);
    private volatile boolean alive = true;
    private @Nullable Tensor tensors;
    private @Nullable Arena arena;
    private @Nullable String end;
    private final boolean canary;

    private Storage(Device device, @Nullable Stream home, long buffer, long bytes, boolean canary) {
        this.canary = canary;
        this.device = device;
        this.home = home;
        this.buffer = buffer;
        this.bytes = bytes;
    }

    /** Memory for work of this stream; the stream's thread alone may touch it. */
    static Storage of(Stream stream, long bytes, Purpose purpose) {
        long buffer = Canary.allocate(stream, bytes, purpose);
        return new Storage(stream.device, stream, buffer, bytes, Canary.on(stream));
    }

    /** Memory that the caller owns and closes. */
    static Storage ofCaller(Device device, long bytes, Purpose purpose) {
        long buffer = device.transfer(stream -> Canary.allocate(stream, bytes, purpose));
        Storage storage = new Storage(device, null, buffer, bytes, device.canaries);
        device.leaks.made(storage);
        return storage;
    }

    /** Memory of the caller's own, named to the device. */
    static Storage wrap(Device device, MemorySegment memory) {
        try (Arena confined = Arena.ofConfined()) {
            MemorySegment result = confined.allocate(ValueLayout.JAVA_LONG);
            Native.check(
                    GatunH.gatun_buffer_wrap(device.handle(), memory, memory.byteSize(), result),
                    "buffer_wrap");
            Storage storage =
                    new Storage(
                            device,
                            null,
                            result.get(ValueLayout.JAVA_LONG, 0),
                            memory.byteSize(),
                            false);
            device.leaks.made(storage);
            return storage;
        }
    }

    long buffer() {
        return buffer;
    }

    boolean alive() {
        return alive && device.isOpen();
    }

    /** Whether somebody besides one holder would notice a change. */
    boolean shared() {
        return references.get() > 1;
    }

    String end() {
        if (!device.isOpen()) {
            return "its device " + device.name() + " is closed";
        }
        return end == null ? "it is closed" : end;
    }

    MemorySegment descriptor(Tensor tensor) {
        Stream stream = home;
        if (stream == null && tensors != null) {
            // a view of the caller's: nobody says when it is done with
            return Descriptors.collected();
        }
        tensor.next = tensors;
        tensors = tensor;
        if (stream == null) {
            return device.descriptors.take();
        }
        stream.check();
        return stream.descriptors.take();
    }

    void hold() {
        references.incrementAndGet();
    }

    /** Gives up one reference that was not the owner's. */
    void release() {
        if (references.decrementAndGet() == 0) {
            free();
        }
    }

    /** The owner is done with it; {@code reason} completes "x can no longer be used: ...". */
    void close(String reason) {
        end = reason;
        alive = false;
        Arena exposed = arena;
        if (exposed != null) {
            arena = null;
            exposed.close();
        }
        release();
    }

    /** From a scope to its parent, or to the caller. */
    void moveTo(@Nullable Ops newScope) {
        scope = newScope;
        if (newScope == null) {
            home = null;
            device.leaks.made(this);
        }
    }

    /** Host memory at an address within this storage, which ends with it. */
    @SuppressWarnings("MustBeClosed") // closed by close(), with the storage
    synchronized MemorySegment expose(long address, long size) {
        Arena exposed = arena;
        if (exposed == null) {
            exposed = Arena.ofShared();
            arena = exposed;
        }
        return MemorySegment.ofAddress(address).reinterpret(size, exposed, null);
    }

    private void free() {
        alive = false;
        Stream stream = home;
        Descriptors pool = stream == null ? device.descriptors : stream.descriptors;
        for (Tensor t = tensors; t != null; t = t.next) {
            pool.give(t.forget());
        }
        tensors = null;
        long dead = buffer;
        buffer = 0;
        if (stream == null) {
            device.leaks.gone(this);
        }
        if (device.isOpen()) {
            if (canary) {
                Canary.check(device, dead, bytes);
            }
            Native.check(GatunH.gatun_buffer_free(dead), "buffer_free");
        }
    }
}
