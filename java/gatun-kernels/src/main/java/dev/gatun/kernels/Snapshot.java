package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * What a tensor of a float dtype held at one point of the device's work. Reading it waits for that
 * point, whatever was enqueued behind it; {@link Tensor#toFloats()} waits for all of it. So a host
 * that enqueues a step before it reads the loss of the step before keeps the device busy.
 *
 * <p>Any thread may read it; it belongs to the caller, who closes it.
 */
public final class Snapshot implements AutoCloseable {
    private final Tensor copy;
    private final long event;

    private Snapshot(Tensor copy, long event) {
        this.copy = copy;
        this.event = event;
    }

    static Snapshot of(Ops ops, Tensor tensor) {
        Tensor copy = Tensor.empty(ops.device(), DType.F32, Purpose.OTHER, tensor.shape);
        long event = 0;
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment made = arena.allocate(ValueLayout.JAVA_LONG);
            Native.check(GatunH.gatun_event_create(ops.device().handle(), made), "event_create");
            event = made.get(ValueLayout.JAVA_LONG, 0);
            ops.copy(copy, tensor);
            Native.check(GatunH.gatun_event_record(event, ops.handle()), "event_record");
            return new Snapshot(copy, event);
        } catch (RuntimeException e) {
            copy.close();
            if (event != 0) {
                Native.check(GatunH.gatun_event_destroy(event), "event_destroy");
            }
            throw e;
        }
    }

    /**
     * The values in row-major order; waits for them alone.
     *
     * @throws GatunException also for a fault of work behind them, if it has shown already
     */
    public float[] toFloats() {
        float[] values = new float[Math.toIntExact(copy.elements())];
        copy.device()
                .beside(stream -> {
                    copy.alive();
                    Native.check(
                            GatunH.gatun_stream_wait_event(stream.handle(), event),
                            "stream_wait_event");
                    stream.read(MemorySegment.ofArray(values), copy.storage.buffer(), 0);
                });
        return values;
    }

    /**
     * Frees the copy, in stream order.
     *
     * @throws IllegalStateException the second time
     */
    @Override
    public void close() {
        copy.close();
        if (copy.device().isOpen()) {
            Native.check(GatunH.gatun_event_destroy(event), "event_destroy");
        }
    }
}
