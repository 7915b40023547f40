package dev.gatun.trainer;

import dev.gatun.transformers.Tokenizer;
import java.util.ArrayList;
import java.util.List;

/**
 * Documents as one stream of token ids, each document followed by {@code <|endoftext|>} where the
 * vocabulary has it. 16 bits a token while the vocabulary allows.
 */
public final class TokenDataset {
    private final char[] narrow;
    private final int[] wide;
    private final int size;

    private TokenDataset(char[] narrow, int[] wide, int size) {
        this.narrow = narrow;
        this.wide = wide;
        this.size = size;
    }

    /** Encodes the documents on all cores. Special tokens in their text are plain text. */
    public static TokenDataset of(List<String> documents, Tokenizer tokenizer) {
        List<int[]> encoded = tokenizer.encodeAll(documents);
        var end = tokenizer.endOfText();
        long total = 0;
        for (int[] ids : encoded) {
            total += ids.length + (end.isPresent() ? 1 : 0);
        }
        if (total > Integer.MAX_VALUE - 8) {
            throw new IllegalArgumentException(
                    "data: %d tokens, at most %d fit one dataset"
                            .formatted(total, Integer.MAX_VALUE - 8));
        }
        boolean fits = tokenizer.vocabSize() <= Character.MAX_VALUE + 1;
        var dataset =
                new TokenDataset(
                        new char[fits ? (int) total : 0],
                        new int[fits ? 0 : (int) total],
                        (int) total);
        int at = 0;
        for (int[] ids : encoded) {
            for (int id : ids) {
                dataset.set(at++, id);
            }
            if (end.isPresent()) {
                dataset.set(at++, end.getAsInt());
            }
        }
        return dataset;
    }

    private void set(int index, int id) {
        if (wide.length > 0) {
            wide[index] = id;
        } else {
            narrow[index] = (char) id;
        }
    }

    public int size() {
        return size;
    }

    public int id(int index) {
        return wide.length > 0 ? wide[index] : narrow[index];
    }

    /** Windows of {@code time} predictions, next to each other; the rest of the stream is left. */
    int windows(int time) {
        return Math.max(0, (size - 1) / time);
    }

    /** Whole windows, as one batch. */
    Batch batch(int[] windows, int from, int to, int time) {
        int rows = to - from;
        int[] ids = new int[rows * time];
        int[] labels = new int[rows * time];
        for (int row = 0; row < rows; row++) {
            int start = windows[from + row] * time;
            for (int t = 0; t < time; t++) {
                ids[row * time + t] = id(start + t);
                labels[row * time + t] = id(start + t + 1);
            }
        }
        return new Batch(ids, labels, rows, time);
    }

    /**
     * All predictions of the stream once, in order, for an evaluation: batches of at most {@code
     * rows} windows; the last window is padded with {@link Batch#IGNORED} labels.
     */
    List<Batch> inOrder(int rows, int time) {
        var batches = new ArrayList<Batch>();
        int windows = Math.ceilDiv(size - 1, time);
        for (int first = 0; first < windows; first += rows) {
            int count = Math.min(rows, windows - first);
            int[] ids = new int[count * time];
            int[] labels = new int[count * time];
            for (int i = 0; i < ids.length; i++) {
                int at = first * time + i;
                ids[i] = at < size - 1 ? id(at) : 0;
                labels[i] = at < size - 1 ? id(at + 1) : Batch.IGNORED;
            }
            batches.add(new Batch(ids, labels, count, time));
        }
        return batches;
    }
}
