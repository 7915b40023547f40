package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.DynamicTest.dynamicTest;

import com.fasterxml.jackson.databind.JsonNode;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Parameter;
import dev.gatun.kernels.Tape;
import dev.gatun.kernels.Tensor;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.function.IntPredicate;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** GPT-2 against what the reference library computed: every folder of models/ and real-models/. */
class Gpt2ParityTest {
    private static Device device;

    @BeforeAll
    static void openDevice() {
        device = Device.open("cpu");
    }

    @AfterAll
    static void closeDevice() {
        assertThat(device.memory().buffers()).as("buffers left").isZero();
        device.close();
    }

    /** One batch of a fixture, right-padded. */
    private record Batch(Path folder, int[] ids, int[] labels, boolean[] real, int rows, int time)
            implements AutoCloseable {
        static Batch of(Path folder, Safetensors expected) {
            List<Long> shape = expected.entries().get("input_ids").shape();
            long[] mask = expected.toLongs("attention_mask");
            boolean[] real = new boolean[mask.length];
            for (int i = 0; i < mask.length; i++) {
                real[i] = mask[i] == 1;
            }
            return new Batch(
                    folder,
                    ints(expected.toLongs("input_ids")),
                    ints(expected.toLongs("labels")),
                    real,
                    shape.get(0).intValue(),
                    shape.get(1).intValue());
        }

        /** Elements of [B, T, width] that belong to real tokens. */
        IntPredicate counts(int width) {
            return i -> real[i / width];
        }

        @Override
        public void close() {}
    }

    private static int[] ints(long[] values) {
        return Arrays.stream(values).mapToInt(Math::toIntExact).toArray();
    }

    @TestFactory
    Stream<DynamicTest> models() {
        List<Path> folders = FixtureFolders.list("models");
        assertThat(folders).isNotEmpty();
        return folders.stream().flatMap(Gpt2ParityTest::checksOf);
    }

    private static Stream<DynamicTest> checksOf(Path folder) {
        String name = FixtureFolders.name(folder);
        String type =
                Json.read(folder.resolve("config.json"), 1 << 20).text("model_type").orElse("none");
        if (!type.equals("gpt2")) {
            return Stream.of(dynamicTest(name, () -> FixtureFolders.skip(name, type)));
        }
        JsonNode info = info(folder);
        Path values =
                info.has("same_as") ? folder.resolveSibling(info.get("same_as").asText()) : folder;
        var checks = Stream.<DynamicTest>builder();
        checks.add(dynamicTest(name + ": forward", () -> forward(folder, values)));
        checks.add(dynamicTest(name + ": cached forward", () -> cached(folder, values)));
        checks.add(dynamicTest(name + ": loss and gradients", () -> gradients(folder, values)));
        try (var expected = Safetensors.open(values.resolve("expected.safetensors"))) {
            if (expected.entries().containsKey("left.logits")) {
                checks.add(
                        dynamicTest(
                                name + ": left padding",
                                () ->
                                        FixtureFolders.skip(
                                                name + " left.*",
                                                "left padding with explicit position ids")));
            }
        }
        return checks.build();
    }

    private static JsonNode info(Path folder) {
        Path json = folder.resolve("expected.json");
        return Files.exists(json)
                ? Json.read(json, 1 << 24).node()
                : Json.MAPPER.createObjectNode();
    }

    private static void forward(Path folder, Path values) {
        try (var expected = Safetensors.open(values.resolve("expected.safetensors"));
                var batch = Batch.of(folder, expected);
                Gpt2 model = Gpt2.open(folder, device);
                Ops ops = device.ops()) {
            Tensor ids_BT = ops.ids(batch.ids, model.vocabulary(), batch.rows, batch.time);
            Closeness.FLOAT32.check(
                    "logits",
                    model.forward(ops, ids_BT).toFloats(),
                    expected.toFloats("logits"),
                    batch.counts(model.vocabulary()));
            List<Tensor> states = model.hiddenStates(ops, ids_BT);
            int seen = 0;
            for (int i = 0; i < states.size(); i++) {
                String name = "hidden_states." + i;
                if (expected.entries().containsKey(name)) {
                    seen++;
                    Closeness.FLOAT32.check(
                            name,
                            states.get(i).toFloats(),
                            expected.toFloats(name),
                            batch.counts(model.config().dim()));
                }
            }
            long there =
                    expected.entries().keySet().stream()
                            .filter(key -> key.startsWith("hidden_states."))
                            .count();
            assertThat(seen).as("hidden states compared").isPositive().isEqualTo((int) there);
        }
    }

