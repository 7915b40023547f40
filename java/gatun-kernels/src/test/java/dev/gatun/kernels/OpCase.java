package dev.gatun.kernels;

import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.SplittableRandom;
import java.util.function.DoubleUnaryOperator;

/**
 * One op on one shape: the one description that the oracle test, the gradient check and the
 * benchmark read.
 *
 * @param name what it is called in reports
 * @param covers the C functions that it runs, without gatun_
 * @param dtype of its float operands
 * @param operands what it takes
 * @param forward runs it
 * @param oracle what it must give, from the operands' values, in a given arithmetic
 * @param bytes ideal traffic: every operand and result once
 * @param backwardBytes the same of the backward pass; NaN where nobody has counted them
 * @param flops floating-point operations of its definition
 * @param approximation relative error of a function that the library fits instead of computing; 0
 *     for most
 * @param cancelled size of the terms that cancel in a gradient whose truth is 0; 0 for most
 */
public record OpCase(
        String name,
        Set<String> covers,
        DType dtype,
        List<Operand> operands,
        Forward forward,
        Reference oracle,
        double bytes,
        double backwardBytes,
        double flops,
        double approximation,
        double cancelled) {

    OpCase(
            String name,
            Set<String> covers,
            DType dtype,
            List<Operand> operands,
            Forward forward,
            Reference oracle,
            double bytes,
            double flops) {
        this(name, covers, dtype, operands, forward, oracle, bytes, Double.NaN, flops, 0, 0);
    }

    /** The same case of a function that is fitted with this relative error. */
    OpCase fitted(double relative) {
        return with(backwardBytes, relative, cancelled);
    }

    /** The same case with the ideal traffic of its backward pass. */
    OpCase backward(double ideal) {
        return with(ideal, approximation, cancelled);
    }

    /** The same case with a gradient whose terms, of this size, cancel. */
    OpCase cancelling(double size) {
        return with(backwardBytes, approximation, size);
    }

    private OpCase with(double backward, double relative, double size) {
        return new OpCase(
                name, covers, dtype, operands, forward, oracle, bytes, backward, flops, relative,
                size);
    }

    /** Runs the op on operands in their order. */
    @FunctionalInterface
    public interface Forward {
        List<Tensor> run(Ops ops, List<Tensor> operands);
    }

    /** The values of all results from the values of all operands. */
    @FunctionalInterface
    public interface Reference {
        double[][] compute(DoubleUnaryOperator arithmetic, double[][] operands);
    }

    /** Makes the i-th value of an operand. */
    @FunctionalInterface
    public interface Source {
        double next(SplittableRandom random, int index);

        /** Standard normal times a factor. */
        static Source normal(double factor) {
            return (random, _) -> factor * gaussian(random);
        }

        /** Integers in [0, limit). */
        static Source below(int limit) {
            return (random, _) -> random.nextInt(limit);
        }

        /** These values. */
        static Source of(double... values) {
            return (_, index) -> values[index];
        }

        private static double gaussian(SplittableRandom random) {
            double u = 1 - random.nextDouble();
            return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * random.nextDouble());
        }
    }

    /**
     * What an op takes.
     *
     * @param trained whether it has a gradient
     */
    public record Operand(String name, DType dtype, Source source, boolean trained, long... shape) {
        int elements() {
            return (int) Arrays.stream(shape).reduce(1, (a, b) -> a * b);
        }

        /** Its values as the dtype can hold them. */
        double[] values(SplittableRandom random) {
            double[] out = new double[elements()];
            for (int i = 0; i < out.length; i++) {
                out[i] = rounded(source.next(random, i), dtype);
            }
            return out;
        }

        /** A tensor of the caller's with these values. */
        public Tensor upload(Device device, double[] values) {
            Tensor tensor = Tensor.empty(device, dtype, Purpose.OTHER, shape);
            if (dtype.floating()) {
                float[] floats = new float[values.length];
                for (int i = 0; i < floats.length; i++) {
                    floats[i] = (float) values[i];
                }
                tensor.write(floats);
            } else if (dtype == DType.I64) {
                tensor.write(Arrays.stream(values).mapToLong(x -> (long) x).toArray());
            } else {
                tensor.write(Arrays.stream(values).mapToInt(x -> (int) x).toArray());
            }
            return tensor;
        }
    }

    /** A value as a dtype stores it. */
    static double rounded(double x, DType dtype) {
        return switch (dtype) {
            case F32 -> (float) x;
            case F16 -> Float.float16ToFloat(Float.floatToFloat16((float) x));
            case BF16 -> Float.intBitsToFloat(BFloat16.of((float) x) << 16);
            default -> (long) x;
        };
    }

    /** The distance of the values around x that a dtype can hold. */
    static double ulp(double x, DType dtype) {
        double f = Math.ulp((float) Math.abs(x));
        return switch (dtype) {
            case F32 -> f;
            case F16 -> Math.max(f * 0x1p13, 0x1p-24);
            case BF16 -> f * 0x1p16;
            default -> 0;
        };
    }

    /** Whether any operand has a gradient. */
    public boolean differentiable() {
        return operands.stream().anyMatch(Operand::trained);
    }

    /** The operands' values of a seed. */
    public double[][] values(long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        return operands.stream().map(o -> o.values(random)).toArray(double[][]::new);
    }

    @Override
    public String toString() {
        return name + " " + dtype;
    }
}
