package dev.gatun.transformers;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.gatun.kernels.Sampling;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.ThreadLocalRandom;
import org.jspecify.annotations.Nullable;

/**
 * How to continue a text. Immutable; each method gives a changed copy. What is not set comes from
 * the model's {@code generation_config.json}, else from the defaults of the reference library: 20
 * new tokens, greedy.
 *
 * <p>Setting a temperature, top-k, top-p, min-p or seed asks for sampling; {@link #greedy}, called
 * last, for the most likely token each time (the lowest id on ties). Sampling without further
 * settings has temperature 1 and top-k 50.
 */
public final class GenerationConfig {
    private static final GenerationConfig EMPTY = new GenerationConfig();
    private static final long MAX_FILE_BYTES = 1 << 24;

    /** Settings that this library does not have, the value at which they do nothing, and what. */
    private enum Missing {
        NUM_BEAMS("beam search", 1),
        NUM_BEAM_GROUPS("beam search", 1),
        NUM_RETURN_SEQUENCES("several sequences of one prompt", 1),
        CONSTRAINTS("constrained beam search", Double.NaN),
        FORCE_WORDS_IDS("constrained beam search", Double.NaN),
        REPETITION_PENALTY("repetition penalty", 1),
        ENCODER_REPETITION_PENALTY("repetition penalty", 1),
        NO_REPEAT_NGRAM_SIZE("n-gram ban", 0),
        ENCODER_NO_REPEAT_NGRAM_SIZE("n-gram ban", 0),
        BAD_WORDS_IDS("bad words", Double.NaN),
        SEQUENCE_BIAS("sequence bias", Double.NaN),
        SUPPRESS_TOKENS("suppressed tokens", Double.NaN),
        BEGIN_SUPPRESS_TOKENS("suppressed tokens", Double.NaN),
        MIN_LENGTH("minimal length", 0),
        MIN_NEW_TOKENS("minimal length", 0),
        EXPONENTIAL_DECAY_LENGTH_PENALTY("exponential decay", Double.NaN),
        FORCED_BOS_TOKEN_ID("forced tokens", Double.NaN),
        FORCED_EOS_TOKEN_ID("forced tokens", Double.NaN),
        TYPICAL_P("typical sampling", 1),
        EPSILON_CUTOFF("epsilon cutoff", 0),
        ETA_CUTOFF("eta cutoff", 0),
        PENALTY_ALPHA("contrastive search", 0),
        GUIDANCE_SCALE("classifier-free guidance", 1),
        PROMPT_LOOKUP_NUM_TOKENS("prompt lookup", 0),
        ASSISTANT_EARLY_EXIT("assisted decoding", 0),
        WATERMARKING_CONFIG("watermark", Double.NaN),
        STOP_STRINGS("stop strings", Double.NaN),
        MAX_TIME("time limit", Double.NaN);

        final String kind;
        final double neutral;

        Missing(String kind, double neutral) {
            this.kind = kind;
            this.neutral = neutral;
        }

        String key() {
            return name().toLowerCase(Locale.ROOT);
        }

        boolean asked(JsonNode value) {
            return !value.isNull()
                    && !(value.isNumber() && value.doubleValue() == neutral)
                    && !(value.isContainerNode() && value.isEmpty());
        }
    }

    private @Nullable Integer maxNewTokens;
    private @Nullable Boolean sampled;
    private @Nullable Float temperature;
    private @Nullable Integer topK;
    private @Nullable Float topP;
    private @Nullable Float minP;
    private @Nullable Long seed;
    private @Nullable List<Integer> endIds;
    private List<String> missing = List.of();

    private GenerationConfig() {}

    /** A copy, which its maker changes before anyone else sees it. */
    private GenerationConfig copy() {
        var copy = new GenerationConfig();
        copy.maxNewTokens = maxNewTokens;
        copy.sampled = sampled;
        copy.temperature = temperature;
        copy.topK = topK;
        copy.topP = topP;
        copy.minP = minP;
        copy.seed = seed;
        copy.endIds = endIds;
        copy.missing = missing;
        return copy;
    }

    /** Nothing set. */
    public static GenerationConfig of() {
        return EMPTY;
    }

    /**
     * Reads a {@code generation_config.json}. Settings that this library does not have are
     * remembered, and refused by name when text is generated with them.
     *
     * @throws CheckpointException if the file is missing, damaged, or a value is out of range
     */
    public static GenerationConfig read(Path file) {
        return of(Json.read(file, MAX_FILE_BYTES));
    }

    static GenerationConfig of(Json json) {
        var missing = new ArrayList<String>();
        for (Missing setting : Missing.values()) {
            JsonNode value = json.node().get(setting.key());
            if (value != null && setting.asked(value)) {
                missing.add(setting.kind);
            }
        }
        try {
            var config = new GenerationConfig();
            if (json.has("max_new_tokens")) {
                config = config.maxNewTokens(json.requiredInteger("max_new_tokens"));
            }
            if (json.has("temperature")) {
                config = config.temperature((float) json.number(1, "temperature"));
            }
            if (json.has("top_k")) {
                config = config.topK(json.requiredInteger("top_k"));
            }
            if (json.has("top_p")) {
                config = config.topP((float) json.number(1, "top_p"));
            }
            if (json.has("min_p")) {
                config = config.minP((float) json.number(0, "min_p"));
            }
            config = config.copy();
            // a file may name a temperature and leave it to do_sample whether it counts
            config.sampled = json.has("do_sample") ? json.flag(false, "do_sample") : null;
            config.endIds = json.node().has("eos_token_id") ? json.ids("eos_token_id") : null;
            config.missing = List.copyOf(missing);
            return config;
        } catch (IllegalArgumentException e) {
            throw new CheckpointException(json.name() + ": " + e.getMessage(), e);
        }
    }

