package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * A linear layer over the last dimension: y = x · W + b with W [in, out] (GPT-2's Conv1D), or y = x
 * · Wᵀ + b with W [out, in]; either with a residual added, or gelu(x · W + b), in one pass.
 *
 * <p>x [.., in], y and residual [.., out], bias [out] of x's dtype or f32. Backward: dx = dy · Wᵀ,
 * dW = xᵀ · dy, db = the sum of dy's rows, the residual's gradient = dy.
 *
 * <p>The GELU form keeps its pre-activation, while recording only. Where a linear layer alone reads
 * its result, that layer's dx is multiplied by gelu'(pre-activation) on its way to memory;
 * otherwise a pass of its own turns the pre-activation, in place, into the gradient before the
 * GELU.
 */
public final class Linear {
    private Linear() {}

    /** y = x · W (+ b) (+ residual), W [in, out]. */
    public static Tensor forward(
            Ops ops, Tensor x, Tensor weight, @Nullable Tensor bias, @Nullable Tensor residual) {
        return forward(ops, x, weight, bias, residual, MatMul.Options.PLAIN, null, false);
    }

    /** y = x · Wᵀ (+ b) (+ residual), W [out, in]. */
    public static Tensor transposed(
            Ops ops, Tensor x, Tensor weight, @Nullable Tensor bias, @Nullable Tensor residual) {
        return forward(ops, x, weight, bias, residual, MatMul.Options.TRANSPOSE_B, null, false);
    }

    /** y = x · Wᵀ, W [out, in], with rows that start at multiples of 64 elements. */
    public static Tensor logits(Ops ops, Tensor x, Tensor weight) {
        return forward(ops, x, weight, null, null, MatMul.Options.TRANSPOSE_B, null, true);
    }

    /** y = gelu(x · W + b), W [in, out]. */
    public static Tensor gelu(Ops ops, Tensor x, Tensor weight, Tensor bias, Gelu form) {
        return forward(ops, x, weight, bias, null, MatMul.Options.PLAIN, form, false);
    }

    private static Tensor forward(
            Ops ops,
            Tensor x,
            Tensor weight,
            @Nullable Tensor bias,
            @Nullable Tensor residual,
            MatMul.Options options,
            @Nullable Gelu form,
            boolean aligned) {
        x.valued();
        weight.valued();
        if (bias != null) {
            bias.valued();
        }
        if (residual != null) {
            residual.valued();
        }
        boolean transposed = options.transposeB();
        if (weight.rank() != 2 || x.rank() == 0) {
            throw new IllegalArgumentException(
                    "linear: wanted x [.., in] and a weight %s, had x %s and weight %s"
                            .formatted(transposed ? "[out, in]" : "[in, out]", x, weight));
        }
        long[] shape = x.shape();
        shape[shape.length - 1] = weight.size(transposed ? 0 : 1);
        if (residual != null && !Arrays.equals(residual.shape, shape)) {
            throw new IllegalArgumentException(
                    "linear: wanted a residual of %s, had %s"
                            .formatted(Arrays.toString(shape), residual));
        }
        ops.open();
        Tape tape = ops.tape();
        boolean recorded =
                tape != null
                        && (tape.needs(x)
                                || tape.needs(weight)
                                || tape.needs(bias)
                                || tape.needs(residual));
        Tensor y = aligned ? ops.makeAligned(x.dtype(), shape) : ops.make(x.dtype(), shape);
        Tensor preactivation = form != null && recorded ? ops.make(x.dtype(), shape) : null;
        Tensor xRows = MatMul.rowsOrNull(x);
        boolean flat = xRows != null && (residual == null || MatMul.rowsOrNull(residual) != null);
        MatMul.run(
                ops.stream,
                flat ? MatMul.denseRows(y) : y,
                flat && xRows != null ? xRows : x,
                weight,
                options,
                false,
                form == null
                        ? MatMul.Epilogue.plain(bias, flat ? rowsOf(residual) : residual)
                        : MatMul.Epilogue.gelu(
                                form, bias, flat ? rowsOf(preactivation) : preactivation));
        if (tape != null && recorded) {
            tape.record(
                    new Tensor[] {y},
                    new @Nullable Tensor[] {x, weight, bias, residual},
                    new @Nullable Tensor[] {
                        tape.needs(weight) ? x : null, tape.needs(x) ? weight : null, preactivation
                    },
                    () -> {
                        Tensor dy = tape.arrived(y);
                        if (dy != null) {
                            Tensor before = dy;
                            if (preactivation != null && form != null && !tape.folded(y)) {
                                // dx may be x: the kept pre-activation has no other reader
                                Native.check(
                                        GatunH.gatun_gelu_backward(
                                                tape.stream.handle(),
                                                preactivation.raw(),
                                                dy.raw(),
                                                preactivation.raw(),
                                                form.code(),
                                                0),
                                        "gelu_backward");
                                before = preactivation;
                            }
                            backward(tape, before, x, weight, bias, options);
                            tape.give(residual, dy);
                        }
                    });
            if (preactivation != null && form != null) {
                tape.activated(y, new Tape.Activation(form, preactivation));
            }
        }
        return y;
    }

    private static @Nullable Tensor rowsOf(@Nullable Tensor t) {
        return t == null ? null : MatMul.rowsOrNull(t);
    }

    private static void backward(
            Tape tape,
            Tensor dy,
            Tensor x,
            Tensor weight,
            @Nullable Tensor bias,
            MatMul.Options options) {
        Stream stream = tape.stream;
        boolean transposed = options.transposeB();
        Tensor dyRows = MatMul.rows(tape, dy);
        Tape.Destination dw = tape.destination(weight);
        if (dw.tensor() != null) {
            Tensor xRows = MatMul.rows(tape, x);
            MatMul.run(
                    stream,
                    dw.tensor(),
                    transposed ? dyRows : xRows,
                    transposed ? xRows : dyRows,
                    MatMul.Options.TRANSPOSE_A,
                    dw.add());
        }
        Tape.Destination db = tape.destination(bias);
        if (db.tensor() != null) {
            Native.check(
                    GatunH.gatun_bias_backward(
                            stream.handle(), db.pointer(), dyRows.raw(), db.bit(0)),
                    "bias_backward");
        }
        Tape.Activation activation = tape.fold(x);
        Tape.Destination dx = tape.destination(x);
        Tensor to = dx.tensor();
        if (to != null) {
            MatMul.Options back = transposed ? MatMul.Options.PLAIN : MatMul.Options.TRANSPOSE_B;
            Tensor toRows = MatMul.rowsOrNull(to);
            MatMul.Epilogue epilogue = MatMul.Epilogue.NONE;
            if (activation != null) {
                Tensor before = x.in(activation.preactivation());
                Tensor beforeRows = MatMul.rowsOrNull(before);
                epilogue =
                        MatMul.Epilogue.geluGradient(
                                activation.form(), beforeRows == null ? before : beforeRows);
            }
            MatMul.run(
                    stream,
                    toRows == null ? to : toRows,
                    toRows == null ? dy : dyRows,
                    weight,
                    back,
                    dx.add(),
                    epilogue);
        }
    }
}
