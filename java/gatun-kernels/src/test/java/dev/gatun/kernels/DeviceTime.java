package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/** Time that the device itself took, between two events on the stream of an Ops. */
public final class DeviceTime implements AutoCloseable {
    private final Arena arena = Arena.ofConfined();
    private final long start;
    private final long end;

    public DeviceTime(Device device) {
        start = event(device);
        end = event(device);
    }

    private long event(Device device) {
        MemorySegment made = arena.allocate(ValueLayout.JAVA_LONG);
        Native.check(GatunH.gatun_event_create(device.handle(), made), "event_create");
        return made.get(ValueLayout.JAVA_LONG, 0);
    }

    /** Milliseconds from what was enqueued on {@code ops} before to the end of {@code work}. */
    public double millis(Ops ops, Runnable work) {
        Native.check(GatunH.gatun_event_record(start, ops.stream.handle()), "event_record");
        work.run();
        Native.check(GatunH.gatun_event_record(end, ops.stream.handle()), "event_record");
        MemorySegment millis = arena.allocate(ValueLayout.JAVA_DOUBLE);
        Native.check(GatunH.gatun_event_elapsed(start, end, millis), "event_elapsed");
        return millis.get(ValueLayout.JAVA_DOUBLE, 0);
    }

    @Override
    public void close() {
        Native.check(GatunH.gatun_event_destroy(start), "event_destroy");
        Native.check(GatunH.gatun_event_destroy(end), "event_destroy");
        arena.close();
    }
}
