package dev.gatun.kernels;

import org.jspecify.annotations.Nullable;

/**
 * Which keys a query may see.
 *
 * @param causal query i sees keys j &le; i + Tk &minus; Tq: the last query sees the last key
 * @param visible i32 [B]: keys j &lt; visible[b] are there; null: all of them
 * @param qStarts i32 [S + 1]: the first query of each packed sequence, and where the last one ends;
 *     null: nothing is packed
 * @param kStarts i32 [S + 1]: likewise of the keys
 */
public record Mask(
        boolean causal,
        @Nullable Tensor visible,
        @Nullable Tensor qStarts,
        @Nullable Tensor kStarts) {

    /** Every query sees every key. */
    public static final Mask NONE = new Mask(false, null, null, null);

    /** No query sees a later key. */
    public static final Mask CAUSAL = new Mask(true, null, null, null);

    /** Causal, and row b has only its first lengths[b] keys; lengths i32 [B]. */
    public static Mask causal(Tensor lengths) {
        return new Mask(true, lengths, null, null);
    }

    /** Row b has only its first lengths[b] keys; lengths i32 [B]. */
    public static Mask lengths(Tensor lengths) {
        return new Mask(false, lengths, null, null);
    }

    /**
     * Sequences one after another in the only row of the batch, each seeing only itself: sequence s
     * has queries qStarts[s] .. qStarts[s + 1] − 1 and keys kStarts[s] .. kStarts[s + 1] − 1. Rows
     * behind the last sequence give 0 and have no gradient. Where a text attends to itself, both
     * are the same tensor.
     */
    public static Mask packed(Tensor qStarts, Tensor kStarts) {
        return new Mask(false, null, qStarts, kStarts);
    }

    /** Packed, and causal within each sequence: its last query sees its last key. */
    public static Mask causalPacked(Tensor qStarts, Tensor kStarts) {
        return new Mask(true, null, qStarts, kStarts);
    }
}
