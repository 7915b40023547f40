package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import dev.gatun.kernels.internal.gatun_device_info;
import dev.gatun.kernels.internal.gatun_device_options;
import dev.gatun.kernels.internal.gatun_profile_entry;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.function.Function;

/**
 * Where tensors live and ops run: the processor, or a GPU. Threads may share a device; an {@link
 * Ops} or {@link Tape} belongs to one thread at a time.
 *
 * <p>All work goes to one stream and runs in the order in which it was submitted: an op enqueues
 * and returns. A fault that shows only during execution, such as an id beyond the vocabulary, is
 * thrown by the next call that waits.
 */
public final class Device implements AutoCloseable {
    private static final System.Logger LOG = System.getLogger("dev.gatun.kernels");

    /**
     * A device's memory, in bytes.
     *
     * @param usedBytes live buffers and workspaces
     * @param reservedBytes used, and what the allocator keeps for the next tensors
     * @param peakBytes the largest usedBytes since opening or {@link Device#resetPeak()}
     * @param budgetBytes what the allocator may take
     * @param buffers how many buffers are alive
     */
    public record Memory(
            long usedBytes, long reservedBytes, long peakBytes, long budgetBytes, long buffers) {}

    /**
     * What an op cost since {@link Device#profile(boolean)}.
     *
     * @param op the name of its C function without gatun_
     * @param calls how often it ran
     * @param nanos device time
     * @param bytes ideal traffic: every operand once
     * @param flops floating-point operations of its definition
     */
    public record OpProfile(String op, long calls, long nanos, double bytes, double flops) {}

    /**
     * A device that could be here.
     *
     * @param name what {@link Device#open(String)} takes
     * @param here whether it is
     * @param description what it is, or why there is none
     */
    public record Availability(String name, boolean here, String description) {}

    final Descriptors descriptors = new Descriptors(null);
    final Leaks leaks = new Leaks();
    final AtomicInteger scopes = new AtomicInteger();
    final boolean canaries = Boolean.getBoolean("gatun.canaries");
    private final long handle;
    private final String name;
    private final String description;
    private final String reason;
    private final Deque<Stream> idle = new ArrayDeque<>();
    private final Deque<Stream> idleCapturing = new ArrayDeque<>();
    private final long stream;
    private final Stream transfer;
    private final Stream reading;
    private volatile boolean open = true;
    private volatile boolean profiling;

