package dev.gatun.trainer;

import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;

/**
 * Windows of a {@link TokenDataset} in a new random order each epoch, cut into batches and
 * accumulation windows. The order is a Fisher-Yates shuffle by {@link SplittableRandom} seeded with
 * {@code seed + epoch}. The last batch of an epoch may be short, and the last accumulation window
 * may hold fewer batches.
 */
public final class Batches implements TrainingData {
    private final TokenDataset data;
    private final int batchSize;
    private final int accumulation;
    private final int time;
    private final long seed;
    private final int windows;
    private long shuffledEpoch = -1;
    private int[] order = {};

    /**
     * @throws IllegalArgumentException if the data is shorter than one window of {@code time + 1}
     *     tokens
     */
    public Batches(TokenDataset data, int batchSize, int accumulation, int time, long seed) {
        this.data = data;
        this.batchSize = batchSize;
        this.accumulation = accumulation;
        this.time = time;
        this.seed = seed;
        this.windows = data.windows(time);
        if (windows == 0) {
            throw new IllegalArgumentException(
                    ("data: %d training tokens, fewer than one context of %d and its next token; "
                                    + "give more text or a smaller context")
                            .formatted(data.size(), time));
        }
    }

    @Override
    public long stepsPerEpoch() {
        int batches = Math.ceilDiv(windows, batchSize);
        return Math.ceilDiv(batches, accumulation);
    }

    @Override
    public List<Batch> window(long step) {
        int[] shuffled = order(step / stepsPerEpoch());
        int first = (int) (step % stepsPerEpoch()) * accumulation;
        var batches = new ArrayList<Batch>();
        for (int i = first; i < first + accumulation && (long) i * batchSize < windows; i++) {
            int from = i * batchSize;
            batches.add(data.batch(shuffled, from, Math.min(windows, from + batchSize), time));
        }
        return batches;
    }

    private int[] order(long epoch) {
        if (epoch != shuffledEpoch) {
            order = new int[windows];
            for (int i = 0; i < windows; i++) {
                order[i] = i;
            }
            var random = new SplittableRandom(seed + epoch);
            for (int i = windows - 1; i > 0; i--) {
                int j = random.nextInt(i + 1);
                int swapped = order[i];
                order[i] = order[j];
                order[j] = swapped;
            }
            shuffledEpoch = epoch;
        }
        return order;
    }
}
