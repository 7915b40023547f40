package dev.gatun.trainer;

import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Tensor;
import dev.gatun.transformers.CausalLm;
import dev.gatun.transformers.Tokenizer;
import java.util.List;

/**
 * Measures a model on text that it was not trained on: every token of the stream is predicted once,
 * from the tokens before it in its window.
 */
public final class Evaluation {
    /**
     * What was measured.
     *
     * @param loss mean nats per target
     * @param bitsPerByte the nats of all targets / ln 2 / the UTF-8 bytes that these targets decode
     *     to; an end-of-text target costs its nats and adds no bytes
     * @param targets how many
     * @param bytes how many
     */
    public record Result(double loss, double bitsPerByte, long targets, long bytes) {}

    private final List<Batch> batches;
    private final long targets;
    private final long bytes;

    /**
     * @param rows windows of a batch
     * @param time tokens of a window
     * @throws IllegalArgumentException if there is nothing to predict
     */
    public Evaluation(TokenDataset data, Tokenizer tokenizer, int rows, int time) {
        this(data.inOrder(rows, time), tokenizer);
    }

    private Evaluation(List<Batch> batches, Tokenizer tokenizer) {
        this.batches = batches;
        long count = 0;
        long size = 0;
        for (Batch batch : batches) {
            for (int label : batch.labels()) {
                if (label != Batch.IGNORED) {
                    count++;
                    size += tokenizer.isSpecial(label) ? 0 : tokenizer.bytes(label).length;
                }
            }
        }
        if (count == 0) {
            throw new IllegalArgumentException("data: no validation tokens to predict");
        }
        this.targets = count;
        this.bytes = size;
    }

    /** A quicker look: every n-th batch, so that about {@code targets} tokens are predicted. */
    public Evaluation sample(long wantedTargets, Tokenizer tokenizer) {
        int stride = (int) Math.max(1, targets / Math.max(1, wantedTargets));
        var some = new java.util.ArrayList<Batch>();
        for (int i = 0; i < batches.size(); i += stride) {
            some.add(batches.get(i));
        }
        return new Evaluation(some, tokenizer);
    }

    /** How many tokens are predicted. */
    public long targets() {
        return targets;
    }

    /** The UTF-8 bytes of all targets. */
    public long bytes() {
        return bytes;
    }

    /** Waits for the result. */
    public Result of(CausalLm model) {
        double nats = 0;
        try (Ops ops = model.device().ops()) {
            for (Batch batch : batches) {
                Tensor ids = ops.ids(batch.ids(), model.vocabulary(), batch.rows(), batch.time());
                Tensor labels =
                        ops.labels(
                                batch.labels(),
                                model.vocabulary(),
                                Batch.IGNORED,
                                batch.rows(),
                                batch.time());
                nats += model.loss(ops, ids, labels, null).item();
                ops.reset();
            }
        }
        return new Result(nats / targets, nats / Math.log(2) / Math.max(1, bytes), targets, bytes);
    }
}
