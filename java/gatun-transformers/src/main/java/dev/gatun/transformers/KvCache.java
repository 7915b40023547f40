package dev.gatun.transformers;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Mask;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * The keys and values of all tokens so far, for a batch of texts. Contiguous: one page per text.
 *
 * <p>Each text has its own length, kept on the device, so that a decoding step is the same work
 * every time. B batch, H key/value heads, S slots, D head size.
 */
public final class KvCache implements AutoCloseable {
    private record Pages(Tensor keys_BHSD, Tensor values_BHSD) {}

    private final List<Pages> layers = new ArrayList<>();
    private final Tensor lengths_B;
    private final int slots;

    /** What lengths_B holds once the work enqueued so far is done. */
    private final int[] lengths;

    /** Takes the memory for all slots at once. */
    public KvCache(
            Device device, DType dtype, int layers, int batch, int heads, int slots, int headSize) {
        this.slots = slots;
        lengths = new int[batch];
        lengths_B = Tensor.empty(device, DType.I32, Purpose.KV_CACHE, batch);
        try {
            lengths_B.write(lengths);
            for (int l = 0; l < layers; l++) {
                Tensor keys = pages(device, dtype, batch, heads, slots, headSize);
                try {
                    Tensor values = pages(device, dtype, batch, heads, slots, headSize);
                    this.layers.add(new Pages(keys, values));
                } catch (RuntimeException e) {
                    keys.close();
                    throw e;
                }
            }
        } catch (RuntimeException e) {
            close();
            throw e;
        }
    }

    private static Tensor pages(Device device, DType dtype, long... shape_BHSD) {
        return Tensor.empty(device, dtype, Purpose.KV_CACHE, shape_BHSD);
    }

    /** Texts side by side. */
    public int batch() {
        return lengths.length;
    }

    /** The most tokens that a text can have. */
    public int slots() {
        return slots;
    }

    /** Tokens of the longest text. */
    public int length() {
        return Arrays.stream(lengths).max().orElse(0);
    }

    /** i32 [B]: tokens of each text, on the device. */
    Tensor lengths_B() {
        return lengths_B;
    }

    /**
     * @throws IllegalArgumentException if these tokens are for another batch or do not fit
     */
    void checkRoom(long rows, long tokens) {
        if (rows != batch()) {
            throw new IllegalArgumentException(
                    "kv cache: made for %d texts, had tokens of %d".formatted(batch(), rows));
        }
        if (tokens > slots - length()) {
            throw new IllegalArgumentException(
                    "kv cache: %d of %d slots are taken, %d more tokens do not fit"
                            .formatted(length(), slots, tokens));
        }
    }

    /**
     * Adds the keys and values of new tokens to one layer, and lets the new queries look at all up
     * to themselves. Lengths stay as they are until {@link #advance}.
     *
     * @param q_BHTD queries; {@code k_BHTD} and {@code v_BHTD} may have fewer heads
     * @return [B, H, T, D]
     */
    Tensor attend(Ops ops, int layer, Tensor q_BHTD, Tensor k_BHTD, Tensor v_BHTD, float scale) {
        Pages pages = layers.get(layer);
        ops.kvAppend(pages.keys_BHSD, pages.values_BHSD, k_BHTD, v_BHTD, null, lengths_B);
        // the first tokens see only each other: no need to go through the pages
        return length() == 0
                ? ops.attention(q_BHTD, k_BHTD, v_BHTD, Mask.CAUSAL, scale)
                : ops.attentionDecode(
                        q_BHTD, pages.keys_BHSD, pages.values_BHSD, null, lengths_B, scale);
    }

    /** Counts tokens that all layers have. */
    void advance(Ops ops, int tokens) {
        ops.increment(lengths_B, tokens);
        launched(tokens);
    }

    /** What {@link #advance} did when it was captured happens again. */
    void launched(int tokens) {
        Arrays.setAll(lengths, b -> lengths[b] + tokens);
    }

    /**
     * Shortens texts to these lengths: what they held beyond is forgotten.
     *
     * @throws IllegalArgumentException if there are not as many lengths as texts, or a text is
     *     shorter already
     */
    public void truncate(int... wanted) {
        boolean fits = wanted.length == lengths.length;
        for (int b = 0; fits && b < wanted.length; b++) {
            fits = wanted[b] >= 0 && wanted[b] <= lengths[b];
        }
        if (!fits) {
            throw new IllegalArgumentException(
                    "kv cache: texts of %s tokens cannot be shortened to %s"
                            .formatted(Arrays.toString(lengths), Arrays.toString(wanted)));
        }
        System.arraycopy(wanted, 0, lengths, 0, wanted.length);
        lengths_B.write(lengths);
    }

    /** Forgets one text: its tokens begin anew. */
    void restart(int text) {
        lengths[text] = 0;
        lengths_B.write(lengths);
    }

    @Override
    public void close() {
        lengths_B.close();
        for (Pages pages : layers) {
            pages.keys_BHSD.close();
            pages.values_BHSD.close();
        }
    }
}