    /** The same tokens in pieces over a cache: first a few, then more at once, then one by one. */
    private static void cached(Path folder, Path values) {
        try (var expected = Safetensors.open(values.resolve("expected.safetensors"));
                var batch = Batch.of(folder, expected);
                Gpt2 model = Gpt2.open(folder, device);
                KvCache cache = model.cache(batch.rows, batch.time);
                Ops ops = device.ops()) {
            int vocabulary = model.vocabulary();
            float[] logits = new float[batch.rows * batch.time * vocabulary];
            int at = 0;
            while (at < batch.time) {
                int tokens = at == 0 ? 3 : at == 3 ? 4 : 1;
                ops.reset();
                int from = at;
                int[] piece =
                        IntStream.range(0, batch.rows * tokens)
                                .map(i -> batch.ids[i / tokens * batch.time + from + i % tokens])
                                .toArray();
                Tensor ids_BT = ops.ids(piece, vocabulary, batch.rows, tokens);
                float[] part = model.forward(ops, ids_BT, cache).toFloats();
                for (int b = 0; b < batch.rows; b++) {
                    System.arraycopy(
                            part,
                            b * tokens * vocabulary,
                            logits,
                            (b * batch.time + at) * vocabulary,
                            tokens * vocabulary);
                }
                at += tokens;
            }
            Closeness.FLOAT32.check(
                    "logits", logits, expected.toFloats("logits"), batch.counts(vocabulary));
        }
    }

    private static void gradients(Path folder, Path values) {
        JsonNode norms = info(folder).path("grad_norms");
        try (var expected = Safetensors.open(values.resolve("expected.safetensors"));
                var batch = Batch.of(folder, expected);
                Gpt2 model = Gpt2.open(folder, device)) {
            model.parameters().forEach(p -> p.weight().requireGradient());
            int[] targets = CausalLm.targets(batch.labels, batch.rows, batch.time);
            float count = Arrays.stream(targets).filter(t -> t != CausalLm.IGNORED).count();
            // twice, so that a gradient that is not overwritten when it is stale shows
            for (int pass = 0; pass < 2; pass++) {
                model.parameters().forEach(p -> p.weight().staleGradient());
                try (Tape tape = device.tape()) {
                    Tensor ids_BT = tape.ids(batch.ids, model.vocabulary(), batch.rows, batch.time);
                    Tensor targets_BT =
                            tape.labels(
                                    targets,
                                    model.vocabulary(),
                                    CausalLm.IGNORED,
                                    batch.rows,
                                    batch.time);
                    Tensor factor = tape.upload(new float[] {1 / count}, 1);
                    Tensor loss = model.loss(tape, ids_BT, targets_BT, factor);
                    tape.backward(loss);
                    Closeness.FLOAT32.check("loss", loss.toFloats(), expected.toFloats("loss"));
                }
            }
            int compared = 0;
            for (Parameter parameter : model.parameters()) {
                compared += compare(parameter, expected, norms) ? 1 : 0;
            }
            boolean stored =
                    expected.entries().keySet().stream().anyMatch(key -> key.startsWith("grad"));
            assertThat(compared)
                    .as("gradients compared")
                    .isEqualTo(stored ? model.parameters().size() : 0);
        }
    }

