package dev.gatun.transformers;

/**
 * Decodes ids one at a time into text that never ends inside a code point. What all calls return,
 * put together, is what {@link Tokenizer#decode} gives for the whole.
 *
 * <pre>{@code
 * var stream = new TokenStream(tokenizer, true);
 * for (int id : ids) System.out.print(stream.accept(id));
 * System.out.print(stream.flush());
 * }</pre>
 *
 * <p>Not safe for use by several threads at once.
 */
public final class TokenStream {

    private final Tokenizer tokenizer;
    private final boolean skipSpecial;
    private final Utf8 utf8 = new Utf8();

    /**
     * @param skipSpecial whether special tokens are left out
     */
    public TokenStream(Tokenizer tokenizer, boolean skipSpecial) {
        this.tokenizer = tokenizer;
        this.skipSpecial = skipSpecial;
    }

    /**
     * The text that becomes certain with this id; empty while a code point is unfinished.
     *
     * @throws IllegalArgumentException if the id is not in the vocabulary
     */
    public String accept(int id) {
        StringBuilder text = new StringBuilder();
        accept(id, text);
        return text.toString();
    }

    /**
     * The rest: U+FFFD where the ids end inside a code point, else nothing. The stream can be used
     * again from the start.
     */
    public String flush() {
        StringBuilder text = new StringBuilder();
        flush(text);
        return text.toString();
    }

    void accept(int id, StringBuilder out) {
        byte[] bytes =
                switch (tokenizer) {
                    case ByteLevelBpe bpe -> bpe.sharedBytes(id);
                };
        if (!(skipSpecial && tokenizer.isSpecial(id))) {
            utf8.accept(bytes, out);
        }
    }

    void flush(StringBuilder out) {
        utf8.flush(out);
    }
}
