package dev.gatun.transformers;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * GPT-2's spelling of bytes as printable characters, so that a vocabulary of byte strings fits in
 * JSON: the 188 printable Latin-1 characters stand for themselves, the other 68 bytes for U+0100,
 * U+0101, … in order (source: {@code bytes_to_unicode} of OpenAI's GPT-2 release).
 */
final class ByteAlphabet {

    private static final char[] SPELLING = new char[256];
    // U+0143 is the last spelling; -1 for a character that spells no byte
    private static final int[] BYTE = new int[0x144];

    static {
        Arrays.fill(BYTE, -1);
        char next = 0x100;
        for (int b = 0; b < 256; b++) {
            boolean printable =
                    (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
            SPELLING[b] = printable ? (char) b : next++;
            BYTE[SPELLING[b]] = b;
        }
    }

    private ByteAlphabet() {}

    /** The character that spells byte {@code b}, 0 to 255. */
    static char spelling(int b) {
        return SPELLING[b];
    }

    /**
     * The bytes that a token spells. A token with any character outside the alphabet stands for its
     * own UTF-8 form, as in the reference implementation.
     */
    static byte[] bytes(String token) {
        byte[] bytes = new byte[token.length()];
        for (int i = 0; i < bytes.length; i++) {
            char c = token.charAt(i);
            if (c >= BYTE.length || BYTE[c] < 0) {
                return token.getBytes(StandardCharsets.UTF_8);
            }
            bytes[i] = (byte) BYTE[c];
        }
        return bytes;
    }
}
