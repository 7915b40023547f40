package dev.gatun.trainer;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.gatun.transformers.AtomicFile;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;

/**
 * {@code metrics.jsonl}: a JSON object a line. A step has {@code step}, {@code epoch}, {@code
 * loss}, {@code grad_norm}, {@code lr}, {@code tokens_per_second}, {@code elapsed_seconds}; an
 * evaluation has {@code step}, {@code val_loss}, {@code bits_per_byte}.
 */
public final class MetricsFile implements TrainingListener, AutoCloseable {
    /** The file's name in an output folder. */
    public static final String NAME = "metrics.jsonl";

    private static final ObjectMapper JSON = new ObjectMapper();

    private final BufferedWriter out;

    private MetricsFile(BufferedWriter out) {
        this.out = out;
    }

    /** Begins a file anew. */
    public static MetricsFile create(Path outputDir) throws IOException {
        Files.createDirectories(outputDir);
        return new MetricsFile(
                Files.newBufferedWriter(
                        outputDir.resolve(NAME),
                        StandardOpenOption.CREATE,
                        StandardOpenOption.TRUNCATE_EXISTING,
                        StandardOpenOption.WRITE));
    }

    /** Goes on after the lines up to {@code step}; later ones, which the run will redo, go. */
    public static MetricsFile resume(Path outputDir, long step) throws IOException {
        Path file = outputDir.resolve(NAME);
        if (!Files.exists(file)) {
            return create(outputDir);
        }
        var kept = new StringBuilder();
        for (JsonNode line : read(outputDir)) {
            if (line.path("step").asLong() <= step) {
                kept.append(line).append('\n');
            }
        }
        AtomicFile.write(file, kept.toString().getBytes(StandardCharsets.UTF_8));
        return new MetricsFile(Files.newBufferedWriter(file, StandardOpenOption.APPEND));
    }

    /** All lines of an output folder's file; a last line that a kill cut off is left out. */
    public static List<JsonNode> read(Path outputDir) throws IOException {
        List<String> lines = Files.readAllLines(outputDir.resolve(NAME));
        var parsed = new ArrayList<JsonNode>();
        for (int i = 0; i < lines.size(); i++) {
            try {
                parsed.add(JSON.readTree(lines.get(i)));
            } catch (IOException e) {
                if (i < lines.size() - 1) {
                    throw new IOException("%s: line %d is not JSON".formatted(NAME, i + 1), e);
                }
            }
        }
        return parsed;
    }

    @Override
    public void stepped(Step s) {
        ObjectNode line = JSON.createObjectNode();
        line.put("step", s.step());
        line.put("epoch", s.epoch());
        line.put("loss", s.loss());
        line.put("grad_norm", s.gradNorm());
        line.put("lr", s.learningRate());
        line.put("tokens_per_second", s.tokensPerSecond());
        line.put("elapsed_seconds", s.elapsedSeconds());
        append(line);
    }

    @Override
    public void evaluated(long step, Evaluation.Result result) {
        ObjectNode line = JSON.createObjectNode();
        line.put("step", step);
        line.put("val_loss", result.loss());
        line.put("bits_per_byte", result.bitsPerByte());
        append(line);
    }

    private void append(ObjectNode line) {
        try {
            out.write(line.toString());
            out.newLine();
            out.flush(); // a reader may follow the run; a kill loses at most one line
        } catch (IOException e) {
            throw new UncheckedIOException(NAME + ": cannot be written: " + e.getMessage(), e);
        }
    }

    @Override
    public void close() throws IOException {
        out.close();
    }
}
