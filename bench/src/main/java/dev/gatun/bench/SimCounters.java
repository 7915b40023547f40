package dev.gatun.bench;

import dev.gatun.kernels.Device;
import dev.gatun.kernels.SimPlugin;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.ArrayList;
import java.util.List;
import java.util.function.ToLongFunction;

/**
 * What the kernels of the simulated device did: two functions of libgatun_sim.so beside the C ABI
 * (native/src/sim/counters.cpp).
 */
final class SimCounters {
    /**
     * A kernel, by the name that it is launched by, in all its launches.
     *
     * @param distinctRead bytes of global memory that a launch read at least once
     * @param read all bytes that it asked for
     * @param sectors pieces of 32 bytes that its requests touched
     * @param wavefronts cycles of shared memory
     * @param phases those that it would take if no two lanes met in a bank
     */
    record Kernel(
            String name,
            long launches,
            long blocks,
            long barriers,
            long mma,
            long distinctRead,
            long distinctWritten,
            long read,
            long written,
            long requests,
            long sectors,
            long wavefronts,
            long phases) {}

    private final MethodHandle count;
    private final MethodHandle counters;

    /** Those of an open device "sim". */
    SimCounters(Device sim) {
        if (!sim.name().startsWith("sim")) {
            throw new IllegalArgumentException("only sim counts, not " + sim.name());
        }
        count =
                SimPlugin.function(
                        "gatun_sim_count", FunctionDescriptor.ofVoid(ValueLayout.JAVA_INT));
        counters =
                SimPlugin.function(
                        "gatun_sim_counters",
                        FunctionDescriptor.of(
                                ValueLayout.JAVA_LONG, ValueLayout.ADDRESS, ValueLayout.JAVA_LONG));
    }

    /** Counts from here on, from 0. */
    void start() {
        count(1);
    }

    /** No longer counts, and forgets what was counted: {@link #read} before. */
    void stop() {
        count(0);
    }

    private void count(int on) {
        try {
            count.invokeExact(on);
        } catch (Throwable e) {
            throw new IllegalStateException(e);
        }
    }

    /** The kernels that ran since {@link #start}, by name. */
    List<Kernel> read() {
        String text;
        try (Arena arena = Arena.ofConfined()) {
            long bytes = (long) counters.invokeExact(MemorySegment.NULL, 0L);
            MemorySegment into = arena.allocate(bytes);
            long again = (long) counters.invokeExact(into, bytes);
            if (again != bytes) {
                throw new IllegalStateException("kernels run while their counters are read");
            }
            text = into.getString(0);
        } catch (RuntimeException e) {
            throw e;
        } catch (Throwable e) {
            throw new IllegalStateException(e);
        }
        List<String> lines = text.lines().toList();
        List<String> names = List.of(lines.getFirst().split("\t"));
        List<Kernel> kernels = new ArrayList<>();
        for (String line : lines.subList(1, lines.size())) {
            String[] fields = line.split("\t");
            ToLongFunction<String> field = name -> Long.parseLong(fields[names.indexOf(name)]);
            kernels.add(
                    new Kernel(
                            fields[0],
                            field.applyAsLong("launches"),
                            field.applyAsLong("blocks"),
                            field.applyAsLong("barriers"),
                            field.applyAsLong("mma"),
                            field.applyAsLong("distinct_read"),
                            field.applyAsLong("distinct_written"),
                            field.applyAsLong("read"),
                            field.applyAsLong("written"),
                            field.applyAsLong("requests"),
                            field.applyAsLong("sectors"),
                            field.applyAsLong("wavefronts"),
                            field.applyAsLong("phases")));
        }
        return kernels;
    }
}
