package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.gatun.kernels.Sampling;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class GenerationConfigTest {
    private static GenerationConfig read(String json) {
        return GenerationConfig.of(
                Json.parse("m/generation_config.json", json.getBytes(StandardCharsets.UTF_8)));
    }

    @Test
    void readsWhatTheReferenceLibraryWrites() {
        var config =
                read(
                        "{\"do_sample\":true,\"temperature\":0.7,\"top_k\":20,\"top_p\":0.8,"
                                + "\"min_p\":0.1,\"eos_token_id\":[3,4],\"max_new_tokens\":7,"
                                + "\"pad_token_id\":0,\"transformers_version\":\"5\",\"num_beams\":1}");
        assertThat(config.isGreedy()).isFalse();
        assertThat(config.sampling()).isEqualTo(new Sampling(0.7f, 20, 0.8f, 0.1f));
        assertThat(config.ends()).containsExactly(3, 4);
        assertThat(config.maxNewTokens()).isEqualTo(7);
        assertThat(config.missing()).isEmpty();
        var again = read(config.toJson().toString());
        assertThat(again.sampling()).isEqualTo(config.sampling());
        assertThat(again.ends()).isEqualTo(config.ends());
    }

    @Test
    void hasTheReferenceLibrarysDefaults() {
        var config = read("{}");
        assertThat(config.isGreedy()).isTrue();
        assertThat(config.maxNewTokens()).isEqualTo(20);
        assertThat(config.ends()).isEmpty();
        assertThat(GenerationConfig.of().sampled().sampling()).isEqualTo(new Sampling(1, 50, 1, 0));
        // a temperature in a file without do_sample does not count
        assertThat(read("{\"temperature\":0.5}").isGreedy()).isTrue();
    }

    @Test
    void theCallersSettingsComeFirst() {
        var file = read("{\"do_sample\":true,\"temperature\":0.5,\"eos_token_id\":9}");
        assertThat(GenerationConfig.of().orElse(file).isGreedy()).isFalse();
        assertThat(GenerationConfig.of().greedy().orElse(file).isGreedy()).isTrue();
        assertThat(GenerationConfig.of().temperature(2).orElse(file).sampling().temperature())
                .isEqualTo(2);
        assertThat(GenerationConfig.of().topK(3).orElse(file).sampling())
                .isEqualTo(new Sampling(0.5f, 3, 1, 0));
        assertThat(GenerationConfig.of().orElse(file).ends()).isEqualTo(List.of(9));
        assertThat(GenerationConfig.of().endIds().orElse(file).ends()).isEmpty();
        assertThat(GenerationConfig.of().greedy().seed(3).isGreedy()).isTrue();
        assertThat(GenerationConfig.of().seed(3).isGreedy()).isFalse();
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = ';',
            value = {
                "{\"num_beams\":4}; beam search",
                "{\"repetition_penalty\":1.1}; repetition penalty",
                "{\"no_repeat_ngram_size\":2}; n-gram ban",
                "{\"bad_words_ids\":[[3]]}; bad words",
                "{\"suppress_tokens\":[3]}; suppressed tokens",
                "{\"sequence_bias\":[[[3],1.0]]}; sequence bias",
                "{\"min_new_tokens\":3}; minimal length",
                "{\"forced_eos_token_id\":3}; forced tokens",
                "{\"exponential_decay_length_penalty\":[3,1.1]}; exponential decay",
                "{\"prompt_lookup_num_tokens\":3}; prompt lookup",
            })
    void remembersWhatItDoesNotHave(String json, String kind) {
        assertThat(read(json).missing()).containsExactly(kind);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = ';',
            value = {
                "{\"temperature\":0}; m/generation_config.json: temperature is 0.0; it must be above 0",
                "{\"temperature\":-1}; temperature is -1.0; it must be above 0",
                "{\"temperature\":1e300}; temperature is Infinity; it must be above 0",
                "{\"temperature\":\"hot\"}; temperature is \"hot\"; it must be a finite number",
                "{\"top_p\":1.5}; topP is 1.5; it must be above 0 and at most 1",
                "{\"top_p\":0}; topP is 0.0; it must be above 0",
                "{\"min_p\":1}; minP is 1.0; it must be at least 0 and below 1",
                "{\"top_k\":-1}; topK is -1; it must be at least 1, or 0 for all",
                "{\"top_k\":2.5}; top_k is 2.5; it must be a whole number below 2^31",
                "{\"max_new_tokens\":0}; maxNewTokens is 0; it must be at least 1",
                "{\"max_new_tokens\":9999999999}; it must be a whole number below 2^31",
                "{\"eos_token_id\":\"x\"}; eos_token_id is \"x\"; it must be a token id",
                "{\"eos_token_id\":[-1]}; eos_token_id is -1; it must be a token id",
                "{\"do_sample\":1}; do_sample is 1; it must be true or false",
                "[]; m/generation_config.json: wanted a JSON object, had an array",
            },
            quoteCharacter = '\'')
    void refusesWrongValues(String json, String sentence) {
        String[] parts = sentence.split("; ");
        var thrown = assertThatThrownBy(() -> read(json)).isInstanceOf(CheckpointException.class);
        for (String part : parts) {
            thrown.hasMessageContaining(part);
        }
        thrown.hasMessageStartingWith("m/generation_config.json: ");
    }

    @Test
    void refusesWrongArguments() {
        assertThatThrownBy(() -> GenerationConfig.of().temperature(0))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("for the most likely token each time ask for greedy");
        assertThatThrownBy(() -> GenerationConfig.of().temperature(Float.NaN))
                .hasMessageContaining("temperature is NaN");
        assertThatThrownBy(() -> GenerationConfig.of().topP(Float.NaN))
                .hasMessageContaining("topP is NaN");
        assertThatThrownBy(() -> GenerationConfig.of().maxNewTokens(-3))
                .hasMessageContaining("maxNewTokens is -3; it must be at least 1");
    }
}
