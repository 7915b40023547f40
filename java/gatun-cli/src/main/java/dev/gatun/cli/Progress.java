package dev.gatun.cli;

import dev.gatun.trainer.Evaluation;
import dev.gatun.trainer.TrainingListener;
import java.io.Console;
import java.io.PrintWriter;
import java.nio.file.Path;
import me.tongfei.progressbar.ConsoleProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import org.jspecify.annotations.Nullable;

/** Shows a training run: one live line on a terminal, plain lines every few seconds in a pipe. */
final class Progress implements TrainingListener, AutoCloseable {
    private static final int REFRESH_MILLIS = 200;
    private static final long PLAIN_NANOS = 10_000_000_000L;
    private static final int LONGEST_BAR = 30;
    private static final int SHORTEST_BAR = 6;

    private final PrintWriter out;
    private final boolean live;
    private @Nullable ProgressBar bar;
    private volatile @Nullable Step newest;
    private volatile double bitsPerByte = Double.NaN;
    private boolean shown;
    private long shownNanos;

    /**
     * @param live whether standard output is a terminal, where a line can be drawn anew
     */
    Progress(PrintWriter out, boolean live) {
        this.out = out;
        this.live = live;
    }

    /** For standard output as it is. */
    @SuppressWarnings(
            "SystemConsoleNull") // it is again, from JDK 25 on, where there is no terminal
    static Progress of(PrintWriter out) {
        Console console = System.console();
        return new Progress(out, console != null && console.isTerminal());
    }

    @Override
    public void stepped(Step step) {
        newest = step;
        if (live) {
            if (bar == null) {
                bar =
                        ProgressBar.builder()
                                .setUpdateIntervalMillis(REFRESH_MILLIS)
                                .continuousUpdate() // it does not look at our step
                                .setConsumer(new ConsoleProgressBarConsumer(System.out))
                                .setRenderer((_, width) -> live(width))
                                .build();
            }
            return;
        }
        long now = System.nanoTime();
        boolean last = step.step() == step.maxSteps();
        if (last || !shown || now - shownNanos >= PLAIN_NANOS) {
            shown = true;
            shownNanos = now;
            out.println(line(step, bitsPerByte, "tokens/s"));
            out.flush();
        }
    }

    /** The newest step, behind a bar of the width that is left. */
    private String live(int width) {
        Step step = newest;
        return step == null ? "" : live(step, bitsPerByte, width);
    }

    static String live(Step step, double bitsPerByte, int width) {
        String line = line(step, bitsPerByte, "tok/s");
        int length = Math.min(LONGEST_BAR, width - line.length() - 1);
        if (step.maxSteps() > 0 && length >= SHORTEST_BAR) {
            int done = (int) (length * Math.min(step.step(), step.maxSteps()) / step.maxSteps());
            line = "█".repeat(done) + "░".repeat(length - done) + " " + line;
        }
        return line.substring(0, Math.min(width, line.length()));
    }

    private static String line(Step s, double bitsPerByte, String speed) {
        var line = new StringBuilder("step ").append(s.step());
        if (s.maxSteps() > 0) {
            line.append('/').append(s.maxSteps());
        }
        line.append("  loss %.3f".formatted(s.loss()));
        if (!Double.isNaN(bitsPerByte)) {
            line.append("  val %.3f bits/byte".formatted(bitsPerByte));
        }
        line.append("  %,.0f %s".formatted(s.tokensPerSecond(), speed));
        if (s.maxSteps() > 0) {
            double each = s.elapsedSeconds() / Math.max(1, s.step());
            line.append("  ").append(time(each * (s.maxSteps() - s.step()))).append(" left");
        }
        return line.toString();
    }

    @Override
    public void evaluated(long step, Evaluation.Result result) {
        bitsPerByte = result.bitsPerByte();
        if (!live) {
            out.printf(
                    "step %d  validation loss %.4f  %.4f bits/byte%n",
                    step, result.loss(), result.bitsPerByte());
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

    /** Draws the live line a last time and leaves it standing. */
    @Override
    public void close() {
        if (bar != null) {
            bar.close();
            bar = null;
        }
    }

    /** 3:07, or 1:02:03 from an hour on. */
    static String time(double seconds) {
        long whole = Math.max(0, Math.round(seconds));
        return whole < 3600
                ? "%d:%02d".formatted(whole / 60, whole % 60)
                : "%d:%02d:%02d".formatted(whole / 3600, whole / 60 % 60, whole % 60);
    }
}
