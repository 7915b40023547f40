package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.DynamicTest.dynamicTest;

import com.fasterxml.jackson.databind.JsonNode;
import dev.gatun.kernels.Device;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** Continuations against those of the reference library: every file of generation/. */
class GenerationParityTest {

    @TestFactory
    Stream<DynamicTest> continuations() {
        List<Path> files =
                FixtureFolders.list("generation").stream()
                        .filter(file -> file.toString().endsWith(".json"))
                        .toList();
        assertThat(files).isNotEmpty();
        return files.stream()
                .map(file -> dynamicTest(FixtureFolders.name(file), () -> check(file)));
    }

    private static void check(Path file) {
        Json json = Json.read(file, 1 << 20);
        String name = FixtureFolders.name(file);
        JsonNode fixture = json.node();
        if (!fixture.has("model")) {
            FixtureFolders.skip(name, "logits processors by themselves");
        }
        Path folder = file.resolveSibling("../models").resolve(fixture.get("model").asText());
        assertThat(Files.isDirectory(folder)).as("%s exists", folder).isTrue();
        String type =
                Json.read(folder.resolve("config.json"), 1 << 20).text("model_type").orElse("none");
        if (!type.equals("gpt2")) {
            FixtureFolders.skip(name, type);
        }
        if (fixture.has("assistant_model")) {
            FixtureFolders.skip(name, "assisted decoding");
        }
        GenerationConfig config =
                GenerationConfig.of(json.object("generation_config").orElseThrow());
        if (!config.missing().isEmpty()) {
            FixtureFolders.skip(name, config.missing().getFirst());
        }
        try (Device device = Device.open("cpu");
                Gpt2 model = Gpt2.open(folder, device)) {
            List<int[]> prompts = prompts(fixture);
            compare(fixture, model.generate(prompts, config));
            // and each row alone, one call after another
            var alone = new ArrayList<Generation>();
            for (int[] prompt : prompts) {
                alone.add(model.generate(prompt, config, _ -> {}));
            }
            compare(fixture, alone);
        }
    }

    /** The prompts without their padding on the left. */
    private static List<int[]> prompts(JsonNode fixture) {
        var prompts = new ArrayList<int[]>();
        for (int b = 0; b < fixture.get("input_ids").size(); b++) {
            int[] ids = Gpt2ParityTest.idsOf(fixture.get("input_ids").get(b));
            int real =
                    Arrays.stream(Gpt2ParityTest.idsOf(fixture.get("attention_mask").get(b))).sum();
            prompts.add(Arrays.copyOfRange(ids, ids.length - real, ids.length));
        }
        return prompts;
    }

    private static void compare(JsonNode fixture, List<Generation> generations) {
        int promptLength = fixture.get("input_ids").get(0).size();
        int pad = fixture.get("generation_config").get("pad_token_id").intValue();
        JsonNode sequences = fixture.get("sequences");
        assertThat(generations).hasSize(sequences.size());
        for (int b = 0; b < sequences.size(); b++) {
            List<Integer> wanted = new ArrayList<>();
            for (int t = promptLength; t < sequences.get(b).size(); t++) {
                wanted.add(sequences.get(b).get(t).intValue());
            }
            List<Integer> had = new ArrayList<>(generations.get(b).ids());
            while (had.size() < wanted.size()) {
                assertThat(generations.get(b).finish()).isEqualTo(Generation.Finish.END);
                had.add(pad);
            }
            assertThat(had).as("row %d", b).isEqualTo(wanted);
        }
    }
}
