package dev.gatun.trainer;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.gatun.kernels.Device;
import dev.gatun.transformers.Gpt2;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What a run leaves behind: measurements, metrics.jsonl, report.html. */
class ReportTest {
    @TempDir private Path folder;

    @Test
    void should_measure_a_uniform_model_at_log2_of_its_vocabulary() {
        var tokenizer = TinyRun.tokenizer();
        var data = TokenDataset.of(List.of("the canal and the lock and the lake"), tokenizer);
        try (Device device = Device.open("cpu");
                Gpt2 model = TinyRun.model(device, tokenizer, 0)) {
            var embedding = model.parameters().getFirst().weight();
            embedding.write(new float[(int) embedding.elements()]); // all logits 0
            var result = new Evaluation(data, tokenizer, 2, 8).of(model);
            assertThat(result.targets()).isEqualTo(data.size() - 1);
            assertThat(result.loss()).isEqualTo(Math.log(tokenizer.vocabSize()), within(1e-5));
            double bits = (data.size() - 1) * Math.log(tokenizer.vocabSize()) / Math.log(2);
            long bytes = 0;
            for (int i = 1; i < data.size(); i++) {
                bytes += tokenizer.isSpecial(data.id(i)) ? 0 : tokenizer.bytes(data.id(i)).length;
            }
            assertThat(result.bytes()).isEqualTo(bytes);
            assertThat(result.bitsPerByte()).isEqualTo(bits / bytes, within(1e-4));
        }
    }

    @Test
    void should_write_one_page_that_needs_nothing_else() throws IOException {
        try (var metrics = MetricsFile.create(folder)) {
            for (int s = 1; s <= 900; s++) {
                metrics.stepped(
                        new TrainingListener.Step(
                                s, 900, 6 / Math.sqrt(s), 1, 1e-3 * s / 900, s / 300.0, 1e4, s));
                if (s % 100 == 0) {
                    metrics.evaluated(
                            s, new Evaluation.Result(5 / Math.sqrt(s), 2 / Math.sqrt(s), 10, 30));
                }
            }
        }
        Report.write(
                folder,
                new Report(
                        "A <small> model",
                        MetricsFile.read(folder),
                        Map.of("learning_rate", "1e-3"),
                        Map.of("processor", "one & only"),
                        Map.of("class ", "<script>alert(1)</script>"),
                        1.7,
                        new Evaluation.Result(4, 1.5, 10, 30)));
        String html = Files.readString(folder.resolve("report.html"));
        assertThat(html)
                .contains("A &lt;small&gt; model", "one &amp; only", "&lt;script&gt;", "gzip -9")
                .doesNotContain("<script", "http", "src=", "@import", "url(");
        int charts = 0;
        for (int at = html.indexOf("<svg"); at >= 0; at = html.indexOf("<svg", at + 1)) {
            String svg = html.substring(at, html.indexOf("</svg>", at) + 6);
            assertWellFormed(svg);
            assertThat(svg).contains("<path").doesNotContain("NaN");
            charts++;
        }
        assertThat(charts).isEqualTo(3);
    }

    private static void assertWellFormed(String svg) {
        var open = new ArrayDeque<String>();
        var tags =
                Pattern.compile("<(/?)([a-z]+)(?: [a-zA-Z0-9-]+=\"[^\"<]*\")*(/?)>").matcher(svg);
        var rest = new StringBuilder();
        while (tags.find()) {
            tags.appendReplacement(rest, "");
            if (!tags.group(1).isEmpty()) {
                assertThat(open.pop()).isEqualTo(tags.group(2));
            } else if (tags.group(3).isEmpty()) {
                open.push(tags.group(2));
            }
        }
        tags.appendTail(rest);
        assertThat(open).isEmpty();
        assertThat(rest.toString()).doesNotContain("<", ">");
    }

    @Test
    void should_cut_metrics_back_to_the_step_that_is_resumed() throws IOException {
        try (var metrics = MetricsFile.create(folder)) {
            for (int s = 1; s <= 5; s++) {
                metrics.stepped(new TrainingListener.Step(s, 9, 1, 1, 1, 1, 1, 1));
            }
        }
        Path file = folder.resolve(MetricsFile.NAME);
        Files.writeString(
                file, Files.readString(file) + "{\"step\": 6, \"lo"); // a kill's last line
        try (var metrics = MetricsFile.resume(folder, 3)) {
            metrics.stepped(new TrainingListener.Step(4, 9, 2, 1, 1, 1, 1, 1));
        }
        assertThat(MetricsFile.read(folder))
                .extracting(line -> line.path("step").asInt())
                .containsExactly(1, 2, 3, 4);
        assertThat(MetricsFile.read(folder).getLast().path("loss").asDouble()).isEqualTo(2);
    }

    @Test
    void should_pack_like_gzip() {
        assertThat(Report.gzipBitsPerByte(List.of("a".repeat(100_000)))).isLessThan(0.02);
        assertThat(Report.gzipBitsPerByte(List.of("x"))).isGreaterThan(100); // its header
    }
}
