package dev.gatun.transformers;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Finds added tokens in UTF-8 text: the leftmost, and of those the longest, first those that look
 * at raw text, then in what is left those that look at normalized text.
 */
final class AddedTokens {

    /** Receives a text in order, cut into plain stretches and added tokens. */
    interface Sink {
        void text(int from, int to);

        void token(int id);
    }

    private final List<AddedToken> tokens;
    private final Trie raw = new Trie();
    private final Trie normalized = new Trie();
    private final boolean onlySpecial;

    AddedTokens(List<AddedToken> tokens) {
        this.tokens = List.copyOf(tokens);
        for (AddedToken token : tokens) {
            (token.normalized() ? normalized : raw).add(token);
        }
        onlySpecial = tokens.stream().allMatch(AddedToken::special);
    }

    List<AddedToken> tokens() {
        return tokens;
    }

    /**
     * Cuts {@code text}.
     *
     * @param special whether special tokens count; if not, their characters are plain text
     */
    void cut(byte[] text, boolean special, Sink sink) {
        if (!special && onlySpecial) {
            plain(0, text.length, sink);
            return;
        }
        raw.cut(
                text,
                0,
                text.length,
                special,
                new Sink() {
                    @Override
                    public void text(int from, int to) {
                        normalized.cut(text, from, to, special, sink);
                    }

                    @Override
                    public void token(int id) {
                        sink.token(id);
                    }
                });
    }

    private static void plain(int from, int to, Sink sink) {
        if (from < to) {
            sink.text(from, to);
        }
    }

    private static final class Node {

        final int depth; // bytes from the start of the token
        byte[] labels = {};
        Node[] children = {};
        @Nullable AddedToken token;

        Node(int depth) {
            this.depth = depth;
        }

        @Nullable Node child(byte label) {
            for (int i = 0; i < labels.length; i++) {
                if (labels[i] == label) {
                    return children[i];
                }
            }
            return null;
        }

        Node grow(byte label) {
            Node child = child(label);
            if (child == null) {
                child = new Node(depth + 1);
                labels = Arrays.copyOf(labels, labels.length + 1);
                labels[labels.length - 1] = label;
                ArrayList<Node> grown = new ArrayList<>(Arrays.asList(children));
                grown.add(child);
                children = grown.toArray(Node[]::new);
            }
            return child;
        }
    }

    private static final class Trie {

        private final Node root = new Node(0);
        // by first byte, since nearly every position of a text fails there
        private final @Nullable Node[] first = new @Nullable Node[256];

        void add(AddedToken token) {
            Node node = root;
            for (byte b : token.content().getBytes(StandardCharsets.UTF_8)) {
                node = node.grow(b);
                if (node.depth == 1) {
                    first[b & 0xFF] = node;
                }
            }
            node.token = token;
        }

        void cut(byte[] text, int from, int to, boolean special, Sink sink) {
            int done = from;
            int at = from;
            while (at < to) {
                Node match = longestAt(text, at, to);
                if (match == null) {
                    at++;
                    continue;
                }
                AddedToken token = Objects.requireNonNull(match.token);
                int start = at;
                int end = at + match.depth;
                // as in the reference, a match that does not count still hides what overlaps it
                at = end;
                if ((token.special() && !special)
                        || (token.singleWord() && touchesWord(text, from, start, end, to))) {
                    continue;
                }
                if (token.leftStrip()) {
                    start = Math.max(done, spacesBefore(text, from, start));
                }
                if (token.rightStrip()) {
                    end = spacesAfter(text, end, to);
                }
                plain(done, start, sink);
                sink.token(token.id());
                done = end;
            }
            plain(done, to, sink);
        }

        private @Nullable Node longestAt(byte[] text, int from, int to) {
            Node node = first[text[from] & 0xFF];
            Node longest = null;
            for (int at = from + 1; node != null; at++) {
                if (node.token != null) {
                    longest = node;
                }
                node = at < to ? node.child(text[at]) : null;
            }
            return longest;
        }

        private static boolean touchesWord(byte[] text, int from, int start, int end, int to) {
            return (start > from && isWord(Utf8.codePoint(text, before(text, start))))
                    || (end < to && isWord(Utf8.codePoint(text, end)));
        }

        private static int spacesBefore(byte[] text, int from, int start) {
            int at = start;
            while (at > from) {
                int before = before(text, at);
                if (!Gpt2Pieces.isSpace(Utf8.codePoint(text, before))) {
                    break;
                }
                at = before;
            }
            return at;
        }

        private static int spacesAfter(byte[] text, int end, int to) {
            int at = end;
            while (at < to && Gpt2Pieces.isSpace(Utf8.codePoint(text, at))) {
                at += Utf8.length(text[at]);
            }
            return at;
        }

        /** Where the code point that ends at {@code at} starts. */
        private static int before(byte[] text, int at) {
            int before = at - 1;
            while ((text[before] & 0xC0) == 0x80) {
                before--;
            }
            return before;
        }

        /** What {@code \w} means in the reference's pattern language (Unicode TS 18, Annex C). */
        private static boolean isWord(int codePoint) {
            return Character.isAlphabetic(codePoint)
                    || codePoint == 0x200C
                    || codePoint == 0x200D
                    || switch (Character.getType(codePoint)) {
                        case Character.DECIMAL_DIGIT_NUMBER,
                                Character.CONNECTOR_PUNCTUATION,
                                Character.NON_SPACING_MARK,
                                Character.ENCLOSING_MARK,
                                Character.COMBINING_SPACING_MARK ->
                                true;
                        default -> false;
                    };
        }
    }
}
