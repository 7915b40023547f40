package dev.gatun.transformers;

/**
 * An entry of {@code added_tokens} in tokenizer.json: a token that is looked for in the text before
 * anything else, whatever the merges say.
 *
 * @param singleWord only where no word character touches it
 * @param leftStrip takes the whitespace before it along
 * @param rightStrip takes the whitespace after it along
 * @param normalized looked for in normalized text, after the others
 * @param special stands for no text: skipped in decoding, plain characters in text from outside
 */
record AddedToken(
        int id,
        String content,
        boolean singleWord,
        boolean leftStrip,
        boolean rightStrip,
        boolean normalized,
        boolean special) {

    static AddedToken special(int id, String content) {
        return new AddedToken(id, content, false, false, false, false, true);
    }
}
