package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

/** The scanner against a pattern engine, which is right where it does not overflow. */
class Gpt2PiecesTest {

    private static final long SEED = 20261125;

    private static final Pattern GPT2 =
            Pattern.compile(
                    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
                            + "|\\s+(?!\\S)|\\s+",
                    Pattern.UNICODE_CHARACTER_CLASS);

    private static final String[] PARTS = {
        "a", "B", "é", "中", "𝒳", "1", "½", "٣", "𝟙", "'", "'s", "'re", "'ll", "'S", "!", "_",
        "🐳", "\u0301", "\u200D", " ", " ", " ", "\n", "\t", "\r", "\u00A0", "\u3000", "\u0085",
        "\u001C", "\u0000", "\uFEFF", "'v", "'r", "'l", "ve", "s"
    };

    @Test
    void randomTextsAreCutAsThePatternCutsThem() {
        Random random = new Random(SEED);
        for (int round = 0; round < 20_000; round++) {
            StringBuilder text = new StringBuilder();
            int parts = random.nextInt(14);
            for (int i = 0; i < parts; i++) {
                text.append(PARTS[random.nextInt(PARTS.length)]);
            }
            assertThat(scanned(text.toString()))
                    .as("seed %d, round %d", SEED, round)
                    .isEqualTo(matched(text.toString()));
        }
    }

    @Test
    void everyCodePointIsOfTheSameClass() {
        for (int codePoint = 0; codePoint <= Character.MAX_CODE_POINT; codePoint++) {
            if (codePoint == Character.MIN_SURROGATE) {
                codePoint = Character.MAX_SURROGATE + 1;
            }
            String c = Character.toString(codePoint);
            String text = "a" + c + "1" + c + "!" + c + " ";
            if (!scanned(text).equals(matched(text))) {
                assertThat(scanned(text)).as("U+%04X", codePoint).isEqualTo(matched(text));
            }
        }
    }

    private static List<String> scanned(String text) {
        byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
        List<String> pieces = new ArrayList<>();
        for (int at = 0; at < utf8.length; ) {
            int end = Gpt2Pieces.end(utf8, at, utf8.length);
            pieces.add(new String(utf8, at, end - at, StandardCharsets.UTF_8));
            at = end;
        }
        return pieces;
    }

    private static List<String> matched(String text) {
        List<String> pieces = new ArrayList<>();
        Matcher matcher = GPT2.matcher(text);
        while (matcher.find()) {
            pieces.add(matcher.group());
        }
        assertThat(String.join("", pieces)).isEqualTo(text);
        return pieces;
    }
}
