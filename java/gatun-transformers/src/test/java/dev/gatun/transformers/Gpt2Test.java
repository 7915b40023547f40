package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.DeviceOptions;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Parameter;
import dev.gatun.kernels.Rng;
import dev.gatun.kernels.Tensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.function.Consumer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class Gpt2Test {
    @TempDir Path parent;
    private Path folder;
    private Device device;

    @BeforeEach
    void open() {
        folder = parent.resolve("tiny");
        device = Device.open("cpu");
    }

    @AfterEach
    void close() {
        assertThat(device.memory().buffers()).as("buffers left").isZero();
        device.close();
    }

    private static Gpt2Config tiny() {
        return Gpt2Config.of(31, 16, 2, 2, 8).endId(3);
    }

    private void save() throws IOException {
        try (Gpt2 model = Gpt2.create(tiny(), device, 11, null)) {
            model.save(folder);
        }
    }

    private void edit(String file, Consumer<ObjectNode> change) throws IOException {
        ObjectNode json = Json.read(folder.resolve(file), 1 << 20).node();
        change.accept(json);
        Files.writeString(folder.resolve(file), json.toString());
    }

    private void opensWith(String sentence) {
        assertThatThrownBy(() -> Gpt2.open(folder, device).close())
                .isInstanceOf(CheckpointException.class)
                .hasMessageContaining(sentence);
        assertThat(device.memory().buffers()).as("buffers after %s", sentence).isZero();
    }

    @Test
    void savedAndLoadedIsTheSameBitForBit() throws IOException {
        var config =
                new Gpt2Config(
                        31,
                        16,
                        9,
                        2,
                        3,
                        20,
                        "gelu",
                        1e-6,
                        0.1,
                        0.2,
                        0.3,
                        false,
                        true,
                        true,
                        0.05,
                        List.of(3, 4));
        try (Gpt2 model = Gpt2.create(config, device, 11, null)) {
            model.save(folder);
            try (Gpt2 loaded = Gpt2.open(folder, device)) {
                assertThat(loaded.config()).isEqualTo(config);
                assertThat(loaded.name()).isEqualTo("tiny");
                assertThat(loaded.generationDefaults().ends()).containsExactly(3, 4);
                for (int i = 0; i < model.parameters().size(); i++) {
                    Parameter one = model.parameters().get(i);
                    Parameter other = loaded.parameters().get(i);
                    assertThat(other.name()).isEqualTo(one.name());
                    assertThat(other.decayed()).isEqualTo(one.decayed());
                    assertThat(other.weight().shape()).isEqualTo(one.weight().shape());
                    assertThat(other.weight().toFloats())
                            .as(one.name())
                            .isEqualTo(one.weight().toFloats());
                }
                byte[] first = Files.readAllBytes(folder.resolve("model.safetensors"));
                loaded.save(folder);
                assertThat(Files.readAllBytes(folder.resolve("model.safetensors")))
                        .isEqualTo(first);
            }
        }
        try (var files = Files.list(folder)) {
            assertThat(files.map(file -> file.getFileName().toString()))
                    .containsExactlyInAnyOrder(
                            "config.json", "generation_config.json", "model.safetensors");
        }
    }

    @Test
    void matricesAreDecayedBiasesAndNormsAreNot() {
        try (Gpt2 model = Gpt2.create(tiny(), device, 1, null)) {
            assertThat(model.parameters()).hasSize(2 + 2 * 12 + 2).allMatch(Parameter::trained);
            for (Parameter parameter : model.parameters()) {
                boolean vector =
                        parameter.name().endsWith(".bias") || parameter.name().contains(".ln_");
                assertThat(parameter.decayed()).as(parameter.name()).isNotEqualTo(vector);
            }
        }
    }

    @Test
    void newWeightsAreGpt2s() {
        var config = Gpt2Config.of(500, 64, 3, 4, 64);
        try (Gpt2 model = Gpt2.create(config, device, 1, null);
                Gpt2 same = Gpt2.create(config, device, 1, null);
                Gpt2 other = Gpt2.create(config, device, 2, null)) {
            for (int i = 0; i < model.parameters().size(); i++) {
                String name = model.parameters().get(i).name();
                float[] values = model.parameters().get(i).weight().toFloats();
                assertThat(same.parameters().get(i).weight().toFloats()).as(name).isEqualTo(values);
                if (name.endsWith(".bias")) {
                    assertThat(values).as(name).containsOnly(0);
                } else if (name.contains(".ln_")) {
                    assertThat(values).as(name).containsOnly(1);
                } else {
                    assertThat(other.parameters().get(i).weight().toFloats())
                            .as(name)
                            .isNotEqualTo(values);
                    double std = name.endsWith("c_proj.weight") ? 0.02 / Math.sqrt(6) : 0.02;
                    double sum = 0;
                    double squares = 0;
                    for (float v : values) {
                        sum += v;
                        squares += (double) v * v;
                    }
                    int n = values.length;
                    // five standard deviations of the estimators
                    assertThat(sum / n).as(name).isCloseTo(0, within(5 * std / Math.sqrt(n)));
                    assertThat(Math.sqrt(squares / n))
                            .as(name)
                            .isCloseTo(std, within(5 * std / Math.sqrt(2.0 * n)));
                }
            }
        }
    }

    @Test
    void dropoutActsWhileRecordingOnly() {
        try (Gpt2 model = Gpt2.create(tiny().dropout(0.5), device, 1, null);
                Gpt2 plain = Gpt2.create(tiny(), device, 1, null)) {
            int[] ids = {1, 2, 3, 4};
            float[] inference;
            try (Ops ops = device.ops()) {
                inference = model.forward(ops, ops.ids(ids, 31, 1, 4)).toFloats();
                assertThat(plain.forward(ops, ops.ids(ids, 31, 1, 4)).toFloats())
                        .isEqualTo(inference);
            }
            float[] first = recorded(model, ids, 7);
            assertThat(first).isNotEqualTo(inference);
            assertThat(recorded(model, ids, 7)).isEqualTo(first);
            assertThat(recorded(model, ids, 8)).isNotEqualTo(first);
        }
    }

    private float[] recorded(Gpt2 model, int[] ids, long seed) {
        try (var tape = device.tape(Rng.of(seed))) {
            return model.forward(tape, tape.ids(ids, 31, 1, ids.length)).toFloats();
        }
    }

    @Test
    void lossTakesLabelsAsTheReferenceLibraryDoes() {
        assertThat(CausalLm.targets(new int[] {1, 2, 3, 4, 5, 6}, 2, 3))
                .containsExactly(2, 3, -100, 5, 6, -100);
        assertThat(CausalLm.targets(new int[0], 0, 3)).isEmpty();
        assertThatThrownBy(() -> CausalLm.targets(new int[5], 2, 3))
                .hasMessage("labels: has 5 values, wanted 2 x 3");
        try (Gpt2 model = Gpt2.create(tiny(), device, 1, null);
                Ops ops = device.ops()) {
            int[][] ids = {{1, 2, 3}, {4, 5, 6}};
            int[][] labels = {{1, 2, -100}, {4, 5, 6}};
            float[] logits =
                    model.forward(ops, ops.ids(new int[] {1, 2, 3, 4, 5, 6}, 31, 2, 3)).toFloats();
            double sum = nll(logits, 0, 2) + nll(logits, 3, 5) + nll(logits, 4, 6);
            assertThat(model.loss(ops, ids, labels).item()).isCloseTo(sum / 3, within(1e-5));
            assertThatThrownBy(() -> model.loss(ops, new int[][] {{1}, {1, 2}}, labels))
                    .hasMessageContaining(
                            "ids: row 1 has 2 tokens, wanted 1 as in row 0 of the ids");
            assertThatThrownBy(() ->
                            model.loss(ops, new int[][] {{31, 1, 1}}, new int[][] {{1, 1, 1}}))
                    .hasMessageContaining("31");
        }
    }

    private static double nll(float[] logits, int row, int target) {
        double largest = Double.NEGATIVE_INFINITY;
        for (int v = 0; v < 31; v++) {
            largest = Math.max(largest, logits[row * 31 + v]);
        }
        double sum = 0;
        for (int v = 0; v < 31; v++) {
            sum += Math.exp(logits[row * 31 + v] - largest);
        }
        return Math.log(sum) + largest - logits[row * 31 + target];
    }

    @Test
    void refusesFoldersThatLackSomething() throws IOException {
        opensWith("tiny/config.json: no such file");
        save();
        Files.delete(folder.resolve("model.safetensors"));
        opensWith("/tiny: has neither model.safetensors nor model.safetensors.index.json");
    }

    @Test
    void refusesConfigsThatDisagreeWithTheWeights() throws IOException {
        save();
        edit("config.json", c -> c.put("n_embd", 10));
        opensWith(
                "tiny/model.safetensors: transformer.wte.weight is f32[31, 8], config.json wants"
                        + " [31, 10]; transformer.wpe.weight is f32[16, 8], config.json wants [16,"
                        + " 10]; ");
        edit("config.json", c -> c.put("n_embd", 8).put("n_layer", 3));
        opensWith("transformer.h.2.ln_1.weight is missing, config.json wants it as [8]");
        edit("config.json", c -> c.put("n_layer", 1));
        opensWith(
                "transformer.h.1.attn.c_attn.weight is f32[8, 24], and the model has no such"
                        + " weight");
        edit("config.json", c -> c.put("n_layer", 2).put("tie_word_embeddings", false));
        opensWith(
                "tiny/model.safetensors: lm_head.weight is missing, config.json wants it as [31, 8]");
        // as many differences as there are, in a sentence that stays readable
        edit("config.json", c -> c.put("n_layer", 10_000));
        opensWith("; and ");
    }

    @Test
    void refusesWrongConfigs() throws IOException {
        save();
        var wrong =
                List.of(
                        List.of("n_embd", "\"8\"", "n_embd is \"8\"; it must be a whole number"),
                        List.of("n_embd", "0", "n_embd is 0; it must be positive"),
                        List.of("n_embd", "-8", "n_embd is -8; it must be positive"),
                        List.of("n_embd", "8.5", "n_embd is 8.5; it must be a whole number"),
                        List.of("n_embd", "1e400", "it must be a whole number below 2^31"),
                        List.of("n_embd", "2147483647", "integer overflow"),
                        List.of("n_embd", "null", "n_embd (or hidden_size) is missing"),
                        List.of("n_head", "3", "n_embd 8 is not a multiple of n_head 3"),
                        List.of("n_layer", "2000000000", "n_layer is 2000000000; it must be 1 to"),
                        List.of("vocab_size", "0", "vocab_size is 0; it must be positive"),
                        List.of("n_positions", "0", "n_positions is 0; it must be positive"),
                        List.of("n_inner", "0", "n_inner is 0; it must be positive"),
                        List.of("model_type", "\"bert\"", "model_type is bert; wanted gpt2"),
                        List.of(
                                "activation_function",
                                "\"relu\"",
                                "activation_function relu is not supported: gelu_new and gelu are"),
                        List.of(
                                "add_cross_attention",
                                "true",
                                "add_cross_attention is not supported"),
                        List.of("resid_pdrop", "1.0", "a dropout is 1.0; it must be in [0, 1)"),
                        List.of(
                                "layer_norm_epsilon",
                                "-1",
                                "layer_norm_epsilon is -1.0; it must not be negative"),
                        List.of(
                                "tie_word_embeddings",
                                "1",
                                "tie_word_embeddings is 1; it must be true or false"),
                        List.of("eos_token_id", "{}", "eos_token_id is an object; it must be a"));
        String sound = Files.readString(folder.resolve("config.json"));
        for (List<String> one : wrong) {
            Files.writeString(folder.resolve("config.json"), sound);
            if (one.get(1).equals("1e400")) {
                Files.writeString(
                        folder.resolve("config.json"),
                        sound.replaceFirst("\"n_embd\" : 8", "\"n_embd\" : 1e400"));
            } else {
                var value = Json.MAPPER.readTree(one.get(1));
                edit("config.json", c -> c.set(one.get(0), value));
            }
            opensWith(one.get(2));
            assertThatThrownBy(() -> Gpt2.open(folder, device))
                    .hasMessageStartingWith("tiny/config.json: ");
        }
        Files.writeString(folder.resolve("config.json"), sound + "{}");
        opensWith("tiny/config.json: not valid JSON: ");
        Files.writeString(folder.resolve("config.json"), "{\"n_embd\":8,\"n_embd\":8}");
        opensWith("tiny/config.json: not valid JSON: Duplicate field 'n_embd'");
        Files.writeString(folder.resolve("config.json"), "[".repeat(100_000));
        opensWith("tiny/config.json: not valid JSON: Document nesting depth");
        Files.write(folder.resolve("config.json"), new byte[0]);
        opensWith("tiny/config.json: ");
    }

    @Test
    void readsOlderKeyNames() throws IOException {
        save();
        Gpt2Config config = Gpt2Config.read(folder.resolve("config.json"));
        edit(
                "config.json",
                c -> {
                    c.set("hidden_size", c.remove("n_embd"));
                    c.set("num_hidden_layers", c.remove("n_layer"));
                    c.set("num_attention_heads", c.remove("n_head"));
                    c.set("n_ctx", c.remove("n_positions"));
                    c.set("torch_dtype", c.remove("dtype"));
                });
        assertThat(Gpt2Config.read(folder.resolve("config.json"))).isEqualTo(config);
    }

    @Test
    void refusesATokenizerWithMoreTokensThanTheModel() throws IOException {
        save();
        var vocabulary = Json.MAPPER.createObjectNode();
        for (int i = 0; i < 32; i++) {
            vocabulary.put(String.valueOf((char) ('A' + i)), i);
        }
        Files.writeString(folder.resolve("vocab.json"), vocabulary.toString());
        Files.writeString(folder.resolve("merges.txt"), "#version: 0.2\n");
        opensWith("/tiny: ");
    }

    @Test
    void aFolderThatCannotBeWrittenKeepsWhatItHad() throws IOException {
        save();
        byte[] before = Files.readAllBytes(folder.resolve("model.safetensors"));
        try (Gpt2 model = Gpt2.create(tiny(), device, 12, null)) {
            // a folder in the way of the temporary file: writing fails for every user, root too
            String name = ".model.safetensors.%d.tmp".formatted(ProcessHandle.current().pid());
            Path blocker = Files.createDirectories(folder.resolve(name).resolve("x"));
            assertThatThrownBy(() -> model.save(folder))
                    .isInstanceOf(IOException.class)
                    .hasMessageContaining("tiny/model.safetensors: cannot be written");
            Files.delete(blocker);
            Files.deleteIfExists(blocker.getParent());
            Path file = Files.writeString(parent.resolve("file"), "x");
            assertThatThrownBy(() -> model.save(file.resolve("out")))
                    .isInstanceOf(IOException.class)
                    .hasMessageContaining("file/out: cannot be made");
        }
        assertThat(Files.readAllBytes(folder.resolve("model.safetensors"))).isEqualTo(before);
    }

    @Test
    void inferenceHoldsTwoLayersHoweverManyThereAre() {
        long few = peakOfPrefill(Gpt2Config.of(100, 256, 2, 4, 64), 256);
        long many = peakOfPrefill(Gpt2Config.of(100, 256, 24, 4, 64), 256);
        // beyond the weights and the cache, which are counted apart, nothing grows with the layers
        assertThat(many).isLessThanOrEqualTo(few + (64 << 10));
        assertThat(few).isLessThanOrEqualTo(twoLayers(256, 64) + logits(100) + (1 << 20));
    }

    /** The figure of a 124M model; about 10 s. */
    @Test
    @Tag("slow")
    void aLongPrefillPeaksAtWeightsCacheLogitsAndTwoLayers() {
        long peak = peakOfPrefill(Gpt2Config.of(50257, 1024, 12, 12, 768), 1024);
        System.out.printf(
                "prefill of 1024 tokens at 124M: %d bytes beside weights and cache%n", peak);
        assertThat(peak).isLessThanOrEqualTo(twoLayers(1024, 768) + logits(50257));
    }

    /** qkv 3, attention, projection, sum, norm, up 4, down, sum, norm: 14 D floats a token. */
    private static long twoLayers(long tokens, long dim) {
        return 2 * 14 * tokens * dim * 4;
    }

    private static long logits(long vocabulary) {
        return vocabulary * 4;
    }

    /** Peak bytes of generating one token, less the weights and the cache. */
    private long peakOfPrefill(Gpt2Config config, int tokens) {
        try (Gpt2 model = Gpt2.create(config, device, 1, null)) {
            device.await();
            int[] prompt = new Random(1).ints(tokens - 1, 0, config.vocabulary()).toArray();
            long cache = 2L * config.layers() * config.dim() * tokens * 4;
            device.resetPeak();
            long weights = device.memory().usedBytes();
            model.generate(prompt, GenerationConfig.of().maxNewTokens(1), _ -> {});
            return device.memory().peakBytes() - weights - cache;
        }
    }

    @Test
    void aModelThatDoesNotFitIsASentence() throws IOException {
        save();
        var options = DeviceOptions.defaults().withMemoryBudget(8 << 10);
        try (Device small = Device.open("cpu", options)) {
            assertThatThrownBy(() -> Gpt2.open(folder, small))
                    .isInstanceOf(dev.gatun.kernels.GatunException.class)
                    .hasMessageContaining("out of device memory");
            assertThat(small.memory().buffers()).isZero();
        }
    }

    @Test
    void threadsShareAModel() throws InterruptedException {
        try (Gpt2 model = Gpt2.create(tiny(), device, 1, null)) {
            var config = GenerationConfig.of().maxNewTokens(8).endIds();
            List<Integer> wanted = model.generate(new int[] {5, 6}, config, _ -> {}).ids();
            var results = new java.util.concurrent.ConcurrentLinkedQueue<List<Integer>>();
            Thread[] threads = new Thread[6];
            Arrays.setAll(
                    threads,
                    _ ->
                            Thread.ofVirtual()
                                    .start(() -> {
                                        for (int i = 0; i < 10; i++) {
                                            results.add(
                                                    model.generate(
                                                                    new int[] {5, 6},
                                                                    config,
                                                                    _ -> {})
                                                            .ids());
                                        }
                                    }));
            for (Thread thread : threads) {
                thread.join();
            }
            assertThat(results).hasSize(60).allMatch(wanted::equals);
        }
    }

    @Test
    void sameTensorsUnderOlderNames() throws IOException {
        save();
        // no prefix, a stored causal mask and a head that repeats the embedding
        Path old = parent.resolve("old");
        Files.createDirectories(old);
        Files.copy(folder.resolve("config.json"), old.resolve("config.json"));
        try (Gpt2 model = Gpt2.open(folder, device);
                Tensor mask = Tensor.of(device, new float[256], 1, 1, 16, 16)) {
            var tensors = new java.util.LinkedHashMap<String, Tensor>();
            model.parameters()
                    .forEach(p -> tensors.put(p.name().replace("transformer.", ""), p.weight()));
            tensors.put("h.0.attn.bias", mask);
            tensors.put("h.1.attn.masked_bias", mask);
            tensors.put("lm_head.weight", model.parameters().getFirst().weight());
            Safetensors.write(old.resolve("model.safetensors"), tensors, java.util.Map.of());
            try (Gpt2 loaded = Gpt2.open(old, device)) {
                assertThat(loaded.parameters().getLast().weight().toFloats())
                        .isEqualTo(model.parameters().getLast().weight().toFloats());
            }
            tensors.put("h.x.attn.bias", mask);
            Safetensors.write(old.resolve("model.safetensors"), tensors, java.util.Map.of());
            assertThatThrownBy(() -> Gpt2.open(old, device))
                    .hasMessage(
                            "old/model.safetensors: h.x.attn.bias is f32[1, 1, 16, 16], and the"
                                    + " model has no such weight");
        }
    }
}
