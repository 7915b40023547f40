package dev.gatun.transformers;

import java.nio.file.Path;
import java.util.List;
import java.util.OptionalInt;

/**
 * Text to token ids and back.
 *
 * <p>A tokenizer is immutable and may be shared between threads. Ids are {@code 0 .. vocabSize() -
 * 1}. Text is any Java string: a lone surrogate is encoded as U+FFFD.
 *
 * <p>Two ways to encode, because text that a user typed must not be able to forge a control token:
 * {@link #encode} reads {@code <|endoftext|>} as thirteen ordinary characters, {@link
 * #encodeWithSpecial} reads it as the token.
 */
public sealed interface Tokenizer permits ByteLevelBpe {

    /**
     * Opens a folder that holds {@code tokenizer.json}, or {@code vocab.json} and {@code
     * merges.txt}; or one such file.
     *
     * @throws CheckpointException if a file is missing or damaged, or asks for a kind of tokenizer
     *     that is not supported yet; the message names the file and the fault or the kind
     */
    static Tokenizer open(Path folderOrFile) {
        return TokenizerJson.open(folderOrFile);
    }

    /**
     * The ids of {@code text}, in which special tokens are plain text. No begin or end token is
     * added.
     */
    int[] encode(String text);

    /**
     * The ids of {@code text} with the special tokens of the vocabulary recognised, and with the
     * begin and end tokens that the tokenizer's own file asks for (GPT-2: none). For prompts that
     * the program wrote, never for text from outside.
     */
    int[] encodeWithSpecial(String text);

    /** {@link #encode} of each text, in order, on all cores of the common pool. */
    default List<int[]> encodeAll(List<String> texts) {
        return texts.parallelStream().map(this::encode).toList();
    }

    /** The text of {@code ids}, special tokens included. Bytes that are not UTF-8 become U+FFFD. */
    default String decode(int[] ids) {
        return decode(ids, false);
    }

    /**
     * The text of {@code ids}. Bytes that are not UTF-8 become U+FFFD, one for each maximal invalid
     * sequence (the Unicode Standard's and WHATWG's practice).
     *
     * @throws IllegalArgumentException if an id is not in the vocabulary
     */
    String decode(int[] ids, boolean skipSpecial);

    /** One more than the largest id. */
    int vocabSize();

    /** The id of a token as it is spelled in the vocabulary (a space is {@code Ġ} in GPT-2's). */
    OptionalInt idOf(String token);

    /**
     * The token as it is spelled in the vocabulary.
     *
     * @throws IllegalArgumentException if the id is not in the vocabulary
     */
    String token(int id);

    /**
     * The bytes that the token stands for in decoded text, in general not a whole number of code
     * points.
     *
     * @throws IllegalArgumentException if the id is not in the vocabulary
     */
    byte[] bytes(int id);

    /** Whether {@code id} is a special token: one that never stands for text. */
    boolean isSpecial(int id);

    /** The id of {@code <|endoftext|>}, where the vocabulary has it. */
    OptionalInt endOfText();

    /**
     * Writes a standard {@code tokenizer.json}. The file is complete or not there: it is written
     * beside its place and then renamed.
     *
     * @throws java.io.UncheckedIOException if it cannot be written
     */
    void save(Path tokenizerJson);
}
