package dev.gatun.transformers;

import java.nio.charset.StandardCharsets;

/**
 * An incremental UTF-8 decoder that never fails: each maximal invalid sequence becomes one U+FFFD
 * (Unicode Standard, section 3.9, "U+FFFD Substitution of Maximal Subparts"). {@code new
 * String(bytes, UTF_8)} differs for encoded surrogates and cannot stop in the middle of a code
 * point.
 */
final class Utf8 {

    private static final char REPLACEMENT = '\uFFFD';

    private int codePoint;
    private int missing; // bytes still wanted for codePoint
    private int low = 0x80; // the range allowed for the next byte
    private int high = 0xBF;

    /** The UTF-8 form of a text; a lone surrogate becomes U+FFFD. */
    static byte[] bytes(String text) {
        if (!hasLoneSurrogate(text)) {
            return text.getBytes(StandardCharsets.UTF_8);
        }
        StringBuilder mended = new StringBuilder(text);
        for (int i = 0; i < mended.length(); i++) {
            if (Character.isSurrogate(mended.charAt(i))) {
                if (Character.isSupplementaryCodePoint(mended.codePointAt(i))) {
                    i++;
                } else {
                    mended.setCharAt(i, REPLACEMENT);
                }
            }
        }
        return mended.toString().getBytes(StandardCharsets.UTF_8);
    }

    private static boolean hasLoneSurrogate(String text) {
        for (int i = 0; i < text.length(); i++) {
            if (Character.isSurrogate(text.charAt(i))) {
                if (!Character.isSupplementaryCodePoint(text.codePointAt(i))) {
                    return true;
                }
                i++;
            }
        }
        return false;
    }

    /**
     * The code point that starts at {@code at} in valid UTF-8. Its length in bytes is {@link
     * #length}.
     */
    static int codePoint(byte[] utf8, int at) {
        int lead = utf8[at];
        if (lead >= 0) {
            return lead;
        }
        if (lead < (byte) 0xE0) {
            return ((lead & 0x1F) << 6) | bits(utf8[at + 1]);
        }
        if (lead < (byte) 0xF0) {
            return ((lead & 0x0F) << 12) | (bits(utf8[at + 1]) << 6) | bits(utf8[at + 2]);
        }
        return ((lead & 0x07) << 18)
                | (bits(utf8[at + 1]) << 12)
                | (bits(utf8[at + 2]) << 6)
                | bits(utf8[at + 3]);
    }

    private static int bits(int continuation) {
        return continuation & 0x3F;
    }

    /** The bytes, 1 to 4, of the code point that starts with {@code lead} in valid UTF-8. */
    static int length(byte lead) {
        if (lead >= 0) {
            return 1;
        }
        return lead < (byte) 0xE0 ? 2 : lead < (byte) 0xF0 ? 3 : 4;
    }

    /** Appends what becomes certain with these bytes. */
    void accept(byte[] bytes, StringBuilder out) {
        for (byte b : bytes) {
            accept(b & 0xFF, out);
        }
    }

    private void accept(int b, StringBuilder out) {
        if (missing > 0) {
            if (b >= low && b <= high) {
                low = 0x80;
                high = 0xBF;
                codePoint = (codePoint << 6) | bits(b);
                if (--missing == 0) {
                    out.appendCodePoint(codePoint);
                }
                return;
            }
            flush(out);
        }
        if (b < 0x80) {
            out.append((char) b);
        } else if (b >= 0xC2 && b <= 0xDF) {
            begin(b & 0x1F, 1);
        } else if (b >= 0xE0 && b <= 0xEF) {
            begin(b & 0x0F, 2);
            low = b == 0xE0 ? 0xA0 : 0x80; // no overlong forms
            high = b == 0xED ? 0x9F : 0xBF; // no surrogates
        } else if (b >= 0xF0 && b <= 0xF4) {
            begin(b & 0x07, 3);
            low = b == 0xF0 ? 0x90 : 0x80;
            high = b == 0xF4 ? 0x8F : 0xBF; // nothing above U+10FFFF
        } else {
            out.append(REPLACEMENT);
        }
    }

    private void begin(int bits, int continuations) {
        codePoint = bits;
        missing = continuations;
    }

    /** Ends the text: an unfinished code point becomes U+FFFD. */
    void flush(StringBuilder out) {
        if (missing > 0) {
            out.append(REPLACEMENT);
            missing = 0;
            low = 0x80;
            high = 0xBF;
        }
    }
}
