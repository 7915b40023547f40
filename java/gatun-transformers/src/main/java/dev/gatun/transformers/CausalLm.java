package dev.gatun.transformers;

import dev.gatun.kernels.CrossEntropy;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Tensor;
import java.util.Arrays;
import java.util.List;
import java.util.function.Consumer;
import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;

/**
 * A model that predicts the next token from those before it.
 *
 * <p>B batch, T tokens, D model width, V vocabulary.
 */
public sealed interface CausalLm extends Model permits Gpt2 {
    /** Token ids are 0 … vocabulary - 1. */
    int vocabulary();

    /** The most tokens that the model can see: prompt and continuation together. */
    int context();

    /**
     * The output of the last layer for each token, after the final norm.
     *
     * @param ids_BT i32, token ids; a value beyond the vocabulary is reported by the next wait
     * @param cache null: the tokens begin a text. Else they follow what the cache holds, which
     *     afterwards holds them too; not while recording
     * @return [B, T, D]
     */
    Tensor hidden(Ops ops, Tensor ids_BT, @Nullable KvCache cache);

    /**
     * The scores of all possible next tokens.
     *
     * @param hidden_BTD what {@link #hidden} returned, or some rows of it
     * @return [B, T, V], rows apart as {@link Ops#logits} has them
     */
    Tensor head(Ops ops, Tensor hidden_BTD);

    /** An empty cache for that many texts of at most {@code slots} tokens. */
    KvCache cache(int batch, int slots);

    /** What {@code generate} does where the caller's settings say nothing. */
    GenerationConfig generationDefaults();

    /**
     * The scores of all possible next tokens after each token of texts that begin here. With a
     * plain {@link Ops} this is inference, with a {@link dev.gatun.kernels.Tape} training.
     *
     * @param ids_BT i32, token ids
     * @return logits [B, T, V]
     */
    default Tensor forward(Ops ops, Tensor ids_BT) {
        return head(ops, hidden(ops, ids_BT, null));
    }

    /**
     * As {@link #forward(Ops, Tensor)} for the tokens that follow what the cache holds: a whole
     * prompt at first, then one token after the other.
     *
     * @return logits [B, T, V] of the new tokens
     */
    default Tensor forward(Ops ops, Tensor ids_BT, KvCache cache) {
        return head(ops, hidden(ops, ids_BT, cache));
    }

    /**
     * The loss of next-token prediction: the sum over all targets of their negative log-likelihood
     * in nats, times {@code factor}.
     *
     * @param targets_BT i32: the token that follows at each position, or -100 where none counts
     *     ({@link #targets} makes them from labels)
     * @param factor f32 scalar on the device, usually 1 / number of targets of the whole
     *     accumulation window; null means 1
     * @return f32 scalar
     */
    default Tensor loss(Ops ops, Tensor ids_BT, Tensor targets_BT, @Nullable Tensor factor) {
        return loss(ops, ids_BT, targets_BT, CrossEntropy.Options.DEFAULT, factor);
    }

    /**
     * As {@link #loss(Ops, Tensor, Tensor, Tensor)}, with label smoothing or another ignored id.
     */
    default Tensor loss(
            Ops ops,
            Tensor ids_BT,
            Tensor targets_BT,
            CrossEntropy.Options options,
            @Nullable Tensor factor) {
        return ops.crossEntropy(forward(ops, ids_BT), targets_BT, options, factor);
    }

    /**
     * The mean loss of one batch with labels as the reference library takes them: {@code
     * labels[b][t]} belongs to token t (it is predicted at t - 1), -100 counts nothing.
     *
     * @throws IllegalArgumentException if rows differ in length, or an id is beyond the vocabulary
     * @return f32 scalar, in nats per target
     */
    default Tensor loss(Ops ops, int[][] ids, int[][] labels) {
        int batch = ids.length;
        int tokens = batch == 0 ? 0 : ids[0].length;
        int[] flat = flat("ids", ids, tokens);
        int[] targets = targets(flat("labels", labels, tokens), batch, tokens);
        long count = Arrays.stream(targets).filter(t -> t != IGNORED).count();
        Tensor ids_BT = ops.ids(flat, vocabulary(), batch, tokens);
        Tensor targets_BT = ops.labels(targets, vocabulary(), IGNORED, batch, tokens);
        Tensor factor = ops.upload(new float[] {1f / Math.max(1, count)}, 1);
        return loss(ops, ids_BT, targets_BT, factor);
    }

    /** The target that counts nothing. */
    int IGNORED = -100;

    /**
     * Labels moved one place to the left in each row: the target of position t is the label of t +
     * 1, that of the last position is -100.
     */
    static int[] targets(int[] labels_BT, int batch, int tokens) {
        if (labels_BT.length != batch * tokens) {
            throw new IllegalArgumentException(
                    "labels: has %d values, wanted %d x %d"
                            .formatted(labels_BT.length, batch, tokens));
        }
        int[] targets = new int[labels_BT.length];
        for (int b = 0; b < batch; b++) {
            int row = b * tokens;
            System.arraycopy(labels_BT, row + 1, targets, row, Math.max(0, tokens - 1));
            if (tokens > 0) {
                targets[row + tokens - 1] = IGNORED;
            }
        }
        return targets;
    }

    private static int[] flat(String what, int[][] rows, int tokens) {
        int[] flat = new int[rows.length * tokens];
        for (int b = 0; b < rows.length; b++) {
            if (rows[b].length != tokens) {
                throw new IllegalArgumentException(
                        "%s: row %d has %d tokens, wanted %d as in row 0 of the ids: pad them"
                                .formatted(what, b, rows[b].length, tokens));
            }
            System.arraycopy(rows[b], 0, flat, b * tokens, tokens);
        }
        return flat;
    }

    /**
     * Continues a text.
     *
     * @param sink receives the continuation as it comes, in whole code points
     * @throws IllegalStateException if the model has no tokenizer
     * @throws IllegalArgumentException if the prompt leaves no room in the model's context
     */
    default Generation generate(String prompt, GenerationConfig config, Consumer<String> sink) {
        return Generate.text(this, prompt, config, sink);
    }

    /**
     * Continues a sequence of token ids.
     *
     * @param sink receives each id as it comes
     * @throws IllegalArgumentException if the prompt is empty, leaves no room in the model's
     *     context, or holds an id beyond the vocabulary
     */
    default Generation generate(int[] prompt, GenerationConfig config, IntConsumer sink) {
        return Generate.ids(this, List.of(prompt), config, (_, id) -> sink.accept(id)).getFirst();
    }

    /** Continues several sequences of any lengths together; each comes out as it would alone. */
    default List<Generation> generate(List<int[]> prompts, GenerationConfig config) {
        return Generate.ids(this, prompts, config, (_, _) -> {});
    }
}
