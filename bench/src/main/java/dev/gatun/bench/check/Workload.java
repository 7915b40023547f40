package dev.gatun.bench.check;

import dev.gatun.kernels.AdamW;
import dev.gatun.kernels.Attention;
import dev.gatun.kernels.CrossEntropy;
import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.DeviceTime;
import dev.gatun.kernels.Mask;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tape;
import dev.gatun.kernels.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.function.BiFunction;

/**
 * One op at one size, as it is timed: several sets of random operands, so that a set has left the
 * cache when its turn comes again.
 *
 * @param name as the peers call it too
 * @param op what a device may lack
 * @param bytes ideal traffic: each operand and result once
 * @param flops of the op's definition
 * @param operands makes one set
 * @param forward the op, on an Ops or a Tape
 * @param backward whether its backward pass is what is timed
 */
record Workload(
        String name,
        String op,
        double bytes,
        double flops,
        BiFunction<Device, SplittableRandom, List<Tensor>> operands,
        Forward forward,
        boolean backward) {

    /** Runs the op. */
    interface Forward {
        Tensor run(Ops ops, List<Tensor> operands);
    }

    private static final long SEED = 20_261_125;
    private static final double SAMPLE_MILLIS = 20;
    private static final int SAMPLES = 7;

    /** At sizes where a GPU is busy, or at sizes that a host does in its time. */
    static List<Workload> all(String kind) {
        boolean gpu = kind.equals("cuda");
        boolean sim = kind.equals("sim");
        List<Workload> all = new ArrayList<>();
        int[][] rows =
                gpu
                        ? new int[][] {{32768, 768}, {32768, 1024}, {16384, 4096}, {8192, 8192}}
                        : sim ? new int[][] {{64, 768}} : new int[][] {{1024, 768}};
        for (DType d : List.of(DType.BF16, DType.F32)) {
            for (int[] r : rows) {
                all.add(layerNorm(d, r[0], r[1], false));
                all.add(layerNorm(d, r[0], r[1], true));
            }
        }
        int[] sides = gpu ? new int[] {4096, 8192} : sim ? new int[] {128} : new int[] {1024};
        for (int n : sides) {
            all.add(matmul(DType.BF16, n));
        }
        all.add(matmul(DType.F32, sides[0]));
        int[] times = gpu ? new int[] {2048, 4096, 8192} : sim ? new int[] {64} : new int[] {512};
        for (int t : times) {
            // 16k tokens in all, as the papers do
            int batch = gpu ? 16384 / t : 1;
            int heads = gpu ? 16 : 2;
            all.add(attention("forward", batch, heads, t, 128));
            all.add(attention("backward", batch, heads, t, 128));
            all.add(attention("backward dq_atomic", batch, heads, t, 128));
        }
        all.add(
                gpu
                        ? crossEntropy(8192, 50257)
                        : sim ? crossEntropy(8, 257) : crossEntropy(64, 50257));
        all.add(gpu ? decode(32, 32, 8, 32) : sim ? decode(1, 2, 1, 1) : decode(4, 8, 2, 4));
        all.add(adamw(gpu ? 1 << 26 : sim ? 1 << 10 : 1 << 20));
        return all;
    }

    private static Workload layerNorm(DType d, long rows, long columns, boolean backward) {
        double each = (double) rows * columns * d.bytes();
        return new Workload(
                "layer_norm_%s %s %dx%d".formatted(pass(backward), d, rows, columns),
                "layer_norm_" + pass(backward),
                backward ? 3 * each : 2 * each,
                (backward ? 14.0 : 9.0) * rows * columns,
                (device, random) ->
                        List.of(
                                random(device, d, random, rows, columns),
                                random(device, d, random, columns),
                                random(device, d, random, columns)),
                (ops, in) -> ops.layerNorm(in.get(0), in.get(1), in.get(2), 1e-5),
                backward);
    }

    static Workload matmul(DType d, long n) {
        return new Workload(
                "matmul %s %dx%dx%d".formatted(d, n, n, n),
                "matmul",
                3.0 * n * n * d.bytes(),
                2.0 * n * n * n,
                (device, random) ->
                        List.of(random(device, d, random, n, n), random(device, d, random, n, n)),
                (ops, in) -> ops.matmul(in.get(0), in.get(1)),
                false);
    }

    private static Workload attention(String pass, long b, long h, long t, long width) {
        boolean backward = !pass.equals("forward");
        Attention.Options options =
                pass.endsWith("dq_atomic")
                        ? Attention.Options.DQ_ATOMIC
                        : Attention.Options.DEFAULT;
        double forward = 4.0 * b * h * t * t * width / 2;
        return new Workload(
                "attention_%s bf16 causal B=%d H=%d T=%d D=%d".formatted(pass, b, h, t, width),
                "attention_" + pass(backward),
                (backward ? 8.0 : 4.0) * b * h * t * width * 2,
                backward ? 2.5 * forward : forward,
                (device, random) ->
                        List.of(
                                random(device, DType.BF16, random, b, h, t, width),
                                random(device, DType.BF16, random, b, h, t, width),
                                random(device, DType.BF16, random, b, h, t, width)),
                (ops, in) -> ops.attention(in.get(0), in.get(1), in.get(2), Mask.CAUSAL, options),
                backward);
    }

    private static Workload crossEntropy(long rows, int vocabulary) {
        return new Workload(
                "cross_entropy bf16 %dx%d".formatted(rows, vocabulary),
                "cross_entropy",
                1.0 * rows * vocabulary * 2,
                6.0 * rows * vocabulary,
                (device, random) ->
                        List.of(
                                random(device, DType.BF16, random, rows, vocabulary),
                                Tensor.of(
                                        device, random.ints(rows, 0, vocabulary).toArray(), rows)),
                (ops, in) ->
                        ops.crossEntropy(in.get(0), in.get(1), CrossEntropy.Options.DEFAULT, null),
                false);
    }

    /** One new token of each of b texts, each over `pages` full pages of 128 tokens. */
    private static Workload decode(int b, int heads, int kvHeads, int pages) {
        int slots = 128;
        int width = 128;
        double elements = 2.0 * b * kvHeads * pages * slots * width;
        return new Workload(
                "attention_decode bf16 B=%d H=%d/%d T=%d D=%d"
                        .formatted(b, heads, kvHeads, pages * slots, width),
                "attention_decode",
                elements * DType.BF16.bytes(),
                2 * elements * heads / kvHeads,
                (device, random) -> {
                    int[] table = new int[b * pages];
                    int[] lengths = new int[b];
                    Arrays.setAll(table, i -> table.length - 1 - i);
                    Arrays.fill(lengths, pages * slots - 1);
                    return List.of(
                            random(device, DType.BF16, random, b, heads, 1, width),
                            random(
                                    device,
                                    DType.BF16,
                                    random,
                                    (long) b * pages,
                                    kvHeads,
                                    slots,
                                    width),
                            random(
                                    device,
                                    DType.BF16,
                                    random,
                                    (long) b * pages,
                                    kvHeads,
                                    slots,
                                    width),
                            Tensor.of(device, table, b, pages),
                            Tensor.of(device, lengths, b));
                },
                (ops, in) ->
                        ops.attentionDecode(
                                in.get(0), in.get(1), in.get(2), in.get(3), in.get(4), 0),
                false);
    }

    private static Workload adamw(int n) {
        return new Workload(
                "adamw f32 %d".formatted(n),
                "adamw",
                28.0 * n,
                12.0 * n,
                (device, random) ->
                        List.of(
                                random(device, DType.F32, random, n),
                                random(device, DType.F32, random, n),
                                random(device, DType.F32, random, n),
                                squares(device, random, n),
                                Tensor.of(device, new float[] {1e-4f}),
                                Tensor.of(device, new long[] {100}),
                                Tensor.of(device, new float[] {0.5f})),
                (ops, in) -> {
                    var entry = new AdamW.Entry(in.get(0), in.get(1), in.get(2), in.get(3), null);
                    ops.adamw(
                            AdamW.Options.DEFAULT,
                            in.get(4),
                            in.get(5),
                            in.get(6),
                            new AdamW.Group(List.of(entry), 0.1));
                    return in.getFirst();
                },
                false);
    }

    private static Tensor squares(Device device, SplittableRandom random, long n) {
        float[] values = noise(random, n);
        for (int i = 0; i < values.length; i++) {
            values[i] *= values[i];
        }
        return Tensor.of(device, values, n);
    }

    private static String pass(boolean backward) {
        return backward ? "backward" : "forward";
    }

    /** Median device time of one call in milliseconds. */
    double millis(Device device, double cacheBytes) {
        try (Sampler sampler = new Sampler(device, cacheBytes)) {
            double[] samples = new double[SAMPLES];
            Arrays.setAll(samples, _ -> sampler.millis());
            return median(samples);
        }
    }

    static double median(double[] samples) {
        Arrays.sort(samples);
        return samples[samples.length / 2];
    }

    /** Sets of operands on a device, and the op on one after another. */
    final class Sampler implements AutoCloseable {
        private final Ops ops;
        private final DeviceTime time;
        private final List<List<Tensor>> all = new ArrayList<>();
        private int calls = 1;

        Sampler(Device device, double cacheBytes) {
            ops = device.ops();
            time = new DeviceTime(device);
            try {
                int sets = (int) Math.clamp(Math.ceil(2 * cacheBytes / bytes), 1, 64);
                SplittableRandom random = new SplittableRandom(SEED);
                for (int i = 0; i < sets; i++) {
                    all.add(operands.apply(device, random));
                }
                double estimate = 0;
                for (int i = 0; i < 3; i++) { // the last is warm
                    estimate = once(ops, time, all.get(i % sets));
                }
                calls = (int) Math.clamp(SAMPLE_MILLIS / Math.max(1e-3, estimate), 1, 1000);
            } catch (RuntimeException e) {
                close();
                throw e;
            }
        }

        /** Device time of one call, the mean of as many as hide what a launch costs. */
        double millis() {
            double sum = 0;
            if (backward) {
                // the forward pass before each keeps the device busy while the tape is walked
                for (int i = 0; i < calls; i++) {
                    sum += once(ops, time, all.get(i % all.size()));
                }
                return sum / calls;
            }
            return time.millis(
                            ops,
                            () -> {
                                for (int i = 0; i < calls; i++) {
                                    try (Ops scope = ops.scope()) {
                                        forward.run(scope, all.get(i % all.size()));
                                    }
                                }
                            })
                    / calls;
        }

        @Override
        public void close() {
            time.close();
            ops.close();
            all.forEach(set -> set.forEach(Tensor::close));
        }
    }

    private double once(Ops ops, DeviceTime time, List<Tensor> in) {
        if (!backward) {
            return time.millis(
                    ops,
                    () -> {
                        try (Ops scope = ops.scope()) {
                            forward.run(scope, in);
                        }
                    });
        }
        try (Tape tape = device(in).tape()) {
            in.forEach(tape::watch);
            Tensor dy = tape.empty(in.getFirst().dtype(), in.getFirst().shape());
            Tensor y = forward.run(tape, in);
            dy.write(noise(new SplittableRandom(SEED), dy.elements()));
            return time.millis(tape, () -> tape.backward(y, dy));
        }
    }

    private static Device device(List<Tensor> operands) {
        return operands.getFirst().device();
    }

    static Tensor random(Device device, DType dtype, SplittableRandom random, long... shape) {
        Tensor tensor = Tensor.empty(device, dtype, Purpose.OTHER, shape);
        tensor.write(noise(random, tensor.elements()));
        return tensor;
    }

    /** Normal numbers: zeros, or few different values, would let a GPU run faster than it can. */
    private static float[] noise(SplittableRandom random, long elements) {
        float[] values = new float[(int) elements];
        int period = Math.min(values.length, 1 << 20);
        for (int i = 0; i < period; i++) {
            values[i] = (float) random.nextGaussian();
        }
        for (int i = period; i < values.length; i += period) {
            System.arraycopy(values, 0, values, i, Math.min(period, values.length - i));
        }
        return values;
    }
}
