package dev.gatun.transformers;

/**
 * GPT-2's pre-tokenizer: the pieces inside which byte pairs are merged. Scans by hand what the
 * pattern
 *
 * <pre>{@code 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+}</pre>
 *
 * means, in one pass and constant stack: a backtracking engine recurses on runs of a million equal
 * characters. Classes are those of the running JDK's Unicode version (JDK 25: Unicode 16).
 */
final class Gpt2Pieces {

    private static final int OTHER = 0;
    private static final int LETTER = 1;
    private static final int NUMBER = 2;
    private static final int SPACE = 3;

    private static final int NUMBERS =
            (1 << Character.DECIMAL_DIGIT_NUMBER)
                    | (1 << Character.LETTER_NUMBER)
                    | (1 << Character.OTHER_NUMBER);

    private static final byte[] ASCII = new byte[128];

    static {
        for (int c = 0; c < ASCII.length; c++) {
            ASCII[c] = (byte) kindOf(c);
        }
    }

    private Gpt2Pieces() {}

    /**
     * The end of the piece that starts at {@code from}, in valid UTF-8.
     *
     * @param to end of the text; whitespace up to it counts as followed by nothing
     */
    static int end(byte[] text, int from, int to) {
        byte first = text[from];
        if (first == '\'') {
            int contraction = contraction(text, from, to);
            if (contraction > 0) {
                return from + contraction;
            }
        }
        int kind = kindAt(text, from);
        if (kind != SPACE) {
            return runEnd(text, from, to, kind);
        }
        if (first == ' ' && from + 1 < to) {
            int next = kindAt(text, from + 1);
            if (next != SPACE) {
                return runEnd(text, from + 1, to, next);
            }
        }
        return spacesEnd(text, from, to);
    }

    private static int contraction(byte[] text, int from, int to) {
        if (from + 1 >= to) {
            return 0;
        }
        byte second = text[from + 1];
        if (second == 's' || second == 't' || second == 'm' || second == 'd') {
            return 2;
        }
        if (from + 2 >= to) {
            return 0;
        }
        byte third = text[from + 2];
        boolean three =
                ((second == 'r' || second == 'v') && third == 'e')
                        || (second == 'l' && third == 'l');
        return three ? 3 : 0;
    }

    private static int runEnd(byte[] text, int from, int to, int kind) {
        int at = from;
        do {
            at += Utf8.length(text[at]);
        } while (at < to && kindAt(text, at) == kind);
        return at;
    }

    /** A run of spaces leaves its last one to what follows, unless it is alone or ends the text. */
    private static int spacesEnd(byte[] text, int from, int to) {
        int at = from;
        int last = from;
        do {
            last = at;
            at += Utf8.length(text[at]);
        } while (at < to && kindAt(text, at) == SPACE);
        return at == to || last == from ? at : last;
    }

    private static int kindAt(byte[] text, int at) {
        byte lead = text[at];
        return lead >= 0 ? ASCII[lead] : kindOf(Utf8.codePoint(text, at));
    }

    private static int kindOf(int codePoint) {
        if (isSpace(codePoint)) {
            return SPACE;
        }
        int type = Character.getType(codePoint);
        if (((1 << type) & NUMBERS) != 0) {
            return NUMBER;
        }
        return Character.isLetter(codePoint) ? LETTER : OTHER;
    }

    /** Unicode's White_Space property, which {@link Character#isWhitespace} is not. */
    static boolean isSpace(int codePoint) {
        return switch (codePoint) {
            case '\t', '\n', 0x0B, '\f', '\r', ' ', 0x85, 0xA0, 0x1680 -> true;
            case 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 -> true;
            default -> codePoint >= 0x2000 && codePoint <= 0x200A;
        };
    }
}
