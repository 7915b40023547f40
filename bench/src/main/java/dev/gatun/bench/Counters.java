package dev.gatun.bench;

import dev.gatun.kernels.Device;
import dev.gatun.kernels.GatunException;
import dev.gatun.kernels.OpCase;
import dev.gatun.kernels.OpCases;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Tape;
import dev.gatun.kernels.Tensor;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.regex.Pattern;

/**
 * {@code gatun bench --device sim --counters [PATTERN]}: what each kernel does for the ops at the
 * shapes of a GPT-2 124M step, counted by the simulated device.
 *
 * <p>Read and written: distinct bytes of global memory, what a machine with caches large enough
 * would move; of the ideal: their sum against the bytes of the op case, every operand and result
 * once (forward only). Reads: how often each distinct byte is asked for. Sectors: the share of the
 * 32-byte pieces touched that was asked for. Conflicts: wavefronts of shared memory against those
 * without bank conflicts.
 */
final class Counters {
    private static final long SEED = 20_261_125;

    /** Larger cases take more than some seconds: only when a pattern names them. */
    private static final double MOST_FLOPS = 4e9;

    private Counters() {}

    /** What an op case made the kernels do. */
    record Counted(OpCase of, List<SimCounters.Kernel> forward, List<SimCounters.Kernel> backward) {
        /** Distinct bytes of the forward pass against the ideal. */
        double traffic() {
            return forward.stream().mapToDouble(k -> k.distinctRead() + k.distinctWritten()).sum()
                    / of.bytes();
        }
    }

    public static void main(String[] arguments) {
        if (arguments.length > 1) {
            System.err.println("gatun: bench: --counters takes one pattern of op cases");
            System.exit(2);
        }
        Pattern pattern = Pattern.compile(arguments.length == 0 ? "" : arguments[0]);
        List<OpCase> chosen =
                OpCases.gpt2().stream()
                        .filter(c -> pattern.matcher(c.toString()).find())
                        .filter(c -> arguments.length == 1 || c.flops() < MOST_FLOPS)
                        .toList();
        if (chosen.isEmpty()) {
            System.err.printf(
                    "gatun: bench: no op case matches %s; there are %s%n", pattern, OpCases.gpt2());
            System.exit(1);
        }
        try (Device sim = Device.open("sim")) {
            table(sim, chosen, System.out);
        }
    }

    /** Prints a line for each kernel of each case. */
    static void table(Device sim, List<OpCase> cases, PrintStream out) {
        out.printf(
                "%-32s %8s %7s %12s %12s %8s %6s %8s %9s %10s %9s%n",
                "op case, pass, kernel",
                "launches",
                "blocks",
                "read",
                "written",
                "of ideal",
                "reads",
                "sectors",
                "conflicts",
                "mma",
                "barriers");
        for (OpCase c : cases) {
            Counted counted;
            try {
                counted = count(sim, c);
            } catch (GatunException e) {
                if (e.status() != GatunException.Status.UNSUPPORTED) {
                    throw e;
                }
                out.printf("%s: %s%n", c, e.getMessage());
                continue;
            }
            out.printf(Locale.ROOT, "%-65s %7.1f %%%n", c + ", forward", 100 * counted.traffic());
            counted.forward().forEach(k -> line(k, out));
            if (!counted.backward().isEmpty()) {
                out.printf("%s, backward%n", c);
                counted.backward().forEach(k -> line(k, out));
            }
        }
    }

    private static void line(SimCounters.Kernel k, PrintStream out) {
        out.printf(
                Locale.ROOT,
                "  %-30s %8d %7d %12d %12d %8s %6s %8s %9s %10d %9d%n",
                k.name(),
                k.launches(),
                k.blocks(),
                k.distinctRead(),
                k.distinctWritten(),
                "",
                ratio("%.2f", k.read(), k.distinctRead()),
                ratio("%.0f %%", 100 * (k.read() + k.written()), 32 * k.sectors()),
                ratio("%.2f", k.wavefronts(), k.phases()),
                k.mma(),
                k.barriers());
    }

    private static String ratio(String format, long of, long to) {
        return to == 0 ? "-" : String.format(Locale.ROOT, format, (double) of / to);
    }

    /** Runs the case forward, and on a tape backward. */
    static Counted count(Device sim, OpCase c) {
        SimCounters counters = new SimCounters(sim);
        List<Tensor> operands = new ArrayList<>();
        double[][] values = c.values(SEED);
        for (int i = 0; i < values.length; i++) {
            operands.add(c.operands().get(i).upload(sim, values[i]));
        }
        try {
            List<SimCounters.Kernel> forward;
            try (Ops ops = sim.ops()) {
                sim.await(); // what an earlier case left
                counters.start();
                c.forward().run(ops, operands);
                ops.await();
                forward = counters.read();
            }
            return new Counted(
                    c,
                    forward,
                    c.differentiable() ? backward(sim, c, operands, counters) : List.of());
        } finally {
            counters.stop();
            operands.forEach(Tensor::close);
        }
    }

    private static List<SimCounters.Kernel> backward(
            Device sim, OpCase c, List<Tensor> operands, SimCounters counters) {
        try (Tape tape = sim.tape()) {
            for (int i = 0; i < operands.size(); i++) {
                if (c.operands().get(i).trained()) {
                    tape.watch(operands.get(i));
                }
            }
            Tensor y = c.forward().run(tape, operands).getFirst();
            Tensor dy = tape.empty(y.dtype(), y.shape());
            float[] upstream = new float[(int) y.elements()];
            for (int i = 0; i < upstream.length; i++) {
                upstream[i] = (float) ((i * 37 % 64) / 32.0 - 1);
            }
            dy.write(upstream);
            tape.await();
            counters.start();
            if (y.rank() == 0) {
                tape.backward(y);
            } else {
                tape.backward(y, dy);
            }
            tape.await();
            return counters.read();
        }
    }
}
