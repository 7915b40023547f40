package dev.gatun.trainer;

import com.fasterxml.jackson.databind.JsonNode;
import dev.gatun.transformers.AtomicFile;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.zip.GZIPOutputStream;

/**
 * What came of a training, as one page that needs nothing else: no script, no style sheet, no image
 * from outside.
 *
 * @param metrics the lines of {@link MetricsFile}
 * @param settings how it was trained
 * @param machine what it was trained on
 * @param samples prompts and what the model wrote
 * @param gzipBitsPerByte {@link #gzipBitsPerByte} of the validation text
 * @param result the final measurement
 */
public record Report(
        String title,
        List<JsonNode> metrics,
        Map<String, String> settings,
        Map<String, String> machine,
        Map<String, String> samples,
        double gzipBitsPerByte,
        Evaluation.Result result) {
    private static final String STYLE =
            """
            :root{color-scheme:light dark;--ink:#1b1f24;--dim:#667085;--line:#d6dae1;--paper:#fff;
            --s0:#2563eb;--s1:#c2410c;--code:#f4f6f9}
            @media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--dim:#98a2b3;--line:#343b47;
            --paper:#14171c;--s0:#7aa7ff;--s1:#ff9e64;--code:#1d222a}}
            body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
            max-width:880px;margin:2rem auto;padding:0 1rem}
            h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .5rem}
            p.sub{color:var(--dim);margin:.2rem 0 1.2rem}
            .tiles{display:flex;flex-wrap:wrap;gap:.8rem}.tile{border:1px solid var(--line);
            border-radius:8px;padding:.6rem .9rem;min-width:9rem}
            .tile b{display:block;font-size:1.35rem}.tile span{color:var(--dim);font-size:.85rem}
            svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--dim);
            paint-order:stroke;stroke:var(--paper);stroke-width:4px}
            .grid{stroke:var(--line);stroke-width:1}
            .reference{stroke:var(--dim);stroke-width:1.2;stroke-dasharray:5 4}
            path{fill:none;stroke-width:1.8}line.s0,path.s0{stroke:var(--s0)}
            line.s1,path.s1{stroke:var(--s1)}line.s0,line.s1{stroke-width:2.5}
            circle.s0{fill:var(--s0)}circle.s1{fill:var(--s1)}
            pre{background:var(--code);border-radius:8px;padding:.8rem 1rem;white-space:pre-wrap;
            overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace}pre b{color:var(--s0)}
            table{border-collapse:collapse}td{padding:.15rem 1.2rem .15rem 0;vertical-align:top}
            td:first-child{color:var(--dim);white-space:nowrap}
            """;

    /** The report's name in an output folder. */
    public static final String NAME = "report.html";

    /** Writes {@code report.html}; the file is complete or as it was before. */
    public static void write(Path outputDir, Report report) throws IOException {
        AtomicFile.write(outputDir.resolve(NAME), report.html().getBytes(StandardCharsets.UTF_8));
    }

    /**
     * How well {@code gzip -9} packs the same text, each document by itself, in bits per UTF-8
     * byte: a yardstick that everyone knows.
     */
    public static double gzipBitsPerByte(List<String> documents) {
        long packed = 0;
        long bytes = 0;
        for (String document : documents) {
            byte[] text = document.getBytes(StandardCharsets.UTF_8);
            var out = new ByteArrayOutputStream();
            try (var gzip =
                    new GZIPOutputStream(out) {
                        {
                            def.setLevel(9);
                        }
                    }) {
                gzip.write(text);
            } catch (IOException e) {
                throw new AssertionError(e); // memory does not fail
            }
            packed += out.size();
            bytes += text.length;
        }
        return 8.0 * packed / Math.max(1, bytes);
    }

    String html() {
        var steps = metrics.stream().filter(m -> m.has("loss")).toList();
        var html = new StringBuilder();
        html.append("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">")
                .append("<meta name=\"viewport\" content=\"width=device-width\">")
                .append("<title>%s</title><style>%s</style>".formatted(escape(title), STYLE))
                .append("<h1>%s</h1>".formatted(escape(title)));
        html.append(
                "<p class=\"sub\">%,d steps, %s epochs; measured on %,d bytes of text that it never saw</p>"
                        .formatted(
                                steps.isEmpty() ? 0 : steps.getLast().path("step").asLong(),
                                decimal(2, steps.isEmpty() ? 0 : epoch(steps.getLast())),
                                result.bytes()));
        html.append("<div class=\"tiles\">");
        html.append(tile(decimal(3, result.bitsPerByte()), "bits per byte"));
        html.append(tile(decimal(3, gzipBitsPerByte), "gzip -9, bits per byte"));
        html.append(tile(decimal(3, result.loss()), "validation loss, nats per token"));
        if (!steps.isEmpty()) {
            double speed = steps.getLast().path("tokens_per_second").asDouble();
            html.append(tile("%,.0f".formatted(speed), "tokens per second"));
        }
        html.append("</div>");

        var train = new Chart.Series("training loss", points(steps, "loss"));
        var validation = new Chart.Series("validation loss", points(metrics, "val_loss"));
        double epochsPerStep =
                steps.isEmpty()
                        ? 0
                        : epoch(steps.getLast()) / steps.getLast().path("step").asDouble(1);
        html.append("<h2>Loss</h2>")
                .append(chart("nats per token", epochsPerStep, List.of(train, validation)));
        html.append("<h2>Bits per byte of validation text</h2>")
                .append(
                        new Chart(
                                        "bits per byte",
                                        List.of(
                                                new Chart.Series(
                                                        "validation",
                                                        points(metrics, "bits_per_byte"))),
                                        epochsPerStep > 0 ? "epoch" : "",
                                        epochsPerStep,
                                        gzipBitsPerByte,
                                        "gzip -9")
                                .svg());
        html.append("<h2>Learning rate</h2>")
                .append(
                        chart(
                                "learning rate",
                                epochsPerStep,
                                List.of(new Chart.Series("learning rate", points(steps, "lr")))));
        if (!samples.isEmpty()) {
            html.append("<h2>What it writes</h2>");
            samples.forEach((prompt, text) ->
                    html.append(
                            "<pre><b>%s</b>%s</pre>"
                                    .formatted(escape(prompt), escape(text.stripTrailing()))));
        }
        html.append("<h2>Settings</h2>").append(table(settings));
        html.append("<h2>Machine</h2>").append(table(machine));
        return html.append("</html>\n").toString();
    }

    private static String chart(String label, double epochsPerStep, List<Chart.Series> series) {
        return new Chart(
                        label,
                        series,
                        epochsPerStep > 0 ? "epoch" : "",
                        epochsPerStep,
                        Double.NaN,
                        "")
                .svg();
    }

    private static List<Chart.Point> points(List<JsonNode> lines, String field) {
        var points = new ArrayList<Chart.Point>();
        for (JsonNode line : lines) {
            if (line.path(field).isNumber()) {
                points.add(
                        new Chart.Point(line.path("step").asDouble(), line.path(field).asDouble()));
            }
        }
        return points;
    }

    private static double epoch(JsonNode step) {
        return step.path("epoch").asDouble();
    }

    private static String tile(String figure, String what) {
        return "<div class=\"tile\"><b>%s</b><span>%s</span></div>".formatted(figure, what);
    }

    private static String table(Map<String, String> rows) {
        var table = new StringBuilder("<table>");
        rows.forEach((name, value) ->
                table.append(
                        "<tr><td>%s</td><td>%s</td></tr>".formatted(escape(name), escape(value))));
        return table.append("</table>").toString();
    }

    private static String decimal(int digits, double x) {
        return String.format(Locale.ROOT, "%." + digits + "f", x);
    }

    static String escape(String text) {
        return text.replace("&", "&amp;")
                .replace("<", "&lt;")
                .replace(">", "&gt;")
                .replace("\"", "&quot;");
    }
}
