package dev.gatun.cli;

import dev.gatun.kernels.Device;
import java.io.PrintWriter;
import java.util.Locale;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine;
import picocli.CommandLine.Option;

/** The options that every computing verb has. */
final class RunOptions {
    @Option(
            names = "--device",
            paramLabel = "DEVICE",
            description = "cpu, cuda or cuda:N (default: cuda where there is a GPU, else cpu)")
    private @Nullable String device;

    @Option(
            names = "--profile",
            description = "print at the end what each op cost: calls, time, share, GB/s, GFLOP/s")
    private boolean profile;

    @Option(names = "--stacktrace", description = "show where in the program a failure came from")
    private boolean stackTrace;

    Device open() {
        Device opened = device == null ? Device.best() : Device.open(device);
        opened.profile(profile);
        return opened;
    }

    /** Whether the failed command was asked to show where it failed. */
    static boolean wantsStackTrace(CommandLine command) {
        var result = command.getParseResult();
        return result != null && result.hasMatchedOption("--stacktrace");
    }

    /** Prints the table of {@code --profile}, if it was asked for. */
    void printProfile(Device device, PrintWriter out) {
        if (!profile) {
            return;
        }
        var entries = device.profile();
        double total = Math.max(1, entries.stream().mapToLong(Device.OpProfile::nanos).sum());
        out.printf(
                "%n%-22s %10s %11s %7s %9s %10s%n",
                "op", "calls", "ms", "share", "GB/s", "GFLOP/s");
        for (var entry : entries) {
            double nanos = Math.max(1, entry.nanos());
            out.printf(
                    Locale.ROOT,
                    "%-22s %,10d %,11.1f %6.1f%% %9.1f %10.1f%n",
                    entry.op(),
                    entry.calls(),
                    entry.nanos() / 1e6,
                    100 * entry.nanos() / total,
                    entry.bytes() / nanos,
                    entry.flops() / nanos);
        }
        out.flush();
    }
}
