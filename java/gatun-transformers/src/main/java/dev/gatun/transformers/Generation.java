package dev.gatun.transformers;

import java.util.List;

/**
 * What came of one prompt.
 *
 * @param ids of the new tokens, with the end token if it came
 * @param promptTokens how many tokens the prompt had
 * @param prefillSeconds until the first new token was known
 * @param decodeSeconds from then on, for {@code ids.size() - 1} tokens
 */
public record Generation(
        List<Integer> ids,
        Finish finish,
        int promptTokens,
        double prefillSeconds,
        double decodeSeconds) {
    /** Why it ended. */
    public enum Finish {
        /** The model gave an end token. */
        END,
        /** As many tokens as were asked for. */
        LENGTH,
        /** Prompt and continuation fill the model's context. */
        CONTEXT
    }

    /** New tokens per second after the first one; 0 if there was no second. */
    public double tokensPerSecond() {
        return ids.size() < 2 || decodeSeconds <= 0 ? 0 : (ids.size() - 1) / decodeSeconds;
    }
}
