package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;

/**
 * The Gaussian error linear unit x · Φ(x) (Hendrycks &amp; Gimpel 2016, arXiv:1606.08415) in its
 * two forms. Any shape, float dtypes. Backward: dx = dy · gelu'(x), from x.
 */
public enum Gelu {
    /** 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))): GPT-2's "gelu_new". */
    TANH,
    /** x · Φ(x) by the error function: "gelu". */
    ERF;

    int code() {
        return ordinal();
    }

    /** y = gelu(x). */
    public static Tensor forward(Ops ops, Tensor x, Gelu form) {
        Tensor y = ops.make(x.dtype(), x.shape);
        Native.check(
                GatunH.gatun_gelu_forward(ops.handle(), y.raw(), x.pointer(), form.code()),
                "gelu_forward");
        Tape tape = ops.tape();
        if (tape != null && tape.needs(x)) {
            tape.record(
                    new Tensor[] {y},
                    new Tensor[] {x},
                    new Tensor[] {x},
                    () -> {
                        Tensor dy = tape.arrived(y);
                        Tape.Destination dx = tape.destinationAlike(x);
                        if (dy != null && dx.wanted()) {
                            Native.check(
                                    GatunH.gatun_gelu_backward(
                                            tape.stream.handle(),
                                            dx.pointer(),
                                            dy.raw(),
                                            x.raw(),
                                            form.code(),
                                            dx.bit(0)),
                                    "gelu_backward");
                        }
                    });
        }
        return y;
    }
}
