package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import org.jspecify.annotations.Nullable;

/**
 * Attention over a paged key-value cache (Kwon et al. 2023, arXiv:2309.06180).
 *
 * <p>Pages of K and V lie apart, each [pages, Hkv, slots, D]. The page of slot s of row b is
 * page_table[b, s / slots], i32 [B, maxPages]; without a table row b owns page b alone (a
 * contiguous cache). lengths i32 [B] counts what a row held before the append; it is read, not
 * advanced: {@link Ops#increment} does that once all layers have appended. A slot or page out of
 * range is dropped, and the next wait throws. No gradients: for generation only.
 */
public final class PagedAttention {
    private PagedAttention() {}

    /** Writes k, v [B, Hkv, T, D] into slots lengths[b] .. lengths[b] + T − 1 of each row b. */
    public static void append(
            Ops ops,
            Tensor kPages,
            Tensor vPages,
            Tensor k,
            Tensor v,
            @Nullable Tensor pageTable,
            Tensor lengths) {
        Native.check(
                GatunH.gatun_kv_append(
                        ops.handle(),
                        kPages.pointer(),
                        vPages.pointer(),
                        k.pointer(),
                        v.pointer(),
                        Tensor.pointer(pageTable),
                        lengths.pointer()),
                "kv_append");
    }

    /**
     * Attention of q [B, H, Tq, D], whose keys are appended: query i of row b sits at position
     * lengths[b] + i and sees slots 0 .. lengths[b] + i.
     *
     * @param scale on the scores; 0 means 1 / √D
     * @return [B, H, Tq, D], in memory [B, Tq, H, D]
     */
    public static Tensor decode(
            Ops ops,
            Tensor q,
            Tensor kPages,
            Tensor vPages,
            @Nullable Tensor pageTable,
            Tensor lengths,
            double scale) {
        Attention.wantHeads("attention_decode", q);
        Tape tape = ops.tape();
        if (tape != null && tape.needs(q)) {
            throw new IllegalStateException(
                    "attention_decode: a cache has no gradient; use attention() while recording");
        }
        Tensor out = Attention.timeMajor(ops, q);
        Native.check(
                GatunH.gatun_attention_decode(
                        ops.handle(),
                        out.raw(),
                        q.pointer(),
                        kPages.pointer(),
                        vPages.pointer(),
                        Tensor.pointer(pageTable),
                        lengths.pointer(),
                        scale),
                "attention_decode");
        return out;
    }
}
