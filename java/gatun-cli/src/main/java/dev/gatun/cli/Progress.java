package dev.gatun.cli;

import dev.gatun.trainer.Evaluation;
import dev.gatun.trainer.TrainingListener;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.Locale;

/**
 * Shows a training run: one live line on a terminal, plain lines every few seconds in a pipe.
 */
final class Progress implements TrainingListener {
    private static final int BAR = 20;
    private static final long LIVE_NANOS = 100_000_000L;
    private static final long PLAIN_NANOS = 10_000_000_000L;

    private final PrintWriter out;
    private final boolean live;
    private long shown = Long.MIN_VALUE;
    private int width;
    private String validation = "";

    Progress(PrintWriter out, boolean live) {
        this.out = out;
        this.live = live;
    }

    @Override
    public void stepped(Step step) {
        long now = System.nanoTime();
        boolean last = step.step() == step.maxSteps();
        if (!last && shown != Long.MIN_VALUE && now - shown < (live ? LIVE_NANOS : PLAIN_NANOS)) {
            return;
        }
        shown = now;
        String line = line(step);
        if (live) {
            out.print("\r" + line + " ".repeat(Math.max(0, width - line.length())));
            width = line.length();
            if (last) {
                endLine();
            }
        } else {
            out.println(line);
        }
        out.flush();
    }

    private String line(Step s) {
        var line = new StringBuilder();
        if (s.maxSteps() > 0) {
            int done = (int) (BAR * s.step() / s.maxSteps());
            line.append(live ? "█".repeat(done) + "░".repeat(BAR - done) + " " : "");
            line.append("step %d/%d".formatted(s.step(), s.maxSteps()));
        } else {
            line.append("step %d".formatted(s.step()));
        }
        line.append(String.format(Locale.ROOT, "  loss %.3f", s.loss()));
        line.append(validation);
        line.append(String.format(Locale.ROOT, "  %,.0f tokens/s", s.tokensPerSecond()));
        if (s.maxSteps() > 0) {
            double each = s.elapsedSeconds() / Math.max(1, s.step());
            line.append("  ").append(time(each * (s.maxSteps() - s.step()))).append(" left");
        }
        return line.toString();
    }

    @Override
    public void evaluated(long step, Evaluation.Result result) {
        validation = String.format(Locale.ROOT, "  validation %.3f bits/byte", result.bitsPerByte());
        if (!live) {
            out.printf(
                    Locale.ROOT,
                    "step %d  validation loss %.4f  %.4f bits/byte%n",
                    step,
                    result.loss(),
                    result.bitsPerByte());
            out.flush();
        }
    }

    @Override
    public void saved(long step, Path checkpoint) {
        if (!live) {
            out.printf("step %d  saved %s%n", step, checkpoint);
            out.flush();
        }
    }

    /** Leaves the live line standing. */
    void endLine() {
        if (live && width > 0) {
            out.println();
            width = 0;
        }
        out.flush();
    }

    static String time(double seconds) {
        long whole = Math.max(0, Math.round(seconds));
        return whole < 3600
                ? "%d:%02d".formatted(whole / 60, whole % 60)
                : "%d:%02d:%02d".formatted(whole / 3600, whole / 60 % 60, whole % 60);
    }
}
