package dev.gatun.transformers;

import dev.gatun.transformers.ByteLevelBpe.Merge;
import dev.gatun.transformers.ByteLevelBpe.Options;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;
import java.util.stream.IntStream;

/**
 * Learns a byte-level byte-pair encoding (Sennrich et al. 2016, section 3.2, over the bytes of
 * GPT-2's pieces): again and again the most frequent pair of neighbours becomes a new token.
 *
 * <pre>{@code
 * ByteLevelBpe tokenizer = BpeTrainer.of(2048).train(texts);
 * tokenizer.save(folder.resolve("tokenizer.json"));
 * }</pre>
 *
 * <p>Ids: special tokens in the order given, then the 256 bytes in the order of their spelling,
 * then the merges. The result depends on the texts alone, not on their order or on threads. Of
 * equally frequent pairs the one with the smaller left id, then the smaller right id, comes first.
 * That is the order of the {@code tokenizers} library. Unlike there, no merge ever spells a special
 * token, so that plain text cannot become one.
 *
 * @param vocabSize tokens wanted, fewer if the texts have too few pairs; at least 256 and the
 *     special tokens
 * @param minFrequency a pair that occurs less often is not merged
 * @param specialTokens tokens that stand for no text
 * @param progress told after each new token, on the thread that trains
 */
