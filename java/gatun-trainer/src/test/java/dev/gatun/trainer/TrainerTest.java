package dev.gatun.trainer;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import dev.gatun.transformers.GenerationConfig;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import dev.gatun.transformers.Tokenizer;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class TrainerTest {
    private static final TrainingListener DEAF = new TrainingListener() {};
    private static final long STEPS = 45;

    @TempDir private Path folder;

    private byte[] weights(Path run) throws IOException {
        return Files.readAllBytes(run.resolve("model.safetensors"));
    }

    private static TrainingArguments arguments(Path out, boolean bf16) {
        return TinyRun.arguments(out, STEPS).bf16(bf16);
    }

    @ParameterizedTest(name = "bf16 {0}")
    @ValueSource(booleans = {false, true})
    void should_give_the_same_bits_when_killed_and_resumed(boolean bf16) throws Exception {
        Path whole = folder.resolve("whole");
        TinyRun.run(arguments(whole, bf16), DEAF);

        Path killed = folder.resolve("killed");
        Process child = child(List.of(), killed, bf16);
        try (BufferedReader lines = child.inputReader()) {
            String line = lines.readLine();
            while (line != null && !line.equals("step 27")) {
                line = lines.readLine();
            }
            assertThat(line).as("the child's output before it ended").isEqualTo("step 27");
            child.destroyForcibly(); // SIGKILL
        }
        assertThat(child.waitFor(1, TimeUnit.MINUTES)).isTrue();
        assertThat(killed.resolve("model.safetensors")).doesNotExist();
        assertThat(Checkpoints.newestStep(killed).orElseThrow()).isBetween(20L, 30L);

        TinyRun.run(arguments(killed, bf16), DEAF);
        assertThat(weights(killed)).isEqualTo(weights(whole));
    }

    @Test
    void should_stop_on_request_and_go_on_to_the_same_bits() throws IOException {
        Path whole = folder.resolve("whole");
        TinyRun.run(arguments(whole, false), DEAF);

        Path stopped = folder.resolve("stopped");
        Tokenizer tokenizer = TinyRun.tokenizer();
        try (Device device = Device.open("cpu");
                Gpt2 model = TinyRun.model(device, tokenizer, 0.1)) {
            var trainer = new Trainer(model, arguments(stopped, false));
            TrainResult result =
                    trainer.train(
                            TinyRun.data(tokenizer),
                            null,
                            new TrainingListener() {
                                @Override
                                public void stepped(Step step) {
                                    if (step.step() == 13) {
                                        trainer.requestStop();
                                    }
                                }
                            });
            assertThat(result.stopped()).isTrue();
            // the step that the device was at
            assertThat(result.step()).isEqualTo(14);
            assertThat(result.checkpoint()).contains(stopped.resolve("checkpoint-14"));
        }
        TinyRun.run(arguments(stopped, false), DEAF);
        assertThat(weights(stopped)).isEqualTo(weights(whole));
    }

    @Test
    void should_keep_the_newest_checkpoints_and_pass_over_a_damaged_one() throws IOException {
        TinyRun.run(arguments(folder, false), DEAF);
        assertThat(names()).containsExactly("checkpoint-40", "checkpoint-45");

        Path file = folder.resolve("checkpoint-45/model.safetensors");
        byte[] bytes = Files.readAllBytes(file);
        bytes[bytes.length / 2] ^= 1;
        Files.write(file, bytes);
        assertThat(Checkpoints.newest(folder)).contains(folder.resolve("checkpoint-40"));

        Files.delete(folder.resolve("checkpoint-40/optimizer.safetensors"));
        assertThat(Checkpoints.newest(folder)).isEmpty();
    }

    private List<String> names() throws IOException {
        try (var files = Files.list(folder)) {
            return files.map(f -> f.getFileName().toString())
                    .filter(n -> n.startsWith("checkpoint"))
                    .sorted()
                    .toList();
        }
    }

    /** What a run in bf16 keeps: f32 weights, and copies that are these weights rounded. */
    @Test
    void should_write_the_copies_with_the_weights() throws IOException {
        Tokenizer tokenizer = TinyRun.tokenizer();
        try (Device device = Device.open("cpu");
                Gpt2 model = TinyRun.model(device, tokenizer, 0.1)) {
            new Trainer(model, arguments(folder, true)).train(TinyRun.data(tokenizer), null, DEAF);
            int finer = 0;
            for (var p : model.parameters()) {
                assertThat(p.weight().dtype()).as(p.name()).isEqualTo(DType.F32);
                assertThat(p.copy() != null).as(p.name()).isEqualTo(p.weight().rank() > 1);
                float[] weights = p.weight().toFloats();
                try (Tensor rounded =
                        Tensor.empty(device, p.leaf().dtype(), Purpose.OTHER, p.weight().shape())) {
                    rounded.write(weights);
                    assertThat(p.leaf().toFloats())
                            .as(p.name())
                            .containsExactly(rounded.toFloats());
                }
                for (float w : weights) {
                    finer += (Float.floatToRawIntBits(w) & 0xffff) != 0 ? 1 : 0;
                }
            }
            assertThat(finer).as("weights that have more than 16 bits").isGreaterThan(1000);
        }
    }

    @Test
    void should_refuse_to_resume_with_other_arguments_or_without_a_checkpoint() throws IOException {
        TinyRun.run(TinyRun.arguments(folder, 10), DEAF);
        Tokenizer tokenizer = TinyRun.tokenizer();
        try (Device device = Device.open("cpu");
                Gpt2 model = TinyRun.model(device, tokenizer, 0.1)) {
            TrainingArguments other = TinyRun.arguments(folder, 10).learningRate(1e-3);
            assertThatThrownBy(() ->
                            new Trainer(model, other).resume(TinyRun.data(tokenizer), null, DEAF))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("learning_rate 0.01, now it is 0.001");
            TrainingArguments halved = TinyRun.arguments(folder, 10).bf16(true);
            assertThatThrownBy(() ->
                            new Trainer(model, halved).resume(TinyRun.data(tokenizer), null, DEAF))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("bf16 false, now it is true");
            Path empty = folder.resolve("empty");
            assertThatThrownBy(() ->
                            new Trainer(model, TinyRun.arguments(empty, 10))
                                    .resume(TinyRun.data(tokenizer), null, DEAF))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("no checkpoint to resume from");
        }
    }

    @ParameterizedTest(name = "bf16 {0}")
    @ValueSource(booleans = {false, true})
    void should_learn_two_sequences_by_heart(boolean bf16) throws IOException {
        int[][] sequences = {
            {5, 9, 2, 14, 3, 3, 8, 1, 30, 22, 7, 11, 19, 4, 28, 6},
            {17, 3, 25, 0, 12, 9, 9, 21, 2, 16, 31, 5, 13, 10, 26, 18}
        };
        int time = sequences[0].length - 1;
        int[] ids = new int[2 * time];
        int[] labels = new int[2 * time];
        for (int r = 0; r < 2; r++) {
            System.arraycopy(sequences[r], 0, ids, r * time, time);
            System.arraycopy(sequences[r], 1, labels, r * time, time);
        }
        var batch = new Batch(ids, labels, 2, time);
        var data =
                new TrainingData() {
                    @Override
                    public List<Batch> window(long step) {
                        return List.of(batch);
                    }

                    @Override
                    public long stepsPerEpoch() {
                        return 1;
                    }
                };
        try (Device device = Device.open("cpu");
                Gpt2 model =
                        Gpt2.create(Gpt2Config.of(32, 16, 2, 4, 64).dropout(0), device, 1, null)) {
            TrainResult result =
                    new Trainer(
                                    model,
                                    TrainingArguments.of(folder)
                                            .maxSteps(150)
                                            .learningRate(3e-3)
                                            .bf16(bf16)
                                            .saveSteps(0))
                            .train(data, null, DEAF);
            assertThat(result.loss()).isLessThan(0.02);
            assertThat(model.dtype()).isEqualTo(bf16 ? DType.BF16 : DType.F32);
            for (int[] sequence : sequences) {
                var written =
                        model.generate(
                                new int[] {sequence[0]},
                                GenerationConfig.of().greedy().maxNewTokens(time),
                                id -> {});
                assertThat(written.ids())
                        .containsExactlyElementsOf(
                                java.util.Arrays.stream(sequence).skip(1).boxed().toList());
            }
        }
    }

    /** Also where a checkpoint is due at the step that diverges. */
    @ParameterizedTest
    @ValueSource(ints = {9, 10})
    void should_stop_when_the_loss_is_not_a_number(int diverges) throws IOException {
        Tokenizer tokenizer = TinyRun.tokenizer();
        try (Device device = Device.open("cpu");
                Gpt2 model = TinyRun.model(device, tokenizer, 0)) {
            TrainingArguments args = TinyRun.arguments(folder, 30).saveSteps(5);
            var trainer = new Trainer(model, args);
            var poison =
                    new TrainingListener() {
                        @Override
                        public void stepped(Step step) {
                            // the next step is under way already, with the weights as they were
                            if (step.step() == diverges - 2) {
                                var weight = model.parameters().getFirst().weight();
                                float[] values = weight.toFloats();
                                values[300 % values.length] = Float.NaN;
                                java.util.Arrays.fill(values, Float.NaN);
                                weight.write(values);
                            }
                        }
                    };
            assertThatThrownBy(() -> trainer.train(TinyRun.data(tokenizer), null, poison))
                    .isInstanceOf(TrainingDiverged.class)
                    .hasMessageContaining("diverged at step " + diverges)
                    .hasMessageContaining("checkpoint-5")
                    .hasMessageContaining("lower learning rate");
        }
        assertThat(Checkpoints.newestStep(folder)).hasValue(5);
    }

    @Test
    void should_hold_no_more_after_two_hundred_steps_than_after_twenty() throws IOException {
        Tokenizer tokenizer = TinyRun.tokenizer();
        var buffers = new ArrayList<Long>();
        var used = new ArrayList<Long>();
        var descriptors = new ArrayList<Long>();
        try (Device device = Device.open("cpu");
                Gpt2 model = TinyRun.model(device, tokenizer, 0.1)) {
            // one step more than is looked at: behind the last one there is none
            new Trainer(model, TinyRun.arguments(folder, 221).saveSteps(0))
                    .train(
                            TinyRun.data(tokenizer),
                            null,
                            new TrainingListener() {
                                @Override
                                public void stepped(Step step) {
                                    if (step.step() % 20 == 0) {
                                        buffers.add(device.memory().buffers());
                                        used.add(device.memory().usedBytes());
                                        descriptors.add(openDescriptors());
                                    }
                                }
                            });
            assertThat(buffers).as("buffers").allMatch(b -> b.equals(buffers.getFirst()));
            // less where the graph of a step was given back for the short window of an epoch's end
            assertThat(used).as("bytes").allMatch(b -> b <= used.getFirst());
            assertThat(descriptors.getLast())
                    .as("file descriptors")
                    .isLessThanOrEqualTo(descriptors.getFirst());
        }
    }

    private static long openDescriptors() {
        try (var files = Files.list(Path.of("/proc/self/fd"))) {
            return files.count();
        } catch (IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }

    @Test
    void should_leave_nothing_half_written_when_the_disk_is_full() throws Exception {
        // a limit of 75 KB a file stands for the full disk: the model fits, the optimizer does not
        Process child =
                child(
                        List.of("sh", "-c", "ulimit -f 150; trap '' XFSZ; exec \"$@\"", "sh"),
                        folder,
                        false);
        String output = new String(child.getInputStream().readAllBytes(), UTF_8);
        assertThat(child.waitFor(1, TimeUnit.MINUTES)).isTrue();
        assertThat(child.exitValue()).as(output).isEqualTo(1);
        assertThat(output).contains("optimizer.safetensors: cannot be written");
        try (var files = Files.walk(folder)) {
            assertThat(files.filter(Files::isRegularFile)).isEmpty();
        }
    }

    @Test
    void should_say_what_is_wrong_with_an_output_folder() throws IOException {
        Path file = Files.createFile(folder.resolve("a-file"));
        assertThatThrownBy(() -> TinyRun.run(TinyRun.arguments(file, 5), DEAF))
                .isInstanceOf(IOException.class)
                .hasMessageContaining("a-file");
    }

    /** {@link TinyRun} in a JVM of its own. */
    private static Process child(List<String> prefix, Path out, boolean bf16) throws IOException {
        return TinyRun.child(
                prefix,
                List.of("-Xmx512m"),
                TinyRun.class,
                out.toString(),
                String.valueOf(STEPS),
                String.valueOf(bf16));
    }
}
