package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import dev.gatun.kernels.internal.gatun_attention_args;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/**
 * Scaled dot-product attention (Vaswani et al. 2017), softmax(scale · q kᵀ + mask) · v, tiled with
 * an online softmax (FlashAttention, arXiv:2205.14135), so that no T×T matrix exists.
 *
 * <p>q [B, H, Tq, D]; k, v [B, Hkv, Tk, D] with H a multiple of Hkv (grouped queries); D &le; 512;
 * one float dtype; views of a packed projection are welcome. The result [B, H, Tq, D] lies in
 * memory as [B, Tq, H, D], so that {@code out.permute(0, 2, 1, 3).view(B, T, H * D)} copies
 * nothing. A row that sees no key gives 0. Backward recomputes the scores from the log-sum-exp of
 * each row.
 */
public final class Attention {
    private Attention() {}

    /**
     * How attention is taken.
     *
     * @param scale on the scores; 0 means 1 / √D
     * @param dqAtomic the gradient of q is added up by atomic additions in any order, on cuda in 16
     *     bits with D &le; 128: faster, but not the same bits every time
     */
    public record Options(double scale, boolean dqAtomic) {
        /** 1 / √D, and the same bits every time. */
        public static final Options DEFAULT = new Options(0, false);

        /** 1 / √D, and atomic additions to the gradient of q. */
        public static final Options DQ_ATOMIC = new Options(0, true);
    }

    /** Attention of q over k and v. */
    public static Tensor forward(
            Ops ops, Tensor q, Tensor k, Tensor v, Mask mask, Options options) {
        wantHeads("attention", q);
        long batch = q.size(0);
        long heads = q.size(1);
        long time = q.size(2);
        ops.open();
        Tape tape = ops.tape();
        boolean recorded = tape != null && (tape.needs(q) || tape.needs(k) || tape.needs(v));
        Tensor out = timeMajor(ops, q);
        Tensor lse = recorded ? ops.make(DType.F32, batch, heads, time) : null;
        valued(mask.visible());
        valued(mask.qStarts());
        valued(mask.kStarts());
        Native.check(
                GatunH.gatun_attention_forward(
                        ops.handle(),
                        out.raw(),
                        Tensor.raw(lse),
                        q.pointer(),
                        k.pointer(),
                        v.pointer(),
                        args(ops.stream, mask, options)),
                "attention_forward");
        if (tape != null && lse != null) {
            tape.record(
                    new Tensor[] {out},
                    new Tensor[] {q, k, v},
                    new @Nullable Tensor[] {
                        q, k, v, out, lse, mask.visible(), mask.qStarts(), mask.kStarts()
                    },
                    () -> backward(tape, out, lse, q, k, v, mask, options));
        }
        return out;
    }

    private static void backward(
            Tape tape,
            Tensor out,
            Tensor lse,
            Tensor q,
            Tensor k,
            Tensor v,
            Mask mask,
            Options options) {
        Tensor dout = tape.arrived(out);
        if (dout == null) {
            return;
        }
        boolean apart = apart(q, k) && apart(q, v) && apart(k, v);
        // one tensor used twice has one gradient, which a single call cannot write twice
        Tape.Destination dq = apart ? tape.destinationAlike(q) : tape.destinationApart(q);
        Tape.Destination dk = apart ? tape.destinationAlike(k) : tape.destinationApart(k);
        Tape.Destination dv = apart ? tape.destinationAlike(v) : tape.destinationApart(v);
        Native.check(
                GatunH.gatun_attention_backward(
                        tape.stream.handle(),
                        dq.pointer(),
                        dk.pointer(),
                        dv.pointer(),
                        dout.raw(),
                        out.raw(),
                        lse.raw(),
                        q.raw(),
                        k.raw(),
                        v.raw(),
                        args(tape.stream, mask, options),
                        dq.bit(0) | dk.bit(1) | dv.bit(2)),
                "attention_backward");
    }

    private static void valued(@Nullable Tensor limit) {
        if (limit != null) {
            limit.valued();
        }
    }

    private static boolean apart(Tensor a, Tensor b) {
        if (a.base() != b.base()) {
            return true;
        }
        GradientSlot.Block first = GradientSlot.Block.of(a);
        GradientSlot.Block second = GradientSlot.Block.of(b);
        return first != null && second != null && first.apart(second);
    }

    static void wantHeads(String op, Tensor q) {
        if (q.rank() != 4) {
            throw new IllegalArgumentException(
                    "%s: wanted q [batch, heads, time, head size], had %s".formatted(op, q));
        }
    }

    /** A tensor shaped as q that lies in memory as [B, T, H, D]. */
    static Tensor timeMajor(Ops ops, Tensor q) {
        return ops.make(q.dtype(), q.size(0), q.size(2), q.size(1), q.size(3)).permute(0, 2, 1, 3);
    }

    private static MemorySegment args(Stream stream, Mask mask, Options options) {
        MemorySegment args = stream.attentionArgs;
        gatun_attention_args.causal(args, mask.causal() ? 1 : 0);
        gatun_attention_args.scale(args, (float) options.scale);
        gatun_attention_args.dq_atomic(args, options.dqAtomic ? 1 : 0);
        gatun_attention_args.lengths(args, Tensor.raw(mask.visible()));
        gatun_attention_args.q_starts(args, Tensor.raw(mask.qStarts()));
        gatun_attention_args.k_starts(args, Tensor.raw(mask.kStarts()));
        return args;
    }
}
