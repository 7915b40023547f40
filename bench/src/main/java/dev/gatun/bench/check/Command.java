package dev.gatun.bench.check;

import java.io.BufferedReader;
import java.io.IOException;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** A process whose lines are handed on as they come, and that is ended when its time is over. */
record Command(List<String> words) {

    /**
     * How it ended.
     *
     * @param code its exit code; above 128 a signal killed it
     */
    record Ended(int code, double seconds, boolean timedOut) {
        String sentence() {
            if (timedOut) {
                return "stopped after %.0f s, its share of the time".formatted(seconds);
            }
            return code > 128
                    ? "killed by signal %d".formatted(code - 128)
                    : "exit code %d".formatted(code);
        }
    }

    static Command of(String... words) {
        return new Command(List.of(words));
    }

    /** Runs it, standard error with standard output. */
    Ended run(double seconds, Consumer<String> line) throws IOException, InterruptedException {
        long begun = System.nanoTime();
        Process process = new ProcessBuilder(words).redirectErrorStream(true).start();
        process.getOutputStream().close();
        Thread reader =
                Thread.ofVirtual()
                        .start(() -> {
                            try (BufferedReader lines = process.inputReader()) {
                                lines.lines().forEach(line);
                            } catch (IOException | java.io.UncheckedIOException e) {
                                // the end of what a killed process said
                            }
                        });
        boolean ended = process.waitFor((long) (seconds * 1000), TimeUnit.MILLISECONDS);
        if (!ended) {
            process.descendants().forEach(ProcessHandle::destroyForcibly);
            process.destroyForcibly().waitFor();
        }
        reader.join(5000);
        return new Ended(process.exitValue(), (System.nanoTime() - begun) / 1e9, !ended);
    }
}
