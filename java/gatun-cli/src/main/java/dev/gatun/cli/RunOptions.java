package dev.gatun.cli;

import dev.gatun.kernels.Device;
import java.io.PrintWriter;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/** The options that every computing verb has. */
final class RunOptions extends HelpOptions {
    @Option(
            names = "--device",
            paramLabel = "DEVICE",
            order = 90,
            description =
                    "cpu, cuda, cuda:N, or sim: the GPU's kernels on this processor, slowly"
                            + " (default: cuda where there is a GPU, else cpu)")
    private @Nullable String device;

    @Option(
            names = "--profile",
            order = 91,
            description = "print what each op cost: calls, time, share, GB/s, GFLOP/s")
    private boolean profile;

    Device open() {
        Device opened = device == null ? Device.best() : Device.open(device);
        opened.profile(profile);
        return opened;
    }

    /** The device in a line: which, what it is, and why it and no other. */
    String line(Device opened) {
        String what = "%s: %s".formatted(opened.name(), opened.description());
        return device == null && opened.name().equals("cpu")
                ? "%s%n           (%s)".formatted(what, opened.reason())
                : what;
    }

    /** Prints the table of {@code --profile}, if it was asked for. */
    void printProfile(Device opened, PrintWriter out) {
        if (!profile) {
            return;
        }
        var entries = opened.profile();
        double total = Math.max(1, entries.stream().mapToLong(Device.OpProfile::nanos).sum());
        out.printf(
                "%n%-24s %10s %11s %7s %9s %10s%n",
                "op", "calls", "ms", "share", "GB/s", "GFLOP/s");
        for (var entry : entries) {
            double nanos = Math.max(1, entry.nanos());
            out.printf(
                    "%-24s %,10d %,11.1f %6.1f%% %9.1f %10.1f%n",
                    entry.op(),
                    entry.calls(),
                    entry.nanos() / 1e6,
                    100 * entry.nanos() / total,
                    entry.bytes() / nanos,
                    entry.flops() / nanos);
        }
        out.printf("%-24s %10s %,11.1f%n", "all ops", "", total / 1e6);
        out.flush();
    }
}
