package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class ByteLevelBpeTest {

    private static final long SEED = 20261125;
    private static final int MILLION = 1_000_000;

    private final Tokenizer tokenizer =
            Tokenizer.open(TokenizerParityTest.resources().resolve("plain"));

    @Test
    void anyTextDecodesToItself() {
        Random random = new Random(SEED);
        for (int round = 0; round < 3000; round++) {
            String text = randomText(random, random.nextInt(60));
            assertThat(tokenizer.decode(tokenizer.encode(text)))
                    .as("seed %d, round %d", SEED, round)
                    .isEqualTo(text);
        }
    }

    /** Whole code points of all planes, with many spaces and letters, without lone surrogates. */
    static String randomText(Random random, int codePoints) {
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < codePoints; i++) {
            int codePoint =
                    switch (random.nextInt(6)) {
                        case 0 -> ' ';
                        case 1 -> 'a' + random.nextInt(26);
                        case 2 -> random.nextInt(0x80);
                        case 3 -> random.nextInt(0xD800);
                        case 4 -> 0xE000 + random.nextInt(0x2000);
                        default -> 0x10000 + random.nextInt(0x100000);
                    };
            text.appendCodePoint(codePoint);
        }
        return text.toString();
    }

    @Test
    void specialTokensInTextFromOutsideArePlainText() {
        String text = "a<|endoftext|>b";
        int end = tokenizer.endOfText().orElseThrow();
        assertThat(tokenizer.encode(text)).doesNotContain(end);
        assertThat(tokenizer.encodeWithSpecial(text)).containsOnlyOnce(end);
        assertThat(tokenizer.decode(tokenizer.encode(text), true)).isEqualTo(text);
        assertThat(tokenizer.decode(tokenizer.encodeWithSpecial(text), true)).isEqualTo("ab");
        assertThat(tokenizer.isSpecial(end)).isTrue();
        assertThat(tokenizer.isSpecial(tokenizer.encode("a")[0])).isFalse();
    }

    @Test
    void loneSurrogateIsTheReplacementCharacter() {
        for (String text :
                List.of("\uD83D", "\uDC33", "a\uDC33\uD83Db", "\uD83D\uD83D\uDC33", "\uD83D x")) {
            StringBuilder mended = new StringBuilder();
            text.codePoints()
                    .map(c -> c >= 0xD800 && c <= 0xDFFF ? 0xFFFD : c)
                    .forEach(mended::appendCodePoint);
            assertThat(tokenizer.encode(text)).isEqualTo(tokenizer.encode(mended.toString()));
            assertThat(tokenizer.decode(tokenizer.encode(text))).isEqualTo(mended.toString());
        }
    }

    static Stream<String> hostileTexts() {
        return Stream.of(
                "A".repeat(MILLION),
                " ".repeat(MILLION),
                "_".repeat(MILLION),
                "\0".repeat(MILLION),
                "\n".repeat(MILLION) + "x",
                "'".repeat(MILLION),
                "中".repeat(MILLION),
                "\uDC00".repeat(MILLION),
                "e" + "\u0301".repeat(MILLION),
                "<|endoftext".repeat(MILLION / 10),
                "abcdefghij".repeat(MILLION / 10));
    }

    @ParameterizedTest
    @MethodSource("hostileTexts")
    void hostileTextTakesSecondsAtMost(String text) {
        assertTimeoutPreemptively(
                Duration.ofSeconds(10),
                () -> {
                    int[] ids = tokenizer.encodeWithSpecial(text);
                    assertThat(tokenizer.decode(ids).length()).isEqualTo(text.length());
                });
    }

    @Test
    void hostileLettersHaveNoLongestLengthThatIsFast() {
        // random letters without a space: one piece of a million bytes, most of which merge
        Random random = new Random(SEED);
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < MILLION; i++) {
            text.append("etaoinshr".charAt(random.nextInt(9)));
        }
        assertTimeoutPreemptively(
                Duration.ofSeconds(10),
                () -> {
                    int[] ids = tokenizer.encode(text.toString());
                    assertThat(ids.length).isLessThan(MILLION);
                    assertThat(tokenizer.decode(ids)).isEqualTo(text.toString());
                });
    }

    @Test
    void sharedBetweenThreadsItGivesTheSameIds() {
        Random random = new Random(SEED);
        List<String> texts = new ArrayList<>();
        for (int i = 0; i < 400; i++) {
            texts.add(randomText(random, 200));
        }
        List<int[]> alone =
                texts.stream()
                        .map(
                                Tokenizer.open(TokenizerParityTest.resources().resolve("plain"))
                                        ::encode)
                        .toList();
        IntStream.range(0, 8)
                .parallel()
                .forEach(thread -> {
                    for (int i = 0; i < texts.size(); i++) {
                        assertThat(tokenizer.encode(texts.get(i))).isEqualTo(alone.get(i));
                    }
                });
        List<int[]> all = tokenizer.encodeAll(texts);
        for (int i = 0; i < texts.size(); i++) {
            assertThat(all.get(i)).isEqualTo(alone.get(i));
        }
    }

    @Test
    void bytesOfATokenArePartOfTheText() {
        int[] ids = tokenizer.encode("é 東");
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        for (int id : ids) {
            bytes.writeBytes(tokenizer.bytes(id));
        }
        assertThat(bytes.toByteArray()).isEqualTo("é 東".getBytes(StandardCharsets.UTF_8));
    }

    @Test
    void bytesAreACopy() {
        int id = tokenizer.encode("a")[0];
        tokenizer.bytes(id)[0] = 'b';
        assertThat(tokenizer.decode(new int[] {id})).isEqualTo("a");
    }

    @Test
    void idBeyondTheVocabularyIsNamed() {
        for (int id : new int[] {-1, tokenizer.vocabSize(), Integer.MAX_VALUE, Integer.MIN_VALUE}) {
            assertThatThrownBy(() -> tokenizer.decode(new int[] {id}))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessage("token id %d is not in the vocabulary of 700", id);
            assertThatThrownBy(() -> tokenizer.token(id))
                    .isInstanceOf(IllegalArgumentException.class);
            assertThatThrownBy(() -> tokenizer.bytes(id))
                    .isInstanceOf(IllegalArgumentException.class);
            assertThat(tokenizer.isSpecial(id)).isFalse();
        }
        assertThat(tokenizer.idOf("no such token")).isEmpty();
    }
}
