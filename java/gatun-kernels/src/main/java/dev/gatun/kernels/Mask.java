package dev.gatun.kernels;

import org.jspecify.annotations.Nullable;

/**
 * Which keys a query may see.
 *
 * @param causal query i sees keys j &le; i + Tk &minus; Tq: the last query sees the last key
 * @param visible i32 [B]: keys j &lt; visible[b] are there; null: all of them
 */
public record Mask(boolean causal, @Nullable Tensor visible) {

    /** Every query sees every key. */
    public static final Mask NONE = new Mask(false, null);

    /** No query sees a later key. */
    public static final Mask CAUSAL = new Mask(true, null);

    /** Causal, and row b has only its first lengths[b] keys; lengths i32 [B]. */
    public static Mask causal(Tensor lengths) {
        return new Mask(true, lengths);
    }

    /** Row b has only its first lengths[b] keys; lengths i32 [B]. */
    public static Mask lengths(Tensor lengths) {
        return new Mask(false, lengths);
    }
}
