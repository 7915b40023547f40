package dev.gatun.kernels;

import org.jspecify.annotations.Nullable;

/**
 * A weight of a model as an optimizer sees it.
 *
 * @param name its name in the checkpoint
 * @param weight its values: what is saved and what an optimizer updates
 * @param copy its values in 16 bits, which the forward pass reads instead; null: it reads the
 *     weight
 * @param decayed whether weight decay applies (matrices and embeddings; not biases, not norms)
 * @param trained whether it is trained at all
 */
public record Parameter(
        String name, Tensor weight, @Nullable Tensor copy, boolean decayed, boolean trained) {

    /** A weight that the forward pass reads itself. */
    public Parameter(String name, Tensor weight, boolean decayed, boolean trained) {
        this(name, weight, null, decayed, trained);
    }

    /** What the forward pass reads, and hence what has the gradient ({@link Tensor#gradient()}). */
    public Tensor leaf() {
        return copy == null ? weight : copy;
    }

    /** Makes the copy, if there is one, equal to a weight that was overwritten. */
    public void refresh(Ops ops) {
        if (copy != null) {
            ops.copy(copy, weight);
        }
    }
}
