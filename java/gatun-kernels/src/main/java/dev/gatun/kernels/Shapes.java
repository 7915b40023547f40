package dev.gatun.kernels;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/** Sizes and strides, both in elements. */
final class Shapes {
    private Shapes() {}

    static long elements(long[] shape) {
        long n = 1;
        for (long size : shape) {
            n *= size;
        }
        return n;
    }

    /** The bytes of a dense tensor; throws for a shape that no tensor can have. */
    static long bytes(String op, DType dtype, long[] shape) {
        if (shape.length > Tensor.MAX_RANK) {
            throw new IllegalArgumentException(
                    "%s: wanted at most %d dimensions, had %s"
                            .formatted(op, Tensor.MAX_RANK, Arrays.toString(shape)));
        }
        long n = 1;
        boolean none = false;
        try {
            for (long size : shape) {
                if (size < 0) {
                    throw new IllegalArgumentException(
                            "%s: wanted sizes of 0 or more, had %s"
                                    .formatted(op, Arrays.toString(shape)));
                }
                none |= size == 0;
                n = Math.multiplyExact(n, Math.max(1, size));
            }
            n = Math.multiplyExact(n, dtype.bytes());
        } catch (ArithmeticException _) {
            throw new IllegalArgumentException(
                    "%s: %s has more bytes than a long can count"
                            .formatted(op, text(dtype, shape)));
        }
        return none ? 0 : n;
    }

    static void wantElements(String op, long values, long[] shape) {
        bytes(op, DType.U8, shape);
        if (values != elements(shape)) {
            throw new IllegalArgumentException(
                    "%s: shape %s has %d elements, had %d values"
                            .formatted(op, Arrays.toString(shape), elements(shape), values));
        }
    }

    static long[] strides(long[] shape) {
        long[] stride = new long[shape.length];
        long step = 1;
        for (int i = shape.length - 1; i >= 0; i--) {
            stride[i] = step;
            step *= Math.max(1, shape[i]);
        }
        return stride;
    }

    static boolean dense(long[] shape, long[] stride) {
        long step = 1;
        for (int i = shape.length - 1; i >= 0; i--) {
            if (shape[i] != 1 && stride[i] != step) {
                return elements(shape) == 0;
            }
            step *= shape[i];
        }
        return true;
    }

    static long[] resolve(String op, long[] shape, long elements) {
        long[] out = shape.clone();
        int open = -1;
        long known = 1;
        for (int i = 0; i < out.length; i++) {
            if (out[i] == -1 && open < 0) {
                open = i;
            } else {
                known *= out[i];
            }
        }
        if (open >= 0 && known > 0 && elements % known == 0) {
            out[open] = elements / known;
        }
        bytes(op, DType.U8, out);
        if (elements(out) != elements) {
            throw new IllegalArgumentException(
                    "%s: wanted a shape of %d elements, had %s"
                            .formatted(op, elements, Arrays.toString(shape)));
        }
        return out;
    }

    /** The strides that show the same elements under another shape; null where there are none. */
    static long @Nullable [] viewStrides(long[] shape, long[] stride, long[] wanted) {
        if (elements(shape) == 0 || dense(shape, stride)) {
            return strides(wanted);
        }
        long[] sizes = new long[shape.length];
        long[] steps = new long[shape.length];
        int from = -1;
        for (int i = 0; i < shape.length; i++) {
            // the stride of a dimension of size 1 says nothing
            if (shape[i] != 1) {
                sizes[++from] = shape[i];
                steps[from] = stride[i];
            }
        }
        long[] out = new long[wanted.length];
        int to = wanted.length - 1;
        // dimensions that lie densely inside each other are one run, which may be split anew
        while (from >= 0) {
            long step = steps[from];
            long run = sizes[from--];
            while (from >= 0 && steps[from] == step * run) {
                run *= sizes[from--];
            }
            long seen = 1;
            while (to >= 0 && (seen < run || wanted[to] == 1)) {
                out[to] = step * seen;
                seen *= wanted[to--];
                if (run % seen != 0) {
                    return null;
                }
            }
            if (seen != run) {
                return null;
            }
        }
        while (to >= 0 && wanted[to] == 1) {
            out[to--] = 1;
        }
        return to < 0 ? out : null;
    }

    static String text(DType dtype, long[] shape) {
        return dtype + Arrays.toString(shape);
    }
}
