package dev.gatun.trainer;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.Optional;
import java.util.OptionalLong;

/** The checkpoints of a run, {@code checkpoint-<step>} in its output folder. */
public final class Checkpoints {
    private Checkpoints() {}

    /** The newest whole one: a model folder. A damaged one is passed over with a warning. */
    public static Optional<Path> newest(Path outputDir) {
        try {
            return TrainState.newest(outputDir);
        } catch (IOException e) {
            throw new UncheckedIOException(
                    "%s: cannot be read: %s".formatted(outputDir, e.getMessage()), e);
        }
    }

    /** How many steps the newest whole one has done. */
    public static OptionalLong newestStep(Path outputDir) {
        try {
            Optional<Path> folder = TrainState.newest(outputDir);
            return folder.isEmpty()
                    ? OptionalLong.empty()
                    : OptionalLong.of(TrainState.read(folder.get()).step());
        } catch (IOException e) {
            throw new UncheckedIOException(
                    "%s: cannot be read: %s".formatted(outputDir, e.getMessage()), e);
        }
    }
}
