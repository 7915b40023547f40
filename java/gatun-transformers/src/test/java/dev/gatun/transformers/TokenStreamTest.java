package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.HexFormat;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class TokenStreamTest {

    private static final long SEED = 20261125;

    private final Tokenizer tokenizer =
            Tokenizer.open(TokenizerParityTest.resources().resolve("plain"));

    @Test
    void partsPutTogetherAreTheWhole() {
        Random random = new Random(SEED);
        for (int round = 0; round < 2000; round++) {
            int[] ids =
                    round % 2 == 0
                            ? tokenizer.encode(ByteLevelBpeTest.randomText(random, 20))
                            // any ids: mostly broken UTF-8
                            : random.ints(20, 0, tokenizer.vocabSize()).toArray();
            for (boolean skipSpecial : new boolean[] {false, true}) {
                TokenStream stream = new TokenStream(tokenizer, skipSpecial);
                StringBuilder text = new StringBuilder();
                for (int id : ids) {
                    String part = stream.accept(id);
                    assertWhole(part, round);
                    text.append(part);
                }
                text.append(stream.flush());
                assertThat(text.toString())
                        .as("seed %d, round %d", SEED, round)
                        .isEqualTo(tokenizer.decode(ids, skipSpecial));
            }
        }
    }

    private static void assertWhole(String part, int round) {
        assertThat(part.codePoints().noneMatch(c -> c >= 0xD800 && c <= 0xDFFF))
                .as("seed %d, round %d: '%s' holds whole code points", SEED, round, part)
                .isTrue();
    }

    @Test
    void everySplitOfATextGivesTheTextBeforeIt() {
        int[] ids = tokenizer.encode("naïve 東京 🐳👨‍👩‍👧 \u0301 end");
        for (int split = 0; split <= ids.length; split++) {
            TokenStream stream = new TokenStream(tokenizer, false);
            StringBuilder text = new StringBuilder();
            for (int id : Arrays.copyOf(ids, split)) {
                text.append(stream.accept(id));
            }
            String shown = text.toString();
            assertThat(tokenizer.decode(ids)).startsWith(shown);
            text.append(stream.flush());
            assertThat(text.toString()).isEqualTo(tokenizer.decode(Arrays.copyOf(ids, split)));
        }
    }

    /** Tables 3-8 to 3-11 of the Unicode Standard; # stands for U+FFFD. */
    @ParameterizedTest
    @CsvSource({
        "C0 AF E0 80 BF F0 81 82 41, ########A",
        "ED A0 80 ED BF BF ED AF 41, ########A",
        "F4 91 92 93 FF 41 80 BF 42, #####A##B",
        "E1 80 E2 F0 91 92 F1 BF 41, ####A",
        "61 F1 80 80 E1 80 C2 62 80 63 80 BF 64, a###b#c##d",
        "E2 82, #",
        "F0 9F 90 B3, 🐳",
        "F0 9F 90, #",
    })
    void brokenBytesAreReplacedAsUnicodeAdvises(String hex, String wanted) {
        byte[] bytes = HexFormat.ofDelimiter(" ").parseHex(hex);
        int[] ids = new int[bytes.length];
        for (int i = 0; i < bytes.length; i++) {
            String spelling = String.valueOf(ByteAlphabet.spelling(bytes[i] & 0xFF));
            ids[i] = tokenizer.idOf(spelling).orElseThrow();
        }
        assertThat(tokenizer.decode(ids)).isEqualTo(wanted.replace('#', '\uFFFD'));
    }

    @Test
    void flushedStreamStartsAgain() {
        TokenStream stream = new TokenStream(tokenizer, false);
        int[] ids = tokenizer.encode("🐳");
        assertThat(ids.length).isGreaterThan(1);
        assertThat(stream.accept(ids[0])).isEmpty();
        assertThat(stream.flush()).isEqualTo("\uFFFD");
        StringBuilder text = new StringBuilder();
        for (int id : ids) {
            text.append(stream.accept(id));
        }
        assertThat(text.append(stream.flush()).toString()).isEqualTo("🐳");
    }

    @Test
    void skippedSpecialTokenLeavesNoTrace() {
        TokenStream stream = new TokenStream(tokenizer, true);
        assertThat(stream.accept(tokenizer.endOfText().orElseThrow())).isEmpty();
        assertThat(stream.flush()).isEmpty();
    }

    @Test
    void idBeyondTheVocabularyIsNamed() {
        TokenStream stream = new TokenStream(tokenizer, true);
        assertThatThrownBy(() -> stream.accept(700))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("700");
    }
}
