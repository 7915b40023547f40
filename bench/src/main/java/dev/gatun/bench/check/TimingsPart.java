package dev.gatun.bench.check;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.DeviceTime;
import dev.gatun.kernels.GatunException;
import dev.gatun.kernels.OpCase;
import dev.gatun.kernels.OpCases;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;

/** Device time of the ops, by events: at sizes that fill the machine, and at GPT-2's. */
final class TimingsPart {
    private static final double CACHE_OF_HOST = 64e6;

    private final Device device;
    private final String only;
    private final double cacheBytes;
    private final double copyGbPerSec; // 0: not known
    private final TreeSet<String> missing = new TreeSet<>();

    private int at; // of all rows
    private int from; // those before were measured, or killed the process that tried

    private TimingsPart(Device device, String only, double cacheBytes, double copyGbPerSec) {
        this.device = device;
        this.only = only;
        this.cacheBytes = cacheBytes;
        this.copyGbPerSec = copyGbPerSec;
    }

    /** What later figures are held against. */
    record Ceiling(double cacheBytes, double copyGbPerSec) {
        static Ceiling of(Options options, Device device) {
            if (!options.kind().equals("cuda")) {
                return new Ceiling(options.kind().equals("sim") ? 1 : CACHE_OF_HOST, 0);
            }
            long bytes = 1L << 30;
            try (Cuda cuda = new Cuda();
                    Tensor from = Tensor.empty(device, DType.I32, Purpose.OTHER, bytes / 4);
                    Tensor to = Tensor.empty(device, DType.I32, Purpose.OTHER, bytes / 4)) {
                device.await();
                return new Ceiling(
                        cuda.cacheBytes(),
                        cuda.copyGbPerSec(to.deviceAddress(), from.deviceAddress(), bytes));
            } catch (IllegalArgumentException | IllegalStateException e) {
                Speech.notRun("copy bandwidth by the driver: " + Speech.sentence(e));
                return new Ceiling(CACHE_OF_HOST, 0);
            }
        }
    }

    static void run(Options options, Device device, int from) {
        Ceiling ceiling = Ceiling.of(options, device);
        if (ceiling.copyGbPerSec() > 0) {
            Speech.say(
                    "Device-to-device copy of 1 GiB: %,.0f GB/s, read and written; L2 %.0f MB."
                            .formatted(ceiling.copyGbPerSec(), ceiling.cacheBytes() / 1e6));
            Speech.figure("copy", Map.of("gbPerSec", ceiling.copyGbPerSec()));
        }
        if (options.kind().equals("cuda")) {
            hostCopies(device);
        }
        if (options.kind().equals("sim")) {
            Speech.say("Simulated: the times say that the way of measuring works, and no more.");
        }
        var part =
                new TimingsPart(
                        device, options.only(), ceiling.cacheBytes(), ceiling.copyGbPerSec());
        part.from = from;
        part.run(options.kind());
        if (options.kind().equals("cuda")) {
            Speech.say("Just after: " + Facts.clocks());
        }
    }

    /** Ours go through pinned memory of ours, the driver's through its own. */
    private static void hostCopies(Device device) {
        int n = 64 << 20;
        float[] values = new float[n];
        try (Cuda cuda = new Cuda();
                Arena arena = Arena.ofConfined();
                Tensor tensor = Tensor.empty(device, DType.F32, Purpose.OTHER, n)) {
            double[] driver =
                    cuda.hostCopyGbPerSec(
                            tensor.deviceAddress(), arena.allocate(ValueLayout.JAVA_FLOAT, n));
            double bytes = 4.0 * n;
            double write =
                    bytes
                            / Cuda.wallNanos(() -> {
                                tensor.write(values);
                                device.await();
                            });
            double read = bytes / Cuda.wallNanos(tensor::toFloats);
            Speech.say(
                    "Host copies of 256 MiB: a Java array to the device %.1f GB/s, back %.1f; the driver's of off-heap memory %.1f, %.1f."
                            .formatted(write, read, driver[0], driver[1]));
            Speech.figure(
                    "host copies",
                    Map.of(
                            "writeGbPerSec",
                            write,
                            "readGbPerSec",
                            read,
                            "driverWriteGbPerSec",
                            driver[0],
                            "driverReadGbPerSec",
                            driver[1]));
        } catch (IllegalArgumentException | IllegalStateException e) {
            Speech.notRun("copies from and to the host: " + Speech.sentence(e));
        }
    }

