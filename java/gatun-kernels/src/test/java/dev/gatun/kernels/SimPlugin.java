package dev.gatun.kernels;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * The functions of libgatun_sim.so beside the C ABI (native/src/sim/counters.cpp), once a device
 * "sim" is open.
 */
public final class SimPlugin {
    /** Which block, and which of several threads that may run, does so next. */
    enum Order {
        FORWARD,
        REVERSE,
        RANDOM
    }

    private SimPlugin() {}

    /** One of them. */
    public static MethodHandle function(String name, FunctionDescriptor descriptor) {
        return Linker.nativeLinker()
                .downcallHandle(
                        SymbolLookup.libraryLookup(loaded(), Arena.global()).findOrThrow(name),
                        descriptor);
    }

    // The very file that this process opened: another copy of it would have a state of its own.
    private static Path loaded() {
        try (var lines = Files.lines(Path.of("/proc/self/maps"))) {
            return lines.filter(line -> line.endsWith("/libgatun_sim.so"))
                    .map(line -> Path.of(line.substring(line.indexOf('/'))))
                    .findFirst()
                    .orElseThrow();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** All devices "sim" of this process run in this order from the next kernel on. */
    static void order(Order order, long seed) {
        try {
            function(
                            "gatun_sim_order",
                            FunctionDescriptor.ofVoid(ValueLayout.JAVA_INT, ValueLayout.JAVA_LONG))
                    .invokeExact(order.ordinal(), seed);
        } catch (Throwable e) {
            throw new IllegalStateException(e);
        }
    }
}