    private static boolean compare(Parameter parameter, Safetensors expected, JsonNode norms) {
        float[] gradient = parameter.weight().gradient().orElseThrow().toFloats();
        String name = parameter.name();
        String whole = "grad." + name;
        if (expected.entries().containsKey(whole)) {
            float[] wanted = expected.toFloats(whole);
            Closeness.gradient(wanted).check(whole, gradient, wanted);
            return true;
        }
        String slice = "grad_slice." + name;
        if (!expected.entries().containsKey(slice)) {
            return false;
        }
        float[] wanted = expected.toFloats(slice);
        Closeness.gradient(gradient).check(slice, Arrays.copyOf(gradient, wanted.length), wanted);
        double sum = 0;
        for (float g : gradient) {
            sum += (double) g * g;
        }
        double norm = norms.get(name).doubleValue();
        assertThat(Math.sqrt(sum)).as("norm of " + whole).isBetween(norm * 0.999, norm * 1.001);
        return true;
    }

    @TestFactory
    Stream<DynamicTest> realModels() {
        return FixtureFolders.list("real-models").stream().flatMap(Gpt2ParityTest::realChecksOf);
    }

    private static Stream<DynamicTest> realChecksOf(Path folder) {
        String name = FixtureFolders.name(folder);
        Path config = folder.resolve("config.json");
        String type =
                Files.exists(config)
                        ? Json.read(config, 1 << 20).text("model_type").orElse("none")
                        : "gguf";
        if (!type.equals("gpt2")) {
            return Stream.of(dynamicTest(name, () -> FixtureFolders.skip(name, type)));
        }
        return Stream.of(
                dynamicTest(name + ": prompts", () -> prompts(folder)),
                dynamicTest(name + ": unseen text", () -> unseen(folder)));
    }

    private static void prompts(Path folder) {
        JsonNode cases = info(folder).get("cases");
        try (var expected = Safetensors.open(folder.resolve("expected.safetensors"));
                Gpt2 model = Gpt2.open(folder, device);
                Ops ops = device.ops()) {
            for (int n = 0; n < cases.size(); n++) {
                JsonNode one = cases.get(n);
                int[] prompt = idsOf(one.get("prompt_ids"));
                String text = one.get("prompt").asText();
                assertThat(model.tokenizer().orElseThrow().encode(text)).isEqualTo(prompt);
                Tensor ids_BT = ops.ids(prompt, model.vocabulary(), 1, prompt.length);
                Closeness.FLOAT32.check(
                        "logits." + n,
                        model.forward(ops, ids_BT).toFloats(),
                        expected.toFloats("logits." + n));
                int[] wanted = idsOf(one.get("ids"));
                var written = new StringBuilder(text);
                Generation generation =
                        model.generate(
                                text,
                                GenerationConfig.of()
                                        .greedy()
                                        .maxNewTokens(wanted.length - prompt.length),
                                written::append);
                assertThat(generation.ids())
                        .as("greedy continuation of \"%s\"", text)
                        .isEqualTo(Arrays.stream(wanted).skip(prompt.length).boxed().toList());
                assertThat(written).hasToString(one.get("text").asText());
            }
        }
    }

    private static void unseen(Path folder) {
        JsonNode wanted = info(folder).get("chunk_nll");
        try (var expected = Safetensors.open(folder.resolve("expected.safetensors"));
                Gpt2 model = Gpt2.open(folder, device);
                Ops ops = device.ops()) {
            List<Long> shape = expected.entries().get("eval_ids").shape();
            int time = shape.get(1).intValue();
            int[] all = ints(expected.toLongs("eval_ids"));
            for (int chunk = 0; chunk < shape.get(0); chunk++) {
                ops.reset();
                int[] ids = Arrays.copyOfRange(all, chunk * time, (chunk + 1) * time);
                Tensor loss = model.loss(ops, new int[][] {ids}, new int[][] {ids});
                Closeness.FLOAT32.check(
                        "chunk_nll " + chunk,
                        loss.toFloats(),
                        new float[] {wanted.get(chunk).floatValue()});
            }
        }
    }

    static int[] idsOf(JsonNode list) {
        int[] ids = new int[list.size()];
        Arrays.setAll(ids, i -> list.get(i).intValue());
        return ids;
    }
}