public record BpeTrainer(
        int vocabSize, long minFrequency, List<String> specialTokens, Progress progress) {

    /** Watches a training. */
    @FunctionalInterface
    public interface Progress {
        /**
         * Called after each new token.
         *
         * @param tokens tokens in the vocabulary so far
         * @param wanted tokens wanted
         */
        void at(int tokens, int wanted);
    }

    /**
     * Checks the settings.
     *
     * @throws IllegalArgumentException if the vocabulary has no room for the bytes and the special
     *     tokens, or a special token is empty, a single byte or given twice
     */
    public BpeTrainer {
        specialTokens = List.copyOf(specialTokens);
        if (new HashSet<>(specialTokens).size() != specialTokens.size()) {
            throw new IllegalArgumentException("a special token is given twice: " + specialTokens);
        }
        for (String token : specialTokens) {
            if (token.isEmpty() || ByteAlphabet.bytes(token).length == 1) {
                throw new IllegalArgumentException(
                        "special token '%s' is too short: two characters are the least"
                                .formatted(token));
            }
        }
        int least = 256 + specialTokens.size();
        if (vocabSize < least || vocabSize > Vocabulary.LARGEST_ID) {
            throw new IllegalArgumentException(
                    "vocabulary of %d: 256 bytes and %d special tokens need %d, at most %d"
                            .formatted(
                                    vocabSize, specialTokens.size(), least, Vocabulary.LARGEST_ID));
        }
        if (minFrequency < 1) {
            throw new IllegalArgumentException(
                    "minFrequency %d: at least 1".formatted(minFrequency));
        }
    }

    /** Pairs that occur twice, and {@code <|endoftext|>} as id 0. */
    public static BpeTrainer of(int vocabSize) {
        return new BpeTrainer(
                vocabSize, 2, List.of(ByteLevelBpe.END_OF_TEXT), (tokens, wanted) -> {});
    }

    public BpeTrainer minFrequency(long frequency) {
        return new BpeTrainer(vocabSize, frequency, specialTokens, progress);
    }

    public BpeTrainer specialTokens(List<String> tokens) {
        return new BpeTrainer(vocabSize, minFrequency, tokens, progress);
    }

    public BpeTrainer progress(Progress listener) {
        return new BpeTrainer(vocabSize, minFrequency, specialTokens, listener);
    }

    /**
     * Learns from texts, each cut into pieces on its own (on all cores of the common pool). Special
     * tokens in them are plain text.
     */
    public ByteLevelBpe train(Collection<String> texts) {
        PieceCounts words =
                texts.parallelStream()
                        .collect(PieceCounts::new, PieceCounts::addText, PieceCounts::addAll);
        return new Training(words).run();
    }

    /** One run: the words as linked lists of symbols, and where each pair of neighbours is. */
    private final class Training {

        private static final int NOWHERE = -1;

        private final List<String> tokens = new ArrayList<>();
        private final List<Merge> merges = new ArrayList<>();

        private final int[] symbols; // by place in the words; NOWHERE after it was merged away
        private final int[] next; // place of the neighbour in the same word
        private final int[] previous;
        private final long[] weights; // by place, of the word

        private final Map<Long, Pair> pairs = new HashMap<>();
        private final PriorityQueue<Candidate> queue = new PriorityQueue<>();
        private final List<Pair> grown = new ArrayList<>(); // pairs that the merge at hand made

        Training(PieceCounts words) {
            specialTokens.forEach(this::add);
            int[] byteIds = new int[256];
            IntStream.range(0, 256)
                    .boxed()
                    .sorted(Comparator.comparingInt(ByteAlphabet::spelling))
                    .forEach(b -> byteIds[b] = add(String.valueOf(ByteAlphabet.spelling(b))));

            int places = words.size() == 0 ? 0 : words.end(words.size() - 1);
            symbols = new int[places];
            next = new int[places];
            previous = new int[places];
            weights = new long[places];
            for (int word = 0; word < words.size(); word++) {
                int start = words.start(word);
                int end = words.end(word);
                for (int at = start; at < end; at++) {
                    symbols[at] = byteIds[words.byteAt(at) & 0xFF];
                    next[at] = at + 1 < end ? at + 1 : NOWHERE;
                    previous[at] = at > start ? at - 1 : NOWHERE;
                    weights[at] = words.count(word);
                    if (at > start) {
                        grow(at - 1, symbols[at - 1], symbols[at]);
                    }
                }
            }
            queueGrown();
        }

        private int add(String token) {
            tokens.add(token);
            return tokens.size() - 1;
        }

        ByteLevelBpe run() {
            while (tokens.size() < vocabSize) {
                Candidate top = queue.poll();
                if (top == null) {
                    break;
                }
                Pair pair = top.pair;
                if (top.count != pair.count) {
                    queue.add(new Candidate(pair, pair.count));
                    continue;
                }
                if (pair.count < minFrequency) {
                    break;
                }
                merge(pair);
            }
            return tokenizer();
        }

        private void merge(Pair pair) {
            String spelling = tokens.get(pair.left) + tokens.get(pair.right);
            if (specialTokens.contains(spelling)) {
                return;
            }
            // No other pair can have made this token. Where its bytes stand between the same two
            // boundaries, the same earlier merges were made inside, so that they end in one pair.
            int merged = add(spelling);
            merges.add(new Merge(pair.left, pair.right, merged));
            for (int place : pair.takePlaces()) {
                if (symbols[place] == pair.left
                        && next[place] != NOWHERE
                        && symbols[next[place]] == pair.right) {
                    mergeAt(place, pair, merged);
                }
            }
            queueGrown();
            progress.at(tokens.size(), vocabSize);
        }

        private void mergeAt(int place, Pair pair, int merged) {
            int gone = next[place];
            int after = next[gone];
            int before = previous[place];
            symbols[place] = merged;
            symbols[gone] = NOWHERE;
            next[place] = after;
            if (before != NOWHERE) {
                shrink(place, symbols[before], pair.left);
                grow(before, symbols[before], merged);
            }
            if (after != NOWHERE) {
                previous[after] = place;
                shrink(place, pair.right, symbols[after]);
                grow(place, merged, symbols[after]);
            }
        }

        /** One pair less; where it was is found out of date later. */
        private void shrink(int place, int left, int right) {
            pair(left, right).count -= weights[place];
        }

        private void grow(int place, int left, int right) {
            Pair pair = pair(left, right);
            pair.count += weights[place];
            pair.add(place);
            if (!pair.growing) {
                pair.growing = true;
                grown.add(pair);
            }
        }

        private Pair pair(int left, int right) {
            return pairs.computeIfAbsent(((long) left << 32) | right, key -> new Pair(left, right));
        }

        private void queueGrown() {
            for (Pair pair : grown) {
                pair.growing = false;
                if (pair.count > 0) {
                    queue.add(new Candidate(pair, pair.count));
                }
            }
            grown.clear();
        }

        private ByteLevelBpe tokenizer() {
            Vocabulary vocabulary = new Vocabulary();
            for (int id = 0; id < tokens.size(); id++) {
                vocabulary.add(tokens.get(id), id);
            }
            List<AddedToken> added = new ArrayList<>();
            for (int id = 0; id < specialTokens.size(); id++) {
                vocabulary.markSpecial(id);
                added.add(AddedToken.special(id, specialTokens.get(id)));
            }
            return new ByteLevelBpe(
                    vocabulary,
                    merges,
                    added,
                    Options.GPT2,
                    new int[0],
                    new int[0],
                    TokenizerJson.Envelope.gpt2());
        }
    }

    /** A pair of neighbours: how often, and the places of its left one, some out of date. */
    private static final class Pair {

        final int left;
        final int right;
        long count;
        boolean growing;
        private int[] places = new int[4];
        private int size;

        Pair(int left, int right) {
            this.left = left;
            this.right = right;
        }

        void add(int place) {
            if (size == places.length) {
                places = Arrays.copyOf(places, 2 * size);
            }
            places[size++] = place;
        }

        /** All places; they ascend, since every merge goes through its places from the left. */
        int[] takePlaces() {
            int[] taken = Arrays.copyOf(places, size);
            places = new int[0];
            size = 0;
            return taken;
        }
    }

    /** A pair with the count it had when it was queued. */
    private record Candidate(Pair pair, long count) implements Comparable<Candidate> {

        private static final Comparator<Candidate> ORDER =
                Comparator.comparingLong((Candidate c) -> -c.count)
                        .thenComparingInt(c -> c.pair.left)
                        .thenComparingInt(c -> c.pair.right);

        @Override
        public int compareTo(Candidate other) {
            return ORDER.compare(this, other);
        }
    }
}
