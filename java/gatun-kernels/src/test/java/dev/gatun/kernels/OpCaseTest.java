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

    static Stream<Arguments> cases() {
        return Cpu.levels().stream()
                .flatMap(simd -> OpCases.all().stream().map(c -> Arguments.of(simd, c)));
    }

    @ParameterizedTest(name = "{0} {1}")
    @MethodSource("cases")
    void agreesWithTheOracle(DeviceOptions.Simd simd, OpCase c) {
        OpCheck.againstOracle(devices.get(simd), c, SEED + c.toString().hashCode());
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
        List<Tensor> operands = OpCheck.upload(device, c, values);
        double[] dout = null;
        List<double[]> leaves = new ArrayList<>();
        List<double[]> twice = new ArrayList<>();
        List<double[]> inner = new ArrayList<>();
        try {
            forEachTrained(c, operands, Tensor::requireGradient);
            dout = walk(device, c, operands, random, null);
            forEachTrained(
                    c, operands, t -> leaves.add(OpCheck.floats(t.gradient().orElseThrow())));
            walk(device, c, operands, random, dout);
            forEachTrained(c, operands, t -> twice.add(OpCheck.floats(t.gradient().orElseThrow())));
            forEachTrained(c, operands, Tensor::dropGradient);
            // the same operands as intermediates: gradients of their own dtype
            try (Tape tape = device.tape()) {
                forEachTrained(c, operands, tape::watch);
                back(tape, c.forward().run(tape, operands).getFirst(), dout);
                forEachTrained(
                        c,
                        operands,
                        t -> inner.add(tape.gradient(t).map(OpCheck::floats).orElse(null)));
            }
        } finally {
            operands.forEach(Tensor::close);
        }
        OpCheck.nothingLeft(device, c);
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

    private static void near(String what, int at, double had, double wanted, double tolerance) {
        if (!(Math.abs(had - wanted) <= tolerance)) {
            fail(
                    "%s[%d]: wanted %s, had %s, tolerance %s"
                            .formatted(what, at, wanted, had, tolerance));
        }
    }
}
