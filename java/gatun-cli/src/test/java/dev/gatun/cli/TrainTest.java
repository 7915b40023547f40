package dev.gatun.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.gatun.trainer.Checkpoints;
import dev.gatun.transformers.Safetensors;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TrainTest {
    private static final String STEPS = "--steps=1000";
    private static final String[] OPTIONS = {STEPS, "--save-steps=100", "--dropout=0.1"};

    @TempDir private static Path shared;
    private static Path data;
    private static Path whole;

    @TempDir private Path folder;

    @BeforeAll
    static void trainWithoutAStop() {
        data = Run.file(shared, "text.txt", Run.text(2, 4_000));
        whole = shared.resolve("whole");
        Run run = Run.train(data, whole, OPTIONS).ok();
        assertThat(run.out())
                .contains("tokens to learn from", "step 1/1000", "step 1000/1000", "Written");
        assertThat(run.out()).doesNotContain("\r");
        assertThat(whole.resolve("report.html")).isNotEmptyFile();
        assertThat(whole.resolve("checkpoint-1000")).isDirectory();
    }

    /** Trains in a process of its own until it has said {@code words}, then signals it. */
    private Ended stop(String signal, Path out, String words) throws Exception {
        Process process = Run.child(Run.trainArguments(data, out, OPTIONS)).start();
        process.getOutputStream().close();
        // started before it is needed: on a busy machine a thousand steps are over sooner
        Process killer =
                new ProcessBuilder(
                                "bash", "-c", "read; kill -%s %d".formatted(signal, process.pid()))
                        .start();
        var said = new StringBuilder();
        try (BufferedReader lines = process.inputReader(StandardCharsets.UTF_8)) {
            boolean sent = false;
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                said.append(line).append('\n');
                if (!sent && line.contains(words)) {
                    sent = true;
                    killer.getOutputStream().close();
                }
            }
            said.append(
                    new String(process.getErrorStream().readAllBytes(), StandardCharsets.UTF_8));
            assertThat(sent).as(said.toString()).isTrue();
        }
        return new Ended(process.waitFor(), said.toString());
    }

    private record Ended(int code, String said) {}

    private void resumesToTheSameWeights(Path out) throws IOException {
        long stoppedAt = Checkpoints.newestStep(out).orElseThrow();
        assertThat(stoppedAt).isBetween(1L, 999L);
        Run.train(data, out, STEPS, "--save-steps=100", "--dropout=0.1", "--resume").ok();
        for (String name : new String[] {"model.safetensors", "config.json", "tokenizer.json"}) {
            assertThat(out.resolve(name)).hasSameBinaryContentAs(whole.resolve(name));
        }
        assertThat(Files.readAllLines(out.resolve("metrics.jsonl")))
                .as("one line a step, and the last measurement")
                .hasSameSizeAs(Files.readAllLines(whole.resolve("metrics.jsonl")));
    }

    @Test
    void controlCSavesACheckpointAndSaysHowToGoOn() throws Exception {
        Path out = folder.resolve("out");
        Ended ended = stop("INT", out, "step 1/1000");
        assertThat(ended.code()).isEqualTo(TrainingRun.STOPPED);
        assertThat(ended.said())
                .contains("stopping: finishing this step", "Stopped after step ", "checkpoint-")
                .contains("./gatun train --data", STEPS, "--resume")
                .doesNotContain("\tat ");
        resumesToTheSameWeights(out);
    }

    @Test
    void aKilledRunGoesOnFromItsLastCheckpoint() throws Exception {
        Path out = folder.resolve("out");
        Ended ended = stop("KILL", out, "saved");
        assertThat(ended.code()).isEqualTo(128 + 9);
        resumesToTheSameWeights(out);
    }

    @Test
    void goesOnWithAModelThatIsThere() throws IOException {
        Path out = folder.resolve("tuned");
        Run run =
                Run.of(
                        "train",
                        "--device=cpu",
                        "--data=" + data,
                        "--out=" + out,
                        "--init-from=" + whole,
                        "--steps=2",
                        "--learning-rate=1e-5",
                        "--profile");
        assertThat(run.ok().out()).contains("GFLOP/s", "matmul", "all ops");
        assertThat(out.resolve("config.json"))
                .hasSameTextualContentAs(whole.resolve("config.json"));
        assertThat(out.resolve("tokenizer.json"))
                .hasSameTextualContentAs(whole.resolve("tokenizer.json"));
    }

    /** Trained in bf16 is still saved in f32, and read in what is asked for. */
    @Test
    void trainsAndWritesInBf16() throws IOException {
        Path out = folder.resolve("out");
        String[] options = {"--bf16", "--steps=20", "--save-steps=10"};
        Run run = Run.train(data, out, options).ok();
        assertThat(run.out()).contains("step 20/20", "bits per byte");
        assertThat(Files.readString(out.resolve("report.html"))).contains("bf16");
        Path again = folder.resolve("again");
        Run.train(data, again, options).ok();
        for (Path path : new Path[] {out, again}) {
            try (var weights = Safetensors.open(path.resolve("model.safetensors"))) {
                assertThat(weights.entries().values()).allMatch(e -> e.dtype().equals("F32"));
            }
        }
        assertThat(again.resolve("model.safetensors"))
                .hasSameBinaryContentAs(out.resolve("model.safetensors"));
        Run.train(data, out, "--steps=20", "--resume")
                .failed(1, "bf16 true, now it is false", "the same arguments resume a run");
        for (String dtype : new String[] {"f32", "bf16", "f16"}) {
            Run written =
                    Run.of(
                            "generate",
                            "--device=cpu",
                            "--model=" + out,
                            "--prompt=gatun ",
                            "--max-new-tokens=5",
                            "--dtype=" + dtype);
            assertThat(written.ok().err()).contains("tokens/s on cpu in " + dtype);
        }
    }

    /** The GPU's kernels, simulated: the losses of the cpu device, and its words. */
    @Test
    void trainsAndWritesOnTheSimulatedDevice() throws IOException {
        Path simulated = folder.resolve("sim");
        Path out = folder.resolve("cpu");
        String[] options = {
            "--steps=20", "--dropout=0.1", "--learning-rate=1e-2", "--warmup-steps=0"
        };
        assertThat(Run.trainOn("sim", data, simulated, options).ok().out())
                .contains("Device     sim", "step 20/20", "bits per byte");
        Run.train(data, out, options).ok();
        double[] wanted = losses(out);
        double[] had = losses(simulated);
        assertThat(had).hasSize(20).hasSameSizeAs(wanted);
        assertThat(wanted[19]).as("it learns").isLessThan(wanted[0] - 0.5);
        for (int i = 0; i < 20; i++) {
            assertThat(had[i]).as("loss of step %d", i + 1).isCloseTo(wanted[i], within(1e-4));
        }
        String[] words = new String[2];
        for (int i = 0; i < 2; i++) {
            String device = i == 0 ? "sim" : "cpu";
            Run written =
                    Run.of(
                            "generate",
                            "--device=" + device,
                            "--model=" + simulated,
                            "--prompt=gatun ",
                            "--max-new-tokens=8",
                            "--greedy");
            assertThat(written.ok().err()).contains("8 tokens at", "tokens/s on " + device);
            words[i] = written.out();
        }
        assertThat(words[0]).startsWith("gatun ").isEqualTo(words[1]);
    }

    private static double[] losses(Path out) throws IOException {
        var json = new ObjectMapper();
        var losses = new ArrayList<Double>();
        for (String line : Files.readAllLines(out.resolve("metrics.jsonl"))) {
            JsonNode step = json.readTree(line);
            if (step.has("loss")) {
                losses.add(step.get("loss").asDouble());
            }
        }
        return losses.stream().mapToDouble(loss -> loss).toArray();
    }

    @Test
    void aMovedTokenizerIsUsed() {
        Path out = folder.resolve("out");
        Run.train(data, out, "--steps=1", "--tokenizer=" + whole.resolve("tokenizer.json")).ok();
        assertThat(out.resolve("tokenizer.json"))
                .hasSameTextualContentAs(whole.resolve("tokenizer.json"));
    }
}
