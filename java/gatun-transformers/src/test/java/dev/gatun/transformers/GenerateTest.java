package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.GatunException;
import dev.gatun.kernels.Graph;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Rng;
import dev.gatun.kernels.Tensor;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.function.Consumer;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class GenerateTest {
    private static final int VOCABULARY = 61;
    private static final int CONTEXT = 24;

    private static Device device;
    private static Gpt2 model;

    @BeforeAll
    static void open() {
        device = Device.open("cpu");
        model = Gpt2.create(Gpt2Config.of(VOCABULARY, CONTEXT, 3, 2, 16), device, 5, null);
    }

    @AfterAll
    static void close() {
        model.close();
        assertThat(device.memory().buffers()).as("buffers left").isZero();
        device.close();
    }

    private static int[] ids(int count) {
        return new Random(count).ints(count, 0, VOCABULARY).toArray();
    }

    /** The next tokens by a whole forward pass each, without a cache: the slow and simple way. */
    private static List<Integer> plainGreedy(int[] prompt, int count) {
        var all = new ArrayList<Integer>();
        Arrays.stream(prompt).forEach(all::add);
        try (Ops ops = device.ops()) {
            for (int i = 0; i < count; i++) {
                ops.reset();
                int[] ids = all.stream().mapToInt(Integer::intValue).toArray();
                float[] logits =
                        model.forward(ops, ops.ids(ids, VOCABULARY, 1, ids.length)).toFloats();
                int best = 0;
                int row = (ids.length - 1) * VOCABULARY;
                for (int v = 1; v < VOCABULARY; v++) {
                    if (logits[row + v] > logits[row + best]) {
                        best = v;
                    }
                }
                all.add(best);
            }
        }
        return all.subList(prompt.length, all.size());
    }

    @Test
    void agreesWithWholeForwardPasses() {
        for (int length : new int[] {1, 2, 7, 13}) {
            int[] prompt = ids(length);
            Generation generation =
                    model.generate(prompt, GenerationConfig.of().maxNewTokens(9), _ -> {});
            assertThat(generation.ids())
                    .as("prompt of %d", length)
                    .isEqualTo(plainGreedy(prompt, 9));
            assertThat(generation.finish()).isEqualTo(Generation.Finish.LENGTH);
            assertThat(generation.promptTokens()).isEqualTo(length);
        }
    }

    /** One decode step as a graph, for 16 tokens, against the same step op by op. */
    @ParameterizedTest
    @CsvSource({"cpu, F32", "cpu, BF16", "sim, F32", "sim, BF16"})
    void aReplayedStepGivesTheBitsOfThePlainOne(String name, DType dtype) {
        try (Device where = Device.open(name);
                Gpt2 tiny =
                        Gpt2.create(Gpt2Config.of(VOCABULARY, CONTEXT, 2, 3, 36), where, 5, null)) {
            tiny.computeIn(dtype);
            List<float[]> plain = decoded(tiny, false);
            List<float[]> replayed = decoded(tiny, true);
            assertThat(plain.getFirst()).as("tokens differ").isNotEqualTo(plain.getLast());
            for (int i = 0; i < plain.size(); i++) {
                assertThat(replayed.get(i))
                        .as("logits of token %d", i)
                        .containsExactly(plain.get(i));
            }
        }
    }

    /** The logits of 16 tokens behind a prompt, each the likeliest after the one before. */
    private static List<float[]> decoded(Gpt2 model, boolean replayed) {
        var all = new ArrayList<float[]>();
        Device where = model.device();
        try (KvCache cache = model.cache(1, CONTEXT);
                Tensor next_BT = Tensor.of(where, new int[] {17}, 1, 1);
                Tensor logits_BTV =
                        Tensor.empty(where, model.dtype(), Purpose.OTHER, 1, 1, VOCABULARY);
                Ops ops = where.ops()) {
            model.forward(ops, ops.ids(ids(5), VOCABULARY, 1, 5), cache);
            Consumer<Ops> step =
                    on -> {
                        on.copy(logits_BTV, model.forward(on, next_BT, cache));
                        Tensor best_B = on.argmax(logits_BTV.view(1, VOCABULARY));
                        on.copy(next_BT, best_B.view(1, 1));
                    };
            if (replayed) {
                try (Graph graph = Graph.capture(where, Rng.of(0), step)) {
                    for (int i = 0; i < 16; i++) {
                        if (i > 0) { // the capture has counted the first
                            cache.launched(1);
                        }
                        graph.launch();
                        all.add(logits_BTV.toFloats());
                    }
                }
            } else {
                for (int i = 0; i < 16; i++) {
                    ops.reset();
                    step.accept(ops);
                    all.add(logits_BTV.toFloats());
                }
            }
            assertThat(cache.length()).isEqualTo(21);
        }
        return all;
    }

    @Test
    void rowsOfDifferentLengthsComeOutAsAlone() {
        // the longest fills its context while the others go on
        var prompts = List.of(ids(2), ids(22), ids(9), ids(1));
        var config = GenerationConfig.of().maxNewTokens(20);
        List<Generation> together = model.generate(prompts, config);
        for (int b = 0; b < prompts.size(); b++) {
            Generation alone = model.generate(prompts.get(b), config, _ -> {});
            assertThat(together.get(b).ids()).as("row %d", b).isEqualTo(alone.ids());
            assertThat(together.get(b).finish()).as("row %d", b).isEqualTo(alone.finish());
        }
        assertThat(together.get(1).ids()).hasSize(2);
        assertThat(together.get(1).finish()).isEqualTo(Generation.Finish.CONTEXT);
        assertThat(model.generate(List.of(), config)).isEmpty();
    }

    @Test
    void endsWithTheContext() {
        Generation generation =
                model.generate(ids(20), GenerationConfig.of().maxNewTokens(100), _ -> {});
        assertThat(generation.ids()).hasSize(4).isEqualTo(plainGreedy(ids(20), 4));
        assertThat(generation.finish()).isEqualTo(Generation.Finish.CONTEXT);
    }

    @Test
    void endsAtAnEndToken() {
        List<Integer> free = plainGreedy(ids(5), 10);
        int end = free.get(4);
        int first = free.indexOf(end);
        var sunk = new ArrayList<Integer>();
        Generation generation =
                model.generate(
                        ids(5), GenerationConfig.of().maxNewTokens(10).endIds(end), sunk::add);
        assertThat(generation.ids()).isEqualTo(free.subList(0, first + 1)).isEqualTo(sunk);
        assertThat(generation.finish()).isEqualTo(Generation.Finish.END);
        assertThat(
                        model.generate(
                                        ids(5),
                                        GenerationConfig.of().maxNewTokens(10).endIds(),
                                        _ -> {})
                                .ids())
                .isEqualTo(free);
    }

    @Test
    void twentyNewTokensUnlessToldOtherwise() {
        assertThat(model.generate(ids(2), GenerationConfig.of(), _ -> {}).ids()).hasSize(20);
    }

    @Test
    void aSeedRepeatsItsTokens() {
        var config = GenerationConfig.of().temperature(1.5f).topK(0).maxNewTokens(16);
        var runs = new HashSet<List<Integer>>();
        for (long seed = 0; seed < 6; seed++) {
            List<Integer> once = model.generate(ids(4), config.seed(seed), _ -> {}).ids();
            assertThat(model.generate(ids(4), config.seed(seed), _ -> {}).ids())
                    .as("seed %d", seed)
                    .isEqualTo(once);
            assertThat(once).allMatch(id -> id >= 0 && id < VOCABULARY);
            runs.add(once);
        }
        assertThat(runs).as("six seeds").hasSize(6);
        assertThat(new HashSet<>(runs.iterator().next()))
                .as("steps draw anew")
                .hasSizeGreaterThan(3);
    }

    @Test
    void oneCandidateIsTheGreedyOne() {
        List<Integer> greedy = plainGreedy(ids(6), 12);
        var config = GenerationConfig.of().maxNewTokens(12).seed(3);
        assertThat(model.generate(ids(6), config.topK(1), _ -> {}).ids()).isEqualTo(greedy);
        assertThat(model.generate(ids(6), config.topP(1e-6f), _ -> {}).ids()).isEqualTo(greedy);
        assertThat(model.generate(ids(6), config.minP(0.9999999f), _ -> {}).ids())
                .isEqualTo(greedy);
        assertThat(model.generate(ids(6), config.temperature(1e-4f), _ -> {}).ids())
                .isEqualTo(greedy);
        assertThat(model.generate(ids(6), config.temperature(9).greedy(), _ -> {}).ids())
                .isEqualTo(greedy);
    }

    @Test
    void drawsByTheModelsProbabilities() {
        // the first token of many texts at once, against the softmax of the logits, in float64
        int draws = 4000;
        double temperature = 0.02; // the untrained model's logits lie close together
        int[] prompt = ids(3);
        double[] probability = new double[VOCABULARY];
        try (Ops ops = device.ops()) {
            float[] logits = model.forward(ops, ops.ids(prompt, VOCABULARY, 1, 3)).toFloats();
            double sum = 0;
            for (int v = 0; v < VOCABULARY; v++) {
                probability[v] = Math.exp(logits[2 * VOCABULARY + v] / temperature);
                sum += probability[v];
            }
            for (int v = 0; v < VOCABULARY; v++) {
                probability[v] /= sum;
            }
        }
        long seed = 99;
        var config = GenerationConfig.of().temperature((float) temperature).topK(0).seed(seed);
        int[] seen = new int[VOCABULARY];
        for (int round = 0; round < draws / 500; round++) {
            var prompts = new ArrayList<int[]>();
            for (int i = 0; i < 500; i++) {
                prompts.add(prompt);
            }
            for (Generation generation :
                    model.generate(prompts, config.seed(seed + round).maxNewTokens(1))) {
                seen[generation.ids().getFirst()]++;
            }
        }
        double chiSquared = 0;
        int cells = 0;
        for (int v = 0; v < VOCABULARY; v++) {
            double expected = draws * probability[v];
            if (expected >= 5) {
                chiSquared += (seen[v] - expected) * (seen[v] - expected) / expected;
                cells++;
            }
        }
        // 5 standard deviations above the mean of a chi-squared distribution
        double limit = cells + 5 * Math.sqrt(2.0 * cells);
        assertThat(cells).isGreaterThan(10);
        assertThat(chiSquared)
                .as("chi-squared of %d cells, seed %d", cells, seed)
                .isLessThan(limit);
    }

    @Test
    void refusesPromptsThatLeaveNoRoom() {
        assertThatThrownBy(() -> model.generate(ids(30), GenerationConfig.of(), _ -> {}))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessage(
                        "the prompt has 30 tokens, the context of gpt2 is 24: shorten it to at most"
                                + " 23");
        assertThatThrownBy(() -> model.generate(ids(24), GenerationConfig.of(), _ -> {}))
                .hasMessageContaining("has 24 tokens, the context of gpt2 is 24");
        assertThatThrownBy(() -> model.generate(new int[0], GenerationConfig.of(), _ -> {}))
                .hasMessageContaining("the prompt is empty");
        assertThatThrownBy(() -> model.generate("text", GenerationConfig.of(), _ -> {}))
                .isInstanceOf(IllegalStateException.class)
                .hasMessageContaining("gpt2: has no tokenizer");
    }

    @Test
    void refusesIdsBeyondTheVocabulary() {
        assertThatThrownBy(() -> model.generate(new int[] {3, 61}, GenerationConfig.of(), _ -> {}))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("ids: 61 at index 1 is not in [0, 61)");
        assertThatThrownBy(() -> model.generate(new int[] {-1}, GenerationConfig.of(), _ -> {}))
                .hasMessageContaining("ids: -1 at index 0 is not in [0, 61)");
        // ids that no host check saw: the device clamps, and the next wait says so
        try (Ops ops = device.ops()) {
            Tensor ids_BT = ops.upload(new int[] {1, 2, 61, 3}, 1, 4);
            Tensor logits = model.forward(ops, ids_BT);
            assertThatThrownBy(logits::toFloats)
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("embedding")
                    .hasMessageContaining("61");
            assertThat(logits.toFloats()).as("reported once").isNotEmpty();
        }
    }

    @Test
    void refusesMoreTokensThanTheContext() {
        try (Ops ops = device.ops();
                KvCache cache = model.cache(1, 10)) {
            Tensor long_BT = ops.ids(ids(25), VOCABULARY, 1, 25);
            assertThatThrownBy(() -> model.forward(ops, long_BT))
                    .hasMessage("gpt2: 25 tokens are more than its context of 24");
            model.forward(ops, ops.ids(ids(8), VOCABULARY, 1, 8), cache);
            assertThat(cache.length()).isEqualTo(8);
            assertThatThrownBy(() -> model.forward(ops, ops.ids(ids(3), VOCABULARY, 1, 3), cache))
                    .hasMessage("kv cache: 8 of 10 slots are taken, 3 more tokens do not fit");
            assertThatThrownBy(() -> model.forward(ops, ops.ids(ids(2), VOCABULARY, 2, 1), cache))
                    .hasMessage("kv cache: made for 1 texts, had tokens of 2");
            assertThatThrownBy(() -> cache.truncate(9))
                    .hasMessage("kv cache: texts of [8] tokens cannot be shortened to [9]");
            assertThatThrownBy(() -> model.forward(ops, ops.upload(new float[2], 1, 2)))
                    .hasMessage("gpt2: ids are f32[1, 2] on cpu; wanted i32[batch, tokens]");
        }
        try (var tape = device.tape();
                KvCache cache = model.cache(1, 10)) {
            Tensor ids_BT = tape.ids(ids(2), VOCABULARY, 1, 2);
            assertThatThrownBy(() -> model.forward(tape, ids_BT, cache))
                    .hasMessageContaining("a key/value cache is for inference");
        }
    }

    @Test
    void aShortenedCacheGoesOnAsIfNothingHadBeen() {
        try (Ops ops = device.ops();
                KvCache cache = model.cache(1, 20);
                KvCache fresh = model.cache(1, 20)) {
            model.forward(ops, ops.ids(ids(9), VOCABULARY, 1, 9), cache);
            cache.truncate(4);
            float[] after = model.forward(ops, ops.ids(ids(3), VOCABULARY, 1, 3), cache).toFloats();
            model.forward(ops, ops.ids(Arrays.copyOf(ids(9), 4), VOCABULARY, 1, 4), fresh);
            float[] wanted =
                    model.forward(ops, ops.ids(ids(3), VOCABULARY, 1, 3), fresh).toFloats();
            Closeness.FLOAT32.check("logits", after, wanted);
            assertThat(cache.length()).isEqualTo(7);
        }
    }

    @Test
    void aBrokenSinkLeavesNothingBehind() {
        long buffers = device.memory().buffers();
        assertThatThrownBy(() ->
                        model.generate(
                                ids(3),
                                GenerationConfig.of(),
                                _ -> {
                                    throw new IllegalStateException("enough");
                                }))
                .hasMessage("enough");
        assertThat(device.memory().buffers()).isEqualTo(buffers);
    }

    @Test
    void twoHundredGenerationsLeaveMemoryFlat() throws IOException {
        var config = GenerationConfig.of().maxNewTokens(8).seed(1);
        for (int i = 0; i < 20; i++) {
            model.generate(List.of(ids(5), ids(3)), config);
        }
        device.await();
        Device.Memory before = device.memory();
        long filesBefore = openFiles();
        for (int i = 0; i < 200; i++) {
            model.generate(List.of(ids(5), ids(1 + i % 9)), config);
        }
        device.await();
        Device.Memory after = device.memory();
        assertThat(after.buffers()).isEqualTo(before.buffers());
        assertThat(after.usedBytes()).isEqualTo(before.usedBytes());
        assertThat(after.reservedBytes())
                .as("reserved bytes")
                .isLessThanOrEqualTo(before.reservedBytes() + (1 << 20));
        assertThat(openFiles()).isEqualTo(filesBefore);
    }

    private static long openFiles() throws IOException {
        try (var files = Files.list(Path.of("/proc/self/fd"))) {
            return files.count();
        }
    }

    @Test
    void streamsWholeCodePoints(@TempDir Path folder) throws IOException {
        // a vocabulary of bytes: most of what an untrained model says is not UTF-8
        Tokenizer bytes = byteTokenizer(folder);
        var config = Gpt2Config.of(bytes.vocabSize(), 128, 1, 1, 8);
        try (Gpt2 babble = Gpt2.create(config, device, 1, bytes)) {
            for (int seed = 0; seed < 10; seed++) {
                var pieces = new ArrayList<String>();
                Generation generation =
                        babble.generate(
                                "é",
                                GenerationConfig.of().seed(seed).topK(0).maxNewTokens(60),
                                pieces::add);
                for (String piece : pieces) {
                    assertThat(piece).isNotEmpty();
                    assertThat(Character.isHighSurrogate(piece.charAt(piece.length() - 1)))
                            .as("seed %d ends inside a code point", seed)
                            .isFalse();
                }
                int[] ids = generation.ids().stream().mapToInt(Integer::intValue).toArray();
                assertThat(String.join("", pieces))
                        .as("seed %d", seed)
                        .isEqualTo(bytes.decode(ids, true));
            }
        }
    }

    /** The program of the README. */
    @Test
    void tenLinesAreEnough(@TempDir Path parent) throws IOException {
        Path folder = parent.resolve("gpt2");
        Tokenizer bytes = byteTokenizer(Files.createDirectory(parent.resolve("bytes")));
        try (Gpt2 made =
                Gpt2.create(Gpt2Config.of(bytes.vocabSize(), 128, 1, 1, 8), device, 1, bytes)) {
            made.save(folder);
        }
        var console = System.out;
        var captured = new ByteArrayOutputStream();
        System.setOut(new PrintStream(captured, true, StandardCharsets.UTF_8));
        try (var device = Device.best();
                var model = Models.open(folder.toString(), device)) {
            model.generate(
                    "The future of Java is",
                    GenerationConfig.of().maxNewTokens(64).temperature(0.8f).topP(0.95f).seed(7),
                    System.out::print);
        } finally {
            System.setOut(console);
        }
        assertThat(captured.toString(StandardCharsets.UTF_8)).isNotEmpty();
    }

    /** A byte-level tokenizer without merges. */
    private static Tokenizer byteTokenizer(Path folder) throws IOException {
        var vocabulary = Json.MAPPER.createObjectNode();
        int next = 0;
        for (int b = 0; b < 256; b++) {
            boolean printable = b > ' ' && b < 127 || b > 160 && b != 173;
            vocabulary.put(String.valueOf((char) (printable ? b : 256 + next++)), b);
        }
        Files.writeString(folder.resolve("vocab.json"), vocabulary.toString());
        Files.writeString(folder.resolve("merges.txt"), "#version: 0.2\n");
        return Tokenizer.open(folder);
    }
}
