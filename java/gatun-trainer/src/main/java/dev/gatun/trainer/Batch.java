package dev.gatun.trainer;

import dev.gatun.transformers.CausalLm;

/**
 * Rows of token ids and, for each position, the id to predict there.
 *
 * @param ids {@code [rows, time]}, row-major
 * @param labels {@code [rows, time]}: what follows each position; {@link #IGNORED} where nothing is
 *     to be learned
 */
public record Batch(int[] ids, int[] labels, int rows, int time) {
    /** The label that counts nothing. */
    public static final int IGNORED = CausalLm.IGNORED;

    public Batch {
        if (ids.length != rows * time || labels.length != ids.length) {
            throw new IllegalArgumentException(
                    "batch: %d ids and %d labels, wanted %d rows of %d"
                            .formatted(ids.length, labels.length, rows, time));
        }
    }

    /** How many labels are not {@link #IGNORED}. */
    public long targets() {
        long count = 0;
        for (int label : labels) {
            if (label != IGNORED) {
                count++;
            }
        }
        return count;
    }
}
