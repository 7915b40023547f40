package dev.gatun.kernels;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;

/**
 * What a device must do with an op case; an AssertionError says what it did instead. Needs no test
 * framework: the check on a CUDA host runs it too.
 */
public final class OpCheck {
    /** Of fewer results of plain arithmetic, the largest error is a matter of luck. */
    private static final int ENOUGH = 256;

    private static final int MOST_DRAWS = 16;

    private OpCheck() {}

    /** Results against the float64 oracle, and no buffer left behind. */
    public static void againstOracle(Device device, OpCase c, long seed) {
        double[][] values = c.values(seed);
        double[][] truth = c.oracle().compute(Oracle.EXACT, values);
        List<Tensor> operands = upload(device, c, values);
        try (Ops ops = device.ops()) {
            List<Tensor> results = c.forward().run(ops, operands);
            if (results.size() != truth.length) {
                throw new AssertionError(
                        "%s: %d results, wanted %d".formatted(c, results.size(), truth.length));
            }
            double[] error = plainErrors(c, seed, values, truth, results);
            for (int i = 0; i < truth.length; i++) {
                compare(
                        c + " result " + i,
                        seed,
                        results.get(i),
                        truth[i],
                        error[i],
                        c.approximation());
            }
        } finally {
            operands.forEach(Tensor::close);
        }
        nothingLeft(device, c);
    }

    /**
     * Gradients against those of another device, whose own were compared with differences of the
     * oracle; a case without operands to train has none.
     */
    public static void gradientsAgainst(Device reference, Device device, OpCase c, long seed) {
        if (!c.differentiable()) {
            return;
        }
        double[][] values = c.values(seed);
        List<double[]> had = gradients(device, c, values);
        List<double[]> wanted = gradients(reference, c, values);
        double epsilon =
                switch (c.dtype()) {
                    case F32 -> 3e-5;
                    case F16 -> 4e-3;
                    default -> 3e-2;
                };
        for (int i = 0; i < wanted.size(); i++) {
            String what = "%s gradient %d".formatted(c, i);
            double[] want = wanted.get(i);
            double largest = Math.max(c.cancelled(), 0);
            for (double x : want) {
                largest = Math.max(largest, Math.abs(x));
            }
            sameLength(what, had.get(i), want);
            for (int j = 0; j < want.length; j++) {
                near(what, j, seed, had.get(i)[j], want[j], 1e-7 + epsilon * largest);
            }
        }
        nothingLeft(device, c);
    }

    private static List<double[]> gradients(Device device, OpCase c, double[][] values) {
        List<Tensor> operands = upload(device, c, values);
        List<double[]> out = new ArrayList<>();
        try (Tape tape = device.tape()) {
            List<Tensor> trained = new ArrayList<>();
            for (int i = 0; i < operands.size(); i++) {
                if (c.operands().get(i).trained()) {
                    // as intermediates: gradients of their own dtype, which need no op but these
                    trained.add(operands.get(i));
                    tape.watch(operands.get(i));
                }
            }
            Tensor y = c.forward().run(tape, operands).getFirst();
            if (y.rank() == 0 && y.dtype() == DType.F32) {
                tape.backward(y);
            } else {
                Tensor dy = tape.empty(y.dtype(), y.shape());
                float[] upstream = new float[(int) y.elements()];
                for (int i = 0; i < upstream.length; i++) {
                    upstream[i] = (float) ((i * 37 % 64) / 32.0 - 1);
                }
                dy.write(upstream);
                tape.backward(y, dy);
            }
            trained.forEach(t -> out.add(tape.gradient(t).map(OpCheck::floats).orElseThrow()));
        } finally {
            operands.forEach(Tensor::close);
        }
        return out;
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

    /** Buffers are freed by reference count, so a forgotten one shows at once. */
    static void nothingLeft(Device device, OpCase c) {
        long left = device.memory().buffers();
        if (left != 0) {
            throw new AssertionError("%s left %d buffers behind".formatted(c, left));
        }
    }

    /** The largest error of each result in plain arithmetic, on these values and others. */
    private static double[] plainErrors(
            OpCase c, long seed, double[][] values, double[][] truth, List<Tensor> results) {
        int fewest = Arrays.stream(truth).mapToInt(result -> result.length).min().orElse(0);
        int draws = Math.clamp(ENOUGH / Math.max(1, fewest), 1, MOST_DRAWS);
        double[] error = new double[truth.length];
        for (int draw = 0; draw < draws; draw++) {
            double[][] drawn = draw == 0 ? values : c.values(seed + draw);
            double[][] exact = draw == 0 ? truth : c.oracle().compute(Oracle.EXACT, drawn);
            double[][] plain = c.oracle().compute(Oracle.FLOAT, drawn);
            for (int i = 0; i < exact.length; i++) {
                for (int j = 0; j < exact[i].length; j++) {
                    double stored = OpCase.rounded(plain[i][j], results.get(i).dtype());
                    double one = Math.abs(stored - exact[i][j]);
                    error[i] = Double.isFinite(one) ? Math.max(error[i], one) : error[i];
                }
            }
        }
        return error;
    }

    /**
     * The tolerance rule: three times the largest error of plain arithmetic, and 2 ulp of the
     * largest.
     */
    static void compare(
            String what,
            long seed,
            Tensor had,
            double[] truth,
            double error,
            double approximation) {
        double[] got = floats(had);
        sameLength(what, got, truth);
        double largest = 0;
        for (double x : truth) {
            largest = Double.isFinite(x) ? Math.max(largest, Math.abs(x)) : largest;
        }
        double tolerance =
                3 * error + 2 * OpCase.ulp(largest, had.dtype()) + approximation * largest;
        for (int i = 0; i < truth.length; i++) {
            near(what, i, seed, got[i], truth[i], tolerance);
        }
    }

    private static void sameLength(String what, double[] had, double[] wanted) {
        if (had.length != wanted.length) {
            throw new AssertionError(
                    "%s has %d elements, wanted %d".formatted(what, had.length, wanted.length));
        }
    }

    private static void near(
            String what, int at, long seed, double had, double wanted, double tolerance) {
        boolean same =
                Double.isFinite(wanted)
                        ? Math.abs(had - wanted) <= tolerance
                        : Double.compare(had, wanted) == 0;
        if (!same) {
            throw new AssertionError(
                    "%s[%d] (seed %d): wanted %s, had %s, tolerance %s"
                            .formatted(what, at, seed, wanted, had, tolerance));
        }
    }
}
