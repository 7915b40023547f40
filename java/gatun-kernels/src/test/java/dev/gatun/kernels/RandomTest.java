package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.stream.Stream;
import org.junit.jupiter.api.Named;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Random numbers are Philox by counter: the same on every device, and what their names say. */
class RandomTest {

    interface Opener {
        Device open();
    }

    static Stream<Named<Opener>> levels() {
        return Cpu.levels().stream()
                .map(simd ->
                        Named.of(
                                "cpu " + simd,
                                () ->
                                        Cpu.open(
                                                DeviceOptions.defaults()
                                                        .withSimd(simd)
                                                        .withThreads(2))));
    }

    static Stream<Named<Opener>> devices() {
        return Stream.concat(levels(), Stream.of(Named.of("sim", () -> Device.open("sim"))));
    }

    @ParameterizedTest
    @MethodSource("devices")
    void uniformIsPhilox(Opener opener) {
        try (Device device = opener.open();
                Ops ops = device.ops(new Rng(0x1234_5678_9abcL, null, 3))) {
            for (int site = 0; site < 3; site++) {
                float[] drawn = ops.rand(DType.F32, 0, 1, 101).toFloats();
                for (int i = 0; i < drawn.length; i++) {
                    int word = Oracle.philox(0x1234_5678_9abcL, site, 0, 3, i);
                    assertThat((double) drawn[i])
                            .as("site %d element %d", site, i)
                            .isEqualTo(Oracle.uniform(word));
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("devices")
    void theStepIsReadOnTheDevice(Opener opener) {
        try (Device device = opener.open();
                Tensor step = Tensor.of(device, new long[] {0})) {
            float[] first;
            try (Ops ops = device.ops(new Rng(7, step, 0))) {
                first = ops.rand(DType.F32, 0, 1, 10).toFloats();
                ops.increment(step, 5);
                ops.reset();
                float[] later = ops.rand(DType.F32, 0, 1, 10).toFloats();
                assertThat(later).isNotEqualTo(first);
                assertThat((double) later[9])
                        .isEqualTo(Oracle.uniform(Oracle.philox(7, 0, 5, 0, 9)));
            }
        }
    }

    @ParameterizedTest
    @MethodSource("devices")
    void normalHasItsMoments(Opener opener) {
        int n = 200_000;
        try (Device device = opener.open();
                Ops ops = device.ops(Rng.of(11))) {
            for (DType dtype : new DType[] {DType.F32, DType.BF16, DType.F16}) {
                Tensor x = ops.empty(dtype, n);
                ops.normal(x, 2, 0.5);
                double sum = 0;
                double squares = 0;
                double cubes = 0;
                int beyond = 0;
                for (float value : x.toFloats()) {
                    double z = (value - 2) / 0.5;
                    sum += z;
                    squares += z * z;
                    cubes += z * z * z;
                    beyond += Math.abs(z) > 2 ? 1 : 0;
                }
                // five standard errors
                double error = 5 / Math.sqrt(n);
                assertThat(sum / n).as("%s mean", dtype).isCloseTo(0, within(error + 1e-3));
                assertThat(squares / n).isCloseTo(1, within(error * Math.sqrt(2) + 1e-3));
                assertThat(cubes / n).isCloseTo(0, within(error * Math.sqrt(15) + 1e-3));
                assertThat(beyond / (double) n).isCloseTo(0.0455, within(error * 0.21 + 2e-3));
            }
        }
    }

    @ParameterizedTest
    @MethodSource("levels")
    void samplesFollowTheDistribution(Opener opener) {
        double[] p = {0.5, 0.25, 0.125, 0.0625, 0.0625};
        int rows = 20_000;
        float[] logits = new float[rows * p.length];
        for (int i = 0; i < logits.length; i++) {
            logits[i] = (float) Math.log(p[i % p.length]);
        }
        try (Device device = opener.open();
                Ops ops = device.ops()) {
            Tensor all = ops.upload(logits, rows, p.length);
            frequencies(ops, all, Sampling.temperature(1), p, rows);
            double half = 0.5 * 0.5 + 0.25 * 0.25 + 0.125 * 0.125 + 2 * 0.0625 * 0.0625;
            frequencies(
                    ops,
                    all,
                    Sampling.temperature(0.5),
                    new double[] {
                        0.25 / half,
                        0.0625 / half,
                        0.015625 / half,
                        0.00390625 / half,
                        0.00390625 / half
                    },
                    rows);
            frequencies(
                    ops,
                    all,
                    new Sampling(1, 2, 1, 0),
                    new double[] {2 / 3., 1 / 3., 0, 0, 0},
                    rows);
            // the token that crosses 0.6 is kept
            frequencies(
                    ops,
                    all,
                    new Sampling(1, 0, 0.6, 0),
                    new double[] {2 / 3., 1 / 3., 0, 0, 0},
                    rows);
            // at least a fifth of the largest
            frequencies(
                    ops,
                    all,
                    new Sampling(1, 0, 1, 0.2),
                    new double[] {4 / 7., 2 / 7., 1 / 7., 0, 0},
                    rows);
            int[] greedy = ops.sample(all, new Sampling(1, 1, 1, 0), Rng.of(1)).toInts();
            assertThat(greedy).containsExactly(ops.argmax(all).toInts());
        }
    }

    private static void frequencies(
            Ops ops, Tensor logits, Sampling sampling, double[] wanted, int rows) {
        Tensor chosen = ops.empty(DType.I32, rows);
        Tensor logProbabilities = ops.empty(DType.F32, rows);
        sampling.drawInto(ops, chosen, logProbabilities, logits, Rng.of(3));
        int[] ids = chosen.toInts();
        assertThat(ops.sample(logits, sampling, Rng.of(3)).toInts())
                .as("the same seed")
                .containsExactly(ids);
        assertThat(ops.sample(logits, sampling, Rng.of(4)).toInts())
                .as("another seed")
                .isNotEqualTo(ids);
        float[] logs = logProbabilities.toFloats();
        int[] counts = new int[wanted.length];
        for (int i = 0; i < rows; i++) {
            counts[ids[i]]++;
            assertThat(Math.exp(logs[i])).isCloseTo(wanted[ids[i]], within(1e-5));
        }
        for (int v = 0; v < wanted.length; v++) {
            double spread = 5 * Math.sqrt(rows * wanted[v] * (1 - wanted[v]));
            assertThat((double) counts[v])
                    .as("%s token %d", sampling, v)
                    .isCloseTo(rows * wanted[v], within(spread + 1e-9));
        }
    }
}