    private Device(long handle, String reason) {
        this.handle = handle;
        this.reason = reason;
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment info = info(arena);
            this.name = gatun_device_info.name(info).getString(0);
            this.description = gatun_device_info.description(info).getString(0);
        }
        this.stream = Stream.create(this);
        this.transfer = new Stream(this);
        this.reading = Stream.apart(this);
    }

    /**
     * Opens "cpu", "cuda", "cuda:1" or "sim" with {@link DeviceOptions#defaults()}.
     *
     * @throws GatunException UNAVAILABLE with the reason where there is no such device
     */
    public static Device open(String name) {
        return open(name, DeviceOptions.defaults());
    }

    /** Opens a device with these options. */
    public static Device open(String name, DeviceOptions options) {
        return open(name, options, "asked for by name");
    }

    /**
     * Opens the best device of this machine: cuda where there is a GPU and this build has every op
     * for it, else cpu. Which one and why is logged and is {@link #reason()}.
     */
    public static Device best() {
        Device device;
        try {
            device = open("cuda", DeviceOptions.defaults(), "there is a GPU");
            int missing = device.missingOps();
            if (missing > 0) {
                String reason =
                        "%s has no kernel yet for %d of the ops; ask for it by name to use the others"
                                .formatted(device.name, missing);
                device.close();
                device = open("cpu", DeviceOptions.defaults(), reason);
            }
        } catch (GatunException e) {
            if (e.status() == GatunException.Status.UNAVAILABLE && e.op().equals("load")) {
                throw e;
            }
            device = open("cpu", DeviceOptions.defaults(), String.valueOf(e.getMessage()));
        }
        LOG.log(
                System.Logger.Level.INFO,
                "device {0} ({1}): {2}",
                device.name,
                device.description,
                device.reason);
        return device;
    }

    private int missingOps() {
        try (Arena arena = Arena.ofConfined()) {
            return gatun_device_info.ops_missing(info(arena));
        }
    }

    /** The devices that this build knows, and why one is not here. */
    public static List<Availability> available() {
        List<Availability> all = new ArrayList<>();
        for (String name : List.of("cuda", "cpu")) {
            try (Device device = open(name)) {
                all.add(new Availability(device.name, true, device.description));
            } catch (GatunException e) {
                all.add(new Availability(name, false, String.valueOf(e.getMessage())));
            }
        }
        return all;
    }

    /** Version and build of the native library. */
    public static String version() {
        return Native.version();
    }

    private static Device open(String name, DeviceOptions options, String reason) {
        Native.load();
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment asked = arena.allocate(gatun_device_options.layout());
            gatun_device_options.struct_size(asked, (int) asked.byteSize());
            gatun_device_options.threads(asked, options.threads());
            gatun_device_options.simd(asked, options.simd().code());
            gatun_device_options.memory_budget_bytes(asked, options.memoryBudgetBytes());
            MemorySegment result = arena.allocate(ValueLayout.JAVA_LONG);
            Native.check(
                    GatunH.gatun_device_open(arena.allocateFrom(name), asked, result),
                    "device_open");
            return new Device(result.get(ValueLayout.JAVA_LONG, 0), reason);
        }
    }

    /** "cpu", "cuda:0". */
    public String name() {
        return name;
    }

    /** What it is: "Intel Xeon, AVX-512, 2 threads, oneDNN 3.13". */
    public String description() {
        return description;
    }

    /** Why this device and no other. */
    public String reason() {
        return reason;
    }

    /** The compute threads of a cpu device. */
    public int threads() {
        try (Arena arena = Arena.ofConfined()) {
            return gatun_device_info.threads(info(arena));
        }
    }

    /** The instruction set in use; BEST where that has no meaning. */
    public DeviceOptions.Simd simd() {
        try (Arena arena = Arena.ofConfined()) {
            return DeviceOptions.Simd.values()[gatun_device_info.simd(info(arena))];
        }
    }

    /** What of its memory is in use. */
    public Memory memory() {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment info = info(arena);
            return new Memory(
                    gatun_device_info.memory_used_bytes(info),
                    gatun_device_info.memory_reserved_bytes(info),
                    gatun_device_info.memory_peak_bytes(info),
                    gatun_device_info.memory_budget_bytes(info),
                    gatun_device_info.buffers(info));
        }
    }

    /** Starts the peak anew at what is used now. */
    public void resetPeak() {
        Native.check(GatunH.gatun_device_reset_peak(handle()), "device_reset_peak");
    }

    /** Waits, then gives memory that the allocator keeps back to the system. */
    public void trim() {
        Native.check(GatunH.gatun_device_trim(handle()), "device_trim");
    }

    /** Waits for all work of the device and throws its first pending fault. */
    public void await() {
        Native.check(GatunH.gatun_device_wait(handle()), "device_wait");
    }

    /** Whether the profile is being recorded. */
    public boolean profiling() {
        return profiling;
    }

    /** Starts, from zero, or stops the profile; it leaves out what a {@link Graph} runs. */
    public void profile(boolean on) {
        profiling = on;
        Native.check(GatunH.gatun_profile_enable(handle(), on ? 1 : 0), "profile_enable");
    }

    /** What each op cost since the profile was started, longest time first; waits. */
    public List<OpProfile> profile() {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment count = arena.allocate(ValueLayout.JAVA_INT);
            Native.check(
                    GatunH.gatun_profile_read(handle(), MemorySegment.NULL, 0, count),
                    "profile_read");
            // ops of other threads may join between the two calls
            int capacity = count.get(ValueLayout.JAVA_INT, 0) + 8;
            MemorySegment entries = gatun_profile_entry.allocateArray(capacity, arena);
            Native.check(
                    GatunH.gatun_profile_read(handle(), entries, capacity, count), "profile_read");
            List<OpProfile> all = new ArrayList<>();
            for (int i = 0; i < Math.min(capacity, count.get(ValueLayout.JAVA_INT, 0)); i++) {
                MemorySegment entry = gatun_profile_entry.asSlice(entries, i);
                all.add(
                        new OpProfile(
                                gatun_profile_entry.op(entry).getString(0),
                                gatun_profile_entry.calls(entry),
                                gatun_profile_entry.nanos(entry),
                                gatun_profile_entry.bytes(entry),
                                gatun_profile_entry.flops(entry)));
            }
            return all;
        }
    }

    /** A scope on the device's stream; random numbers of seed 0. */
    public Ops ops() {
        return ops(Rng.of(0));
    }

    /** A scope on the device's stream with these random numbers. */
    public Ops ops(Rng rng) {
        return new Ops(take(), rng);
    }

    /** An Ops that remembers; random numbers of seed 0. */
    public Tape tape() {
        return tape(Rng.of(0));
    }

    /** An Ops that remembers, with these random numbers. */
    public Tape tape(Rng rng) {
        return new Tape(take(), rng);
    }

    /**
     * Waits for the device's work, then closes it; tensors and Ops that are still open die with it
     * and are reported on the log.
     *
     * @throws IllegalStateException if it is closed already
     */
    @Override
    public synchronized void close() {
        if (!open) {
            throw new IllegalStateException(name + " is closed already");
        }
        leaks.report(this);
        open = false;
        Native.check(GatunH.gatun_device_close(handle), "device_close");
    }

    @Override
    public String toString() {
        return name;
    }

    long handle() {
        if (!open) {
            throw new IllegalStateException(name + " is closed");
        }
        return handle;
    }

    /**
     * The one native stream of all Ops: work runs in the order in which it was submitted, whichever
     * thread did it (docs/decisions/0006).
     */
    long stream() {
        return stream;
    }

    boolean isOpen() {
        return open;
    }

    /** Whether host code can reach its memory. */
    boolean hostMemory() {
        return name.equals("cpu");
    }

    /** Does something on the stream that no Ops owns; one thread at a time. */
    <T> T transfer(Function<Stream, T> work) {
        synchronized (transfer) {
            handle();
            return work.apply(transfer);
        }
    }

    /** Does something beside the device's stream; one thread at a time. */
    void beside(Consumer<Stream> work) {
        synchronized (reading) {
            handle();
            work.accept(reading);
        }
    }

    private Stream take() {
        handle();
        Stream stream;
        synchronized (idle) {
            stream = idle.poll();
        }
        if (stream == null) {
            stream = new Stream(this);
        }
        stream.adopt(Thread.currentThread());
        return stream;
    }

    /** A native stream of its own for a capture; an Ops that closes does not give it back. */
    Stream takeCapturing() {
        handle();
        Stream stream;
        synchronized (idleCapturing) {
            stream = idleCapturing.poll();
        }
        if (stream == null) {
            stream = Stream.apart(this);
        }
        stream.adopt(Thread.currentThread());
        return stream;
    }

    void giveCapturing(Stream stream) {
        stream.adopt(null);
        synchronized (idleCapturing) {
            idleCapturing.push(stream);
        }
    }

    void give(Stream stream) {
        stream.adopt(null);
        if (stream.apart()) {
            return;
        }
        synchronized (idle) {
            idle.push(stream);
        }
    }

    private MemorySegment info(Arena arena) {
        MemorySegment info = arena.allocate(gatun_device_info.layout());
        gatun_device_info.struct_size(info, (int) info.byteSize());
        Native.check(GatunH.gatun_device_get_info(handle(), info), "device_get_info");
        return info;
    }
}
