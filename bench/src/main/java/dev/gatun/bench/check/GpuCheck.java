package dev.gatun.bench.check;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Runs all parts of the check, each in a process of its own with its share of the time, and writes
 * the report as they speak: a part that crashes, hangs or poisons the GPU stops no other, and a
 * kill leaves what was found until then. Exit code 1 if anything is wrong.
 */
public final class GpuCheck {
    /**
     * A part.
     *
     * @param share of the time that is left when it starts
     * @param proves whether not to come to its end is as bad as something wrong
     */
    private record Part(String name, String title, double share, boolean proves) {}

    // what proves first, then figures; a part that ends early leaves its time to the others
    private static final List<Part> PARTS =
            List.of(
                    new Part("wrappers", "The wrappers of ptx.cuh", 0.1, true),
                    new Part("ops", "Every op case against float64", 0.5, true),
                    new Part("model", "GPT-2 against the cpu device", 0.3, true),
                    new Part("timings", "Device time of the ops", 0.45, false),
                    new Part("speed", "GPT-2: training and decoding", 0.4, false),
                    new Part("peers", "Peers", 0.5, false),
                    new Part("sanitizer", "Compute sanitizer", 1, false));

    private static final int MOST_RESTARTS = 50;

    private static final ObjectMapper JSON = new ObjectMapper();

    private final Options options;
    private final Report report;
    private final List<String> outcomes = new ArrayList<>();
    private final List<JsonNode> figures = new ArrayList<>();
    private int allWrong;

    // of the part that runs
    private int wrong;
    private int notRun;
    private int at;
    private String atWhat = "";

    private GpuCheck(Options options, Report report) {
        this.options = options;
        this.report = report;
    }

    public static void main(String[] args) throws IOException, InterruptedException {
        Options options = Options.of(args);
        int wrong;
        try (Report report = new Report(options.report())) {
            wrong = new GpuCheck(options, report).run();
        }
        System.exit(wrong == 0 ? 0 : 1);
    }

    private int run() throws IOException, InterruptedException {
        Map<String, String> facts = Facts.all(options);
        report.line("# Gatun on " + options.device());
        report.line("");
        report.line("| | |");
        report.line("|---|---|");
        facts.forEach((name, value) -> report.line("| %s | %s |".formatted(name, value)));
        long end = System.nanoTime() + (long) (options.minutes() * 60e9);
        if (options.rebuild()) {
            rebuild((end - System.nanoTime()) / 1e9);
        }
        for (Part part : PARTS) {
            title(part.title());
            run(part, (end - System.nanoTime()) / 1e9);
        }
        title("Summary");
        report.line("| part | wrong | not run | seconds | ended |");
        report.line("|---|---|---|---|---|");
        outcomes.forEach(report::line);
        report.line("");
        report.line(allWrong == 0 ? "**Nothing is wrong.**" : "**%d wrong.**".formatted(allWrong));
        writeFigures(facts);
        return allWrong;
    }

    private void title(String text) {
        report.line("");
        report.line("## " + text);
        report.line("");
    }

    private void rebuild(double seconds) throws IOException, InterruptedException {
        title("Rebuild with this machine's nvcc and g++");
        Path script = options.home().resolve("native/src/cuda/rebuild.sh");
        Command.Ended ended =
                Command.of("bash", script.toString(), options.nativeFolder().toString())
                        .run(seconds, report::code);
        report.line("");
        boolean built = ended.code() == 0;
        if (!built) {
            wrong(
                    "the build: "
                            + ended.sentence()
                            + "; what follows uses the plugin that was here");
        }
        outcome("rebuild", ended, built ? "built" : ended.sentence());
    }

    private void run(Part part, double left) throws IOException, InterruptedException {
        double seconds = Math.max(Math.min(10, left), left * part.share());
        if (left < 3) {
            listen(Speech.NOT_RUN + "no time is left of %s minutes".formatted(options.minutes()));
            unproven(part, "it did not run");
            outcome(part.name(), new Command.Ended(0, 0, false), "no time");
            return;
        }
        long begun = System.nanoTime();
        int from = 0;
        for (int restarts = 0; ; restarts++) {
            at = from;
            atWhat = "";
            double already = (System.nanoTime() - begun) / 1e9;
            Command.Ended ended =
                    PartMain.command(options, part.name(), "--from", String.valueOf(from))
                            .run(seconds - already, this::listen);
            double all = (System.nanoTime() - begun) / 1e9;
            if (ended.timedOut()) {
                unproven(part, "not finished: " + ended.sentence());
            } else if (ended.code() != 0 && ended.code() != Speech.GO_ON) {
                wrong(
                        "%sthe process of this part ended: %s"
                                .formatted(
                                        atWhat.isEmpty() ? "" : atWhat + ": ", ended.sentence()));
            }
            boolean again = ended.code() != 0 && !ended.timedOut() && !atWhat.isEmpty();
            if (!again || restarts == MOST_RESTARTS) {
                outcome(
                        part.name(),
                        new Command.Ended(ended.code(), all, ended.timedOut()),
                        ended.code() == 0 ? "" : ended.sentence());
                return;
            }
            from = at + 1;
        }
    }

    /** What a part did not come to is wrong only where it would have proven something. */
    private void unproven(Part part, String what) {
        if (part.proves()) {
            wrong(what);
        } else {
            listen(Speech.NOT_RUN + what);
        }
    }

    /** A line of a part. */
    private synchronized void listen(String line) {
        if (line.startsWith(Speech.WRONG)) {
            wrong(line.substring(Speech.WRONG.length()));
        } else if (line.startsWith(Speech.NOT_RUN)) {
            notRun++;
            item("not run: " + line.substring(Speech.NOT_RUN.length()));
        } else if (line.startsWith(Speech.FIGURE)) {
            try {
                figures.add(JSON.readTree(line.substring(Speech.FIGURE.length())));
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        } else if (line.startsWith(Speech.AT)) {
            String[] words = line.substring(Speech.AT.length()).split(" ", 2);
            at = Integer.parseInt(words[0]);
            atWhat = words[1];
        } else {
            report.line(line);
        }
    }

    private synchronized void wrong(String what) {
        wrong++;
        item("**WRONG** " + what);
    }

    /** An item of a list, or within a table a row of its own. */
    private void item(String text) {
        report.line(report.last().startsWith("|") ? "| " + text + " |" : "- " + text);
    }

    private synchronized void outcome(String part, Command.Ended ended, String how) {
        outcomes.add(
                "| %s | %d | %d | %.1f | %s |"
                        .formatted(part, wrong, notRun, ended.seconds(), how));
        allWrong += wrong;
        wrong = 0;
        notRun = 0;
    }

    private void writeFigures(Map<String, String> facts) throws IOException {
        Map<String, Object> all = new LinkedHashMap<>(facts);
        all.put("figures", figures);
        String name = options.report().getFileName().toString().replaceFirst("\\.md$", "");
        Files.writeString(
                options.report().resolveSibling(name + ".json"),
                JSON.writerWithDefaultPrettyPrinter().writeValueAsString(all) + "\n");
    }
}