    /** At most that many new tokens; it ends earlier at an end token or where the context ends. */
    public GenerationConfig maxNewTokens(int count) {
        check(count > 0, "maxNewTokens is %s; it must be at least 1", count);
        GenerationConfig copy = copy();
        copy.maxNewTokens = count;
        return copy;
    }

    /** The most likely token each time. */
    public GenerationConfig greedy() {
        GenerationConfig copy = copy();
        copy.sampled = false;
        return copy;
    }

    /** Tokens are drawn by their probability. */
    public GenerationConfig sampled() {
        GenerationConfig copy = copy();
        copy.sampled = true;
        return copy;
    }

    /** Logits are divided by this: below 1 bolder choices become rarer. */
    public GenerationConfig temperature(float temperature) {
        check(
                temperature > 0 && temperature < Float.POSITIVE_INFINITY,
                "temperature is %s; it must be above 0 (for the most likely token each time ask for"
                        + " greedy)",
                temperature);
        GenerationConfig copy = sampled();
        copy.temperature = temperature;
        return copy;
    }

    /** Only the k most likely tokens, and those as likely as the k-th; 0 for all. */
    public GenerationConfig topK(int k) {
        check(k >= 0, "topK is %s; it must be at least 1, or 0 for all tokens", k);
        GenerationConfig copy = sampled();
        copy.topK = k;
        return copy;
    }

    /** Only the most likely tokens that together have this probability; 1 for all. */
    public GenerationConfig topP(float p) {
        check(p > 0 && p <= 1, "topP is %s; it must be above 0 and at most 1", p);
        GenerationConfig copy = sampled();
        copy.topP = p;
        return copy;
    }

    /** Only tokens at least this times as likely as the most likely one; 0 for all. */
    public GenerationConfig minP(float p) {
        check(p >= 0 && p < 1, "minP is %s; it must be at least 0 and below 1", p);
        GenerationConfig copy = sampled();
        copy.minP = p;
        return copy;
    }

    /** The same seed draws the same tokens again; without one, each run draws others. */
    public GenerationConfig seed(long seed) {
        GenerationConfig copy = sampled == null ? sampled() : copy();
        copy.seed = seed;
        return copy;
    }

    /** The text ends at any of these; none for never. */
    public GenerationConfig endIds(int... ids) {
        return endIds(Arrays.stream(ids).boxed().toList());
    }

    GenerationConfig endIds(List<Integer> ids) {
        GenerationConfig copy = copy();
        copy.endIds = List.copyOf(ids);
        return copy;
    }

    /** These settings, and where there are none, the other's. */
    GenerationConfig orElse(GenerationConfig other) {
        GenerationConfig copy = copy();
        copy.maxNewTokens = first(maxNewTokens, other.maxNewTokens);
        copy.sampled = first(sampled, other.sampled);
        copy.temperature = first(temperature, other.temperature);
        copy.topK = first(topK, other.topK);
        copy.topP = first(topP, other.topP);
        copy.minP = first(minP, other.minP);
        copy.seed = first(seed, other.seed);
        copy.endIds = first(endIds, other.endIds);
        copy.missing = missing.isEmpty() ? other.missing : missing;
        return copy;
    }

    private static <T> @Nullable T first(@Nullable T one, @Nullable T other) {
        return one != null ? one : other;
    }

    int maxNewTokens() {
        return maxNewTokens == null ? 20 : maxNewTokens;
    }

    boolean isGreedy() {
        return sampled == null || !sampled;
    }

    Sampling sampling() {
        return new Sampling(
                temperature == null ? 1f : temperature,
                topK == null ? 50 : topK,
                topP == null ? 1f : topP,
                minP == null ? 0f : minP);
    }

    long seed() {
        return seed == null ? ThreadLocalRandom.current().nextLong() : seed;
    }

    List<Integer> ends() {
        return endIds == null ? List.of() : endIds;
    }

    /** The kinds of settings that were asked for and do not exist here. */
    List<String> missing() {
        return missing;
    }

    /** As {@code generation_config.json}: only what is set. */
    ObjectNode toJson() {
        ObjectNode json = Json.MAPPER.createObjectNode();
        if (sampled != null) {
            json.put("do_sample", sampled);
        }
        if (endIds != null && endIds.size() == 1) {
            json.put("eos_token_id", endIds.getFirst());
        } else if (endIds != null && !endIds.isEmpty()) {
            endIds.forEach(json.putArray("eos_token_id")::add);
        }
        json.put("max_new_tokens", maxNewTokens);
        json.put("temperature", temperature);
        json.put("top_k", topK);
        json.put("top_p", topP);
        json.put("min_p", minP);
        json.properties().removeIf(property -> property.getValue().isNull());
        return json;
    }

    private static void check(boolean right, String sentence, Object value) {
        if (!right) {
            throw new IllegalArgumentException(sentence.formatted(value));
        }
    }
}