    private void run(String kind) {
        Speech.say("");
        Speech.say("| op | µs | GB/s | of the copy | TFLOP/s |");
        Speech.say("|---|---|---|---|---|");
        for (Workload work : Workload.all(kind)) {
            if (work.op().startsWith(only)) {
                row(
                        work.name(),
                        work.op(),
                        work.bytes(),
                        work.flops(),
                        () -> work.millis(device, cacheBytes));
            }
        }
        if (!kind.equals("sim")) {
            for (OpCase c : OpCases.gpt2()) {
                if (OpsPart.concerns(c, only)) {
                    row("GPT-2: " + c, OpsPart.ops(c), c.bytes(), c.flops(), () -> millis(c));
                }
            }
        }
        Speech.say("");
        missing.forEach(Speech::notRun);
    }

    private interface Measured {
        double millis();
    }

    private void row(String name, String op, double bytes, double flops, Measured work) {
        if (at++ < from) {
            return;
        }
        Speech.at(at - 1, name);
        double millis;
        try {
            millis = work.millis();
        } catch (GatunException e) {
            if (e.status() == GatunException.Status.UNSUPPORTED
                    || e.status() == GatunException.Status.OUT_OF_MEMORY) {
                missing.add("%s: %s".formatted(op, Speech.sentence(e)));
                return;
            }
            Speech.wrong("%s: %s".formatted(name, Speech.sentence(e)));
            if (e.status() == GatunException.Status.DEVICE_FAULT
                    && device.name().startsWith("cuda")) {
                Speech.goOn();
            }
            return;
        }
        double gbPerSec = bytes / millis / 1e6;
        double tflops = flops / millis / 1e9;
        Speech.say(
                "| %s | %,.1f | %,.1f | %s | %.3f |"
                        .formatted(
                                name,
                                millis * 1e3,
                                gbPerSec,
                                copyGbPerSec == 0
                                        ? ""
                                        : "%.0f %%".formatted(100 * gbPerSec / copyGbPerSec),
                                tflops));
        Map<String, @Nullable Object> figure = new LinkedHashMap<>();
        figure.put("micros", millis * 1e3);
        figure.put("gbPerSec", gbPerSec);
        figure.put("tflops", tflops);
        Speech.figure(name, figure);
    }

    /** A GPT-2 shape fits the cache as it does in a model: one set of operands. */
    private double millis(OpCase c) {
        double[][] values = c.values(1);
        List<Tensor> operands = new ArrayList<>();
        try (Ops ops = device.ops();
                DeviceTime time = new DeviceTime(device)) {
            for (int i = 0; i < values.length; i++) {
                operands.add(c.operands().get(i).upload(device, values[i]));
            }
            double[] samples = new double[5];
            int calls = 1;
            for (int s = -2; s < samples.length; s++) {
                int n = calls;
                double each =
                        time.millis(
                                        ops,
                                        () -> {
                                            for (int i = 0; i < n; i++) {
                                                try (Ops scope = ops.scope()) {
                                                    c.forward().run(scope, operands);
                                                }
                                            }
                                        })
                                / n;
                if (s < 0) {
                    calls = (int) Math.clamp(10 / Math.max(1e-3, each), 1, 500);
                } else {
                    samples[s] = each;
                }
            }
            Arrays.sort(samples);
            return samples[samples.length / 2];
        } finally {
            operands.forEach(Tensor::close);
        }
    }
}
