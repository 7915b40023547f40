package dev.gatun.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.gatun.trainer.Evaluation;
import dev.gatun.trainer.TrainingListener.Step;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ProgressTest {
    private static Step step(long step, long maxSteps) {
        return new Step(step, maxSteps, 3.14159, 1, 1e-3, 0.5, 8400, 2.0 * step);
    }

    @Test
    void timesAreReadAtAGlance() {
        assertThat(Progress.time(0)).isEqualTo("0:00");
        assertThat(Progress.time(-3)).isEqualTo("0:00");
        assertThat(Progress.time(59.6)).isEqualTo("1:00");
        assertThat(Progress.time(187)).isEqualTo("3:07");
        assertThat(Progress.time(3723)).isEqualTo("1:02:03");
    }

    @Test
    void plainLinesInAPipe() {
        var out = new StringWriter();
        try (var progress = new Progress(new PrintWriter(out), false)) {
            progress.stepped(step(1, 100));
            progress.stepped(step(2, 100)); // too soon for another line
            progress.evaluated(50, new Evaluation.Result(3.5, 1.75, 10, 40));
            progress.saved(50, Path.of("out", "checkpoint-50"));
            progress.stepped(step(100, 100));
        }
        assertThat(out.toString())
                .isEqualToNormalizingNewlines(
                        """
                        step 1/100  loss 3.142  8,400 tokens/s  3:18 left
                        step 50  validation loss 3.5000  1.7500 bits/byte
                        step 50  saved out/checkpoint-50
                        step 100/100  loss 3.142  val 1.750 bits/byte  8,400 tokens/s  0:00 left
                        """);
    }

    @Test
    void aRunWhoseLengthIsNotKnownYetHasNoTimeLeft() {
        var out = new StringWriter();
        try (var progress = new Progress(new PrintWriter(out), false)) {
            progress.stepped(step(1, -1));
        }
        assertThat(out.toString().strip()).isEqualTo("step 1  loss 3.142  8,400 tokens/s");
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 20, 79, 80, 100, 200})
    void theLiveLineFitsTheTerminal(int width) {
        for (long done : new long[] {1, 50, 100}) {
            String line = Progress.live(step(done, 100), 1.75, width);
            assertThat(line.length()).as(line).isLessThanOrEqualTo(width);
            assertThat(line).doesNotContain("\n");
        }
    }

    @Test
    void theBarGrows() {
        assertThat(Progress.live(step(1, 100), 1.75, 120)).startsWith("░".repeat(30) + " step 1/");
        assertThat(Progress.live(step(50, 100), 1.75, 120))
                .startsWith("█".repeat(15) + "░".repeat(15) + " step 50/100  loss 3.142");
        assertThat(Progress.live(step(100, 100), 1.75, 120)).startsWith("█".repeat(30) + " ");
    }
}
