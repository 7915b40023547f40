package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assertions.fail;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Every op case against its float64 oracle, forward and backward, at each instruction set of this
 * machine and on buffers with canaries.
 */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class OpCaseTest {
    private static final long SEED = 20_261_125;
    // central differences of a float64 function: the step that balances h² and rounding
    private static final double STEP = 1e-5;
    private static final int DIFFERENCES = 120;

    private final Map<DeviceOptions.Simd, Device> devices = new EnumMap<>(DeviceOptions.Simd.class);

    @BeforeAll
    void open() {
        for (DeviceOptions.Simd simd : Cpu.levels()) {
            devices.put(simd, Cpu.open(DeviceOptions.defaults().withSimd(simd).withThreads(2)));
        }
        assertThat(devices).containsKey(DeviceOptions.Simd.PLAIN);
    }

    @AfterAll
    void close() {
        devices.values().forEach(Device::close);
    }

    /** Buffers are freed by reference count, so a forgotten one shows at once. */
    private static void nothingLeft(OpCase c, Device device) {
        assertThat(device.memory().buffers()).as("buffers that %s left", c).isZero();
    }

    static Stream<Arguments> cases() {
        return Cpu.levels().stream()
                .flatMap(simd -> OpCases.all().stream().map(c -> Arguments.of(simd, c)));
    }

    @ParameterizedTest(name = "{0} {1}")
    @MethodSource("cases")
    void agreesWithTheOracle(DeviceOptions.Simd simd, OpCase c) {
        Device device = devices.get(simd);
        long seed = SEED + c.toString().hashCode();
        double[][] values = c.values(seed);
        double[][] truth = c.oracle().compute(Oracle.EXACT, values);
        double[][] plain = c.oracle().compute(Oracle.FLOAT, values);
        List<Tensor> operands = upload(device, c, values);
        try (Ops ops = device.ops()) {
            List<Tensor> results = c.forward().run(ops, operands);
            assertThat(results).hasSize(truth.length);
            for (int i = 0; i < truth.length; i++) {
                compare(
                        c + " result " + i,
                        seed,
                        results.get(i),
                        truth[i],
                        plain[i],
                        c.approximation());
            }
        } finally {
            operands.forEach(Tensor::close);
        }
        nothingLeft(c, device);
    }

    @ParameterizedTest(name = "{0} {1}")
    @MethodSource("cases")
    void gradientsAgreeWithDifferences(DeviceOptions.Simd simd, OpCase c) {
        if (!c.differentiable()) {
            return;
        }
        Device device = devices.get(simd);
        long seed = SEED + c.toString().hashCode();
        double[][] values = c.values(seed);
        SplittableRandom random = new SplittableRandom(seed ^ 1);
        List<Tensor> operands = upload(device, c, values);
        double[] dout = null;
        List<double[]> leaves = new ArrayList<>();
        List<double[]> twice = new ArrayList<>();
        List<double[]> inner = new ArrayList<>();
        try {
            forEachTrained(c, operands, Tensor::requireGradient);
            dout = walk(device, c, operands, random, null);
            forEachTrained(c, operands, t -> leaves.add(floats(t.gradient().orElseThrow())));
            walk(device, c, operands, random, dout);
            forEachTrained(c, operands, t -> twice.add(floats(t.gradient().orElseThrow())));
            forEachTrained(c, operands, Tensor::dropGradient);
            // the same operands as intermediates: gradients of their own dtype
            try (Tape tape = device.tape()) {
                forEachTrained(c, operands, tape::watch);
                back(tape, c.forward().run(tape, operands).getFirst(), dout);
                forEachTrained(
                        c,
                        operands,
                        t -> inner.add(tape.gradient(t).map(OpCaseTest::floats).orElse(null)));
            }
        } finally {
            operands.forEach(Tensor::close);
        }
        nothingLeft(c, device);
        double[] weights = dout;
        int trained = 0;
        for (int i = 0; i < values.length; i++) {
            if (!c.operands().get(i).trained()) {
                continue;
            }
            String what = "%s d%s (seed %d)".formatted(c, c.operands().get(i).name(), seed);
            double[] leaf = leaves.get(trained);
            int n = values[i].length;
            int[] sampled =
                    n <= DIFFERENCES
                            ? IntStream.range(0, n).toArray()
                            : random.ints(DIFFERENCES, 0, n).toArray();
            double[] truth = new double[sampled.length];
            for (int j = 0; j < sampled.length; j++) {
                truth[j] = difference(c, values, i, sampled[j], weights);
            }
            double largest = Arrays.stream(truth).map(Math::abs).max().orElse(0);
            double epsilon = c.dtype() == DType.F32 ? 3e-5 : gradientEpsilon(c);
            double tolerance = 1e-7 + largest * epsilon + c.cancelled() * OpCase.ulp(1, c.dtype());
            for (int j = 0; j < sampled.length; j++) {
                near(what, sampled[j], leaf[sampled[j]], truth[j], tolerance);
                near(
                        what + " twice",
                        sampled[j],
                        twice.get(trained)[sampled[j]],
                        2 * truth[j],
                        2 * tolerance);
                near(
                        what + " inner",
                        sampled[j],
                        inner.get(trained)[sampled[j]],
                        truth[j],
                        tolerance);
            }
            trained++;
        }
    }

    // a few roundings of the storage dtype: y, the kept statistics' inputs, dx
    private static double gradientEpsilon(OpCase c) {
        return c.dtype() == DType.F16 ? 4e-3 : 3e-2;
    }

    private interface Use {
        void accept(Tensor tensor);
    }

    private static void forEachTrained(OpCase c, List<Tensor> operands, Use use) {
        for (int i = 0; i < operands.size(); i++) {
            if (c.operands().get(i).trained()) {
                use.accept(operands.get(i));
            }
        }
    }

    private static double[] walk(
            Device device,
            OpCase c,
            List<Tensor> operands,
            SplittableRandom random,
            double[] given) {
        try (Tape tape = device.tape()) {
            Tensor y = c.forward().run(tape, operands).getFirst();
            double[] dout = given;
            if (dout == null) {
                dout = new double[(int) y.elements()];
                for (int i = 0; i < dout.length; i++) {
                    dout[i] =
                            y.rank() == 0
                                    ? 1
                                    : OpCase.rounded(2 * random.nextDouble() - 1, y.dtype());
                }
            }
            back(tape, y, dout);
            return dout;
        }
    }

    private static void back(Tape tape, Tensor y, double[] dout) {
        if (y.rank() == 0 && y.dtype() == DType.F32) {
            tape.backward(y);
            return;
        }
        Tensor gradient = tape.empty(y.dtype(), y.shape());
        float[] values = new float[dout.length];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) dout[i];
        }
        gradient.write(values);
        tape.backward(y, gradient);
    }

    private static double difference(
            OpCase c, double[][] values, int operand, int at, double[] dout) {
        double x = values[operand][at];
        double h = STEP * Math.max(1, Math.abs(x));
        values[operand][at] = x + h;
        double above = dot(c.oracle().compute(Oracle.EXACT, values)[0], dout);
        values[operand][at] = x - h;
        double below = dot(c.oracle().compute(Oracle.EXACT, values)[0], dout);
        values[operand][at] = x;
        return (above - below) / (2 * h);
    }

    private static double dot(double[] a, double[] b) {
        double sum = 0;
        for (int i = 0; i < a.length; i++) {
            sum += a[i] * b[i];
        }
        return sum;
    }

    static List<Tensor> upload(Device device, OpCase c, double[][] values) {
        List<Tensor> out = new ArrayList<>();
        for (int i = 0; i < values.length; i++) {
            out.add(c.operands().get(i).upload(device, values[i]));
        }
        return out;
    }

    static double[] floats(Tensor t) {
        if (!t.dtype().floating()) {
            return Arrays.stream(t.toLongs()).asDoubleStream().toArray();
        }
        float[] f = t.toFloats();
        return IntStream.range(0, f.length).mapToDouble(i -> f[i]).toArray();
    }

    private static void near(String what, int at, double had, double wanted, double tolerance) {
        if (!(Math.abs(had - wanted) <= tolerance)) {
            fail(
                    "%s[%d]: wanted %s, had %s, tolerance %s"
                            .formatted(what, at, wanted, had, tolerance));
        }
    }

    /**
     * The tolerance rule: twice the largest error of plain arithmetic, and 2 ulp of the largest.
     */
    static void compare(
            String what,
            long seed,
            Tensor had,
            double[] truth,
            double[] plain,
            double approximation) {
        double[] got = floats(had);
        assertThat(got).as(what).hasSize(truth.length);
        double error = 0;
        double largest = 0;
        for (int i = 0; i < truth.length; i++) {
            if (Double.isFinite(truth[i])) {
                error = Math.max(error, Math.abs(OpCase.rounded(plain[i], had.dtype()) - truth[i]));
                largest = Math.max(largest, Math.abs(truth[i]));
            }
        }
        double tolerance =
                2 * error + 2 * OpCase.ulp(largest, had.dtype()) + approximation * largest;
        for (int i = 0; i < truth.length; i++) {
            boolean same =
                    Double.isFinite(truth[i])
                            ? Math.abs(got[i] - truth[i]) <= tolerance
                            : Double.compare(got[i], truth[i]) == 0;
            if (!same) {
                fail(
                        "%s[%d] (seed %d): wanted %s, had %s, tolerance %s"
                                .formatted(what, i, seed, truth[i], got[i], tolerance));
            }
        }
    }
}
