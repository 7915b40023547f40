package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class BpeTrainerTest {

    private static final long SEED = 20261125;

    @TempDir Path scratch;

    @Test
    void learnsWhatTheReferenceLearns() throws IOException {
        Path golden = TokenizerParityTest.resources().resolve("plain/tokenizer.json");
        Path file = scratch.resolve("tokenizer.json");
        BpeTrainer.of(700).train(corpus()).save(file);
        JsonNode trained = Json.MAPPER.readTree(file.toFile());
        JsonNode wanted = Json.MAPPER.readTree(golden.toFile());
        assertThat(trained.at("/model/vocab")).isEqualTo(wanted.at("/model/vocab"));
        assertThat(trained.at("/model/merges")).isEqualTo(wanted.at("/model/merges"));
        assertThat(trained.get("added_tokens")).isEqualTo(wanted.get("added_tokens"));
        assertThat(trained.get("pre_tokenizer")).isEqualTo(wanted.get("pre_tokenizer"));
        assertThat(trained.get("decoder")).isEqualTo(wanted.get("decoder"));
    }

    /** The lines of the corpus, with their ends, as the reference was given them. */
    private static List<String> corpus() throws IOException {
        String text = Files.readString(TokenizerParityTest.resources().resolve("corpus.txt"));
        return List.of(text.split("(?<=\n)"));
    }

    @Test
    void learnsWhatTheRuleSays() {
        Random random = new Random(SEED);
        for (int round = 0; round < 400; round++) {
            // few letters and few words: many ties, overlaps and tokens with two spellings
            List<String> texts = new ArrayList<>();
            int letters = 1 + random.nextInt(3);
            for (int i = random.nextInt(40); i > 0; i--) {
                StringBuilder word = new StringBuilder(random.nextBoolean() ? " " : "");
                for (int j = random.nextInt(14); j > 0; j--) {
                    word.append((char) ('a' + random.nextInt(letters)));
                }
                texts.add(word.toString());
            }
            int frequency = 1 + random.nextInt(3);
            ByteLevelBpe trained =
                    BpeTrainer.of(257 + random.nextInt(40)).minFrequency(frequency).train(texts);
            assertThat(mergesOf(trained))
                    .as("seed %d, round %d, texts %s", SEED, round, texts)
                    .isEqualTo(byTheRule(texts, trained.vocabSize(), frequency));
        }
    }

    private static List<String> mergesOf(ByteLevelBpe tokenizer) {
        return tokenizer.merges().stream()
                .map(m -> tokenizer.token(m.left()) + " " + tokenizer.token(m.right()))
                .toList();
    }

    /**
     * The merges, on plain lists. Each text is a single piece here. As in the reference, counts
     * follow what each merge changes around it (so that overlaps count as there), and a pair is
     * open from when it appears until it is merged.
     */
    private static List<String> byTheRule(List<String> texts, int vocabSize, int frequency) {
        List<String> tokens = new ArrayList<>(List.of("<|endoftext|>"));
        List<String> alphabet = new ArrayList<>();
        for (int b = 0; b < 256; b++) {
            alphabet.add(String.valueOf(ByteAlphabet.spelling(b)));
        }
        List<String> sorted = new ArrayList<>(alphabet);
        Collections.sort(sorted);
        tokens.addAll(sorted);

        List<List<Integer>> words = new ArrayList<>();
        Map<List<Integer>, Integer> counts = new HashMap<>();
        Set<List<Integer>> open = new LinkedHashSet<>();
        for (String text : texts) {
            List<Integer> word = new ArrayList<>();
            for (byte b : text.getBytes(StandardCharsets.UTF_8)) {
                word.add(tokens.indexOf(alphabet.get(b & 0xFF)));
            }
            words.add(word);
            for (int i = 0; i + 1 < word.size(); i++) {
                counts.merge(List.of(word.get(i), word.get(i + 1)), 1, Integer::sum);
                open.add(List.of(word.get(i), word.get(i + 1)));
            }
        }
        List<String> merges = new ArrayList<>();
        while (tokens.size() < vocabSize) {
            List<Integer> best = null;
            for (List<Integer> pair : open) {
                if (best == null || precedes(pair, best, counts)) {
                    best = pair;
                }
            }
            if (best == null || counts.get(best) < frequency) {
                break;
            }
            open.remove(best);
            String spelling = tokens.get(best.get(0)) + tokens.get(best.get(1));
            assertThat(tokens).doesNotContain(spelling);
            tokens.add(spelling);
            merges.add(tokens.get(best.get(0)) + " " + tokens.get(best.get(1)));
            for (List<Integer> word : words) {
                mergeIn(word, best, tokens.indexOf(spelling), counts, open);
            }
            open.removeIf(pair -> counts.get(pair) <= 0);
        }
        return merges;
    }

    private static boolean precedes(
            List<Integer> a, List<Integer> b, Map<List<Integer>, Integer> counts) {
        int order = Integer.compare(counts.get(b), counts.get(a));
        if (order == 0) {
            order = Integer.compare(a.get(0), b.get(0));
        }
        return order < 0 || (order == 0 && a.get(1) < b.get(1));
    }

    private static void mergeIn(
            List<Integer> word,
            List<Integer> pair,
            int merged,
            Map<List<Integer>, Integer> counts,
            Set<List<Integer>> open) {
        for (int i = 0; i + 1 < word.size(); i++) {
            if (!word.subList(i, i + 2).equals(pair)) {
                continue;
            }
            List<List<Integer>> appeared = new ArrayList<>();
            if (i > 0) {
                counts.merge(List.of(word.get(i - 1), pair.get(0)), -1, Integer::sum);
                appeared.add(List.of(word.get(i - 1), merged));
            }
            if (i + 2 < word.size()) {
                counts.merge(List.of(pair.get(1), word.get(i + 2)), -1, Integer::sum);
                appeared.add(List.of(merged, word.get(i + 2)));
            }
            for (List<Integer> a : appeared) {
                counts.merge(a, 1, Integer::sum);
                open.add(a);
            }
            word.set(i, merged);
            word.subList(i + 1, i + 2).clear();
        }
    }

    @Test
    void dependsOnTheTextsAlone() throws IOException {
        List<String> texts = new ArrayList<>(corpus());
        Path first = scratch.resolve("first.json");
        BpeTrainer.of(900).train(texts).save(first);
        for (int round = 0; round < 3; round++) {
            Collections.shuffle(texts, new Random(SEED + round));
            Path again = scratch.resolve("again.json");
            BpeTrainer.of(900).train(texts).save(again);
            assertThat(again).hasSameBinaryContentAs(first);
        }
    }

    @Test
    void savedAndOpenedItEncodesTheSame() throws IOException {
        ByteLevelBpe trained = BpeTrainer.of(1000).train(corpus());
        Path file = scratch.resolve("tokenizer.json");
        trained.save(file);
        Tokenizer opened = Tokenizer.open(scratch);
        assertThat(opened.vocabSize()).isEqualTo(1000);
        assertThat(opened.endOfText()).hasValue(0);
        for (String text : corpus()) {
            int[] ids = trained.encode(text);
            assertThat(opened.encode(text)).isEqualTo(ids);
            assertThat(opened.decode(ids)).isEqualTo(text);
        }
        Random random = new Random(SEED);
        for (int round = 0; round < 500; round++) {
            String text = ByteLevelBpeTest.randomText(random, 30);
            assertThat(opened.encode(text))
                    .as("seed %d, round %d", SEED, round)
                    .isEqualTo(trained.encode(text));
        }
    }

    @Test
    void specialTokensComeFirstAndAreNeverSpelled() {
        List<String> texts = Collections.nCopies(50, "hello hello hellos <|endoftext|>");
        ByteLevelBpe trained =
                BpeTrainer.of(400).specialTokens(List.of("<pad>", "hello")).train(texts);
        assertThat(trained.idOf("<pad>")).hasValue(0);
        assertThat(trained.idOf("hello")).hasValue(1);
        assertThat(trained.idOf("!")).hasValue(2);
        assertThat(trained.endOfText()).isEmpty();
        assertThat(trained.encode("hello")).doesNotContain(1);
        assertThat(trained.encodeWithSpecial("hello")).containsExactly(1);
        assertThat(trained.idOf("Ġhello")).isPresent();
    }

    @Test
    void textsWithTooFewPairsGiveASmallerVocabulary() {
        assertThat(BpeTrainer.of(1000).train(List.of()).vocabSize()).isEqualTo(257);
        assertThat(BpeTrainer.of(1000).train(List.of("", "a", "")).vocabSize()).isEqualTo(257);
        assertThat(BpeTrainer.of(1000).train(List.of("ab", "ab")).vocabSize()).isEqualTo(258);
        assertThat(BpeTrainer.of(1000).train(List.of("ab")).vocabSize()).isEqualTo(257);
        assertThat(BpeTrainer.of(1000).minFrequency(1).train(List.of("ab")).vocabSize())
                .isEqualTo(258);
    }

    @Test
    void progressCountsUpToTheVocabulary() throws IOException {
        List<Integer> seen = new ArrayList<>();
        BpeTrainer.of(500)
                .progress((tokens, wanted) -> {
                    assertThat(wanted).isEqualTo(500);
                    seen.add(tokens);
                })
                .train(corpus());
        assertThat(seen).isSorted().doesNotHaveDuplicates().last().isEqualTo(500);
    }

    @Test
    void textWithoutSpacesTakesSecondsAtMost() {
        Random random = new Random(SEED);
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 1_000_000; i++) {
            text.append("acgt".charAt(random.nextInt(4)));
        }
        List<String> texts = List.of(text.toString(), "A".repeat(1_000_000), " ".repeat(1_000_000));
        assertTimeoutPreemptively(
                Duration.ofSeconds(30),
                () -> assertThat(BpeTrainer.of(1000).train(texts).vocabSize()).isEqualTo(1000));
    }

    @Test
    void wrongArgumentsAreNamed() {
        assertThatThrownBy(() -> BpeTrainer.of(256))
                .hasMessageStartingWith(
                        "vocabulary of 256: 256 bytes and 1 special tokens need 257");
        assertThatThrownBy(() -> BpeTrainer.of(Integer.MAX_VALUE))
                .hasMessageStartingWith("vocabulary of 2147483647: ");
        assertThatThrownBy(() -> BpeTrainer.of(300).minFrequency(0))
                .hasMessage("minFrequency 0: at least 1");
        assertThatThrownBy(() -> BpeTrainer.of(300).specialTokens(List.of("<a>", "<a>")))
                .hasMessageContaining("given twice");
        assertThatThrownBy(() -> BpeTrainer.of(300).specialTokens(List.of("Ġ")))
                .hasMessageContaining("too short");
    }
}
