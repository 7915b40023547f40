package dev.gatun.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.gatun.trainer.TextFiles.Document;
import dev.gatun.transformers.Tokenizer;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The demo from its first to its last line, on a text of ours. */
class DemoTest {
    private static final int STEPS = 20;
    private static final ObjectMapper JSON = new ObjectMapper();

    @TempDir private static Path folder;
    private static Path out;
    private static Run demo;

    @BeforeAll
    static void run() throws IOException {
        Path data = Files.createDirectory(folder.resolve("data"));
        for (int i = 0; i < 12; i++) {
            Run.file(data, "chapter%02d.txt".formatted(i), Run.text(i, 800));
        }
        out = folder.resolve("out");
        demo =
                Run.of(
                        "demo",
                        "--device=cpu",
                        "--data=" + data,
                        "--out=" + out,
                        "--steps=" + STEPS,
                        "--profile");
    }

    @Test
    void saysWhatItDoes() {
        assertThat(demo.ok().out())
                .contains("Device     cpu", "Data  ", "GPT-2 of 1.", "20 steps")
                .contains("step 1/20  loss ", "step 20/20  loss ", "tokens/s", "bits/byte")
                .contains("gzip -9", "sample 1 of 3", "sample 3 of 3")
                .contains("report.html", "./gatun generate --model")
                .contains("matmul", "GFLOP/s")
                .doesNotContain("\r", "%n");
        assertThat(demo.err()).isEmpty();
    }

    @Test
    void leavesTheModelAndNothingElse() throws IOException {
        try (var files = Files.list(out)) {
            assertThat(files.map(f -> "" + f.getFileName()))
                    .containsExactlyInAnyOrder(
                            "config.json",
                            "generation_config.json",
                            "model.safetensors",
                            "tokenizer.json",
                            "metrics.jsonl",
                            "report.html");
        }
        JsonNode config = JSON.readTree(Files.readString(out.resolve("config.json")));
        assertThat(config.path("model_type").asText()).isEqualTo("gpt2");
        String text = "gatun melor é";
        Tokenizer tokenizer = Tokenizer.open(out.resolve("tokenizer.json"));
        assertThat(tokenizer.vocabSize()).isEqualTo(config.path("vocab_size").asInt());
        assertThat(tokenizer.decode(tokenizer.encode(text))).isEqualTo(text);
    }

    @Test
    void metricsHaveALineAStep() throws IOException {
        int steps = 0;
        int evaluations = 0;
        double lastLoss = Double.NaN;
        double firstLoss = Double.NaN;
        for (String text : Files.readAllLines(out.resolve("metrics.jsonl"))) {
            JsonNode line = JSON.readTree(text);
            assertThat(line.path("step").isIntegralNumber()).as(text).isTrue();
            if (line.has("val_loss")) {
                evaluations++;
                assertThat(line.path("val_loss").asDouble()).as(text).isPositive();
                assertThat(line.path("bits_per_byte").asDouble()).as(text).isBetween(0.1, 9.0);
            } else {
                assertThat(line.path("step").asInt()).isEqualTo(++steps);
                lastLoss = line.path("loss").asDouble();
                firstLoss = steps == 1 ? lastLoss : firstLoss;
                assertThat(line.path("lr").isNumber()).as(text).isTrue();
                assertThat(line.path("tokens_per_second").asDouble()).as(text).isPositive();
            }
        }
        assertThat(steps).isEqualTo(STEPS);
        assertThat(evaluations).isEqualTo(10);
        assertThat(lastLoss).isLessThan(firstLoss - 1);
    }

    @Test
    void reportNeedsNothingElse() throws IOException {
        String html = Files.readString(out.resolve("report.html"));
        assertThat(html)
                .contains("<svg", "training loss", "validation loss", "Learning rate", "epoch")
                .contains("gzip -9", "Settings", "Machine", "What it writes", "learning_rate")
                .contains("max_steps")
                .doesNotContain("max_minutes", "num_train_epochs");
        assertThat(html)
                .doesNotContain("http:", "https:", "<script", "<link", "src=", "@import", "url(");
    }

    @Test
    void writesWhenAsked() {
        String[] args = {
            "generate",
            "--device=cpu",
            "--model=" + out,
            "--prompt=gatun ",
            "--max-new-tokens=20",
            "--seed=5"
        };
        Run first = Run.of(args).ok();
        assertThat(first.out()).startsWith("gatun ");
        assertThat(first.out().length()).isGreaterThan("gatun \n".length());
        assertThat(first.err()).contains("prompt tokens", "20 tokens at", "tokens/s on cpu");
        assertThat(Run.of(args).ok().out()).as("the same seed").isEqualTo(first.out());
    }

    @Test
    void anEmptyPromptBeginsAText() {
        Run run = Run.of("generate", "--device=cpu", "--model=" + out, "--prompt=");
        assertThat(run.ok().err()).startsWith(System.lineSeparator() + "1 prompt token in");
    }

    @Test
    void readsThePromptFromStandardInput() {
        var stdin = System.in;
        try {
            System.setIn(new ByteArrayInputStream("né melor".getBytes(StandardCharsets.UTF_8)));
            Run run =
                    Run.of(
                            "generate",
                            "--device=cpu",
                            "--model=" + out,
                            "--prompt=-",
                            "--max-new-tokens=3");
            assertThat(run.ok().out()).startsWith("né melor");
        } finally {
            System.setIn(stdin);
        }
    }

    /** Its model and recipe, but little is measured and written. */
    @Test
    @Tag("slow")
    void aSimulatedDeviceSaysSoAndMeasuresLittle(@TempDir Path simulated) throws IOException {
        Path data = Run.file(simulated, "text.txt", Run.text(3, 6_000));
        Path out = simulated.resolve("out");
        Run run = Run.of("demo", "--device=sim", "--data=" + data, "--out=" + out, "--steps=2");
        assertThat(run.ok().out())
                .contains("Device     sim", "This is a simulation", "3 layers of width 192")
                .contains("2 steps; Ctrl-C", "step 2/2  loss ", "bits per byte", "sample 1 of 1")
                .doesNotContain("sample 2", "step 1  validation");
        assertThat(out.resolve("model.safetensors")).isNotEmptyFile();
        assertThat(Files.readString(out.resolve("report.html"))).contains("What it writes");
    }

    @Test
    void promptsAreBeginningsOfWords() {
        String text = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu";
        List<String> prompts = Demo.prompts(List.of(new Document("one", text)));
        assertThat(prompts).hasSize(3).first().isEqualTo("alpha beta gamma delta");
        assertThat(prompts).allSatisfy(p -> assertThat(text + " ").contains(p + " "));
        assertThat(Demo.prompts(List.of(new Document("word", "x".repeat(100)))))
                .first()
                .isEqualTo("x".repeat(24));
        String pile = "\uD83D\uDCA9".repeat(40);
        assertThat(Demo.prompts(List.of(new Document("pile", pile))).getFirst().length())
                .as("code points are not cut")
                .isEqualTo(48);
    }
}
