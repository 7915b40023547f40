package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import org.jspecify.annotations.Nullable;

/**
 * A linear layer over the last dimension: y = x · W + b with W [in, out] (GPT-2's Conv1D), or y = x
 * · Wᵀ + b with W [out, in]; and gelu(x · W + b) in one pass.
 *
 * <p>x [.., in], y [.., out], bias [out] of x's dtype or f32. Backward: dx = dy · Wᵀ, dW = xᵀ · dy,
 * db = the sum of dy's rows. The GELU form keeps its pre-activation only while recording, and its
 * backward pass turns that, in place, into the gradient before the GELU.
 */
public final class Linear {
    private Linear() {}

    /** y = x · W (+ b), W [in, out]. */
    public static Tensor forward(Ops ops, Tensor x, Tensor weight, @Nullable Tensor bias) {
        return forward(ops, x, weight, bias, MatMul.Options.PLAIN, null);
    }

    /** y = x · Wᵀ (+ b), W [out, in]. */
    public static Tensor transposed(Ops ops, Tensor x, Tensor weight, @Nullable Tensor bias) {
        return forward(ops, x, weight, bias, MatMul.Options.TRANSPOSE_B, null);
    }

    /** y = gelu(x · W + b), W [in, out]. */
    public static Tensor gelu(Ops ops, Tensor x, Tensor weight, Tensor bias, Gelu form) {
        return forward(ops, x, weight, bias, MatMul.Options.PLAIN, form);
    }

    private static Tensor forward(
            Ops ops,
            Tensor x,
            Tensor weight,
            @Nullable Tensor bias,
            MatMul.Options options,
            @Nullable Gelu form) {
        x.valued();
        weight.valued();
        if (bias != null) {
            bias.valued();
        }
        boolean transposed = options.transposeB();
        if (weight.rank() != 2 || x.rank() == 0) {
            throw new IllegalArgumentException(
                    "linear: wanted x [.., in] and a weight %s, had x %s and weight %s"
                            .formatted(transposed ? "[out, in]" : "[in, out]", x, weight));
        }
        long[] shape = x.shape();
        shape[shape.length - 1] = weight.size(transposed ? 0 : 1);
        ops.open();
        Tape tape = ops.tape();
        boolean recorded =
                tape != null && (tape.needs(x) || tape.needs(weight) || tape.needs(bias));
        Tensor y = ops.make(x.dtype(), shape);
        Tensor preactivation = form != null && recorded ? ops.make(x.dtype(), shape) : null;
        Tensor xRows = MatMul.rowsOrNull(x);
        MatMul.run(
                ops.stream,
                xRows == null ? y : MatMul.denseRows(y),
                xRows == null ? x : xRows,
                weight,
                options,
                false,
                form != null
                        ? GatunH.GATUN_EPILOGUE_BIAS_GELU()
                        : bias != null
                                ? GatunH.GATUN_EPILOGUE_BIAS()
                                : GatunH.GATUN_EPILOGUE_NONE(),
                form == null ? Gelu.TANH : form,
                bias,
                xRows == null || preactivation == null
                        ? preactivation
                        : MatMul.denseRows(preactivation));
        if (tape != null && recorded) {
            tape.record(
                    new Tensor[] {y},
                    new @Nullable Tensor[] {x, weight, bias},
                    new @Nullable Tensor[] {
                        tape.needs(weight) ? x : null, tape.needs(x) ? weight : null, preactivation
                    },
                    () -> {
                        Tensor dy = tape.arrived(y);
                        if (dy != null) {
                            Tensor before = dy;
                            if (preactivation != null && form != null) {
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
                        }
                    });
        }
        return y;
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
        Tape.Destination dx = tape.destination(x);
        Tensor to = dx.tensor();
        if (to != null) {
            MatMul.Options back = transposed ? MatMul.Options.PLAIN : MatMul.Options.TRANSPOSE_B;
            Tensor toRows = MatMul.rowsOrNull(to);
            MatMul.run(
                    stream,
                    toRows == null ? to : toRows,
                    toRows == null ? dy : dyRows,
                    weight,
                    back,
                    dx.add());
        }
    }
}
