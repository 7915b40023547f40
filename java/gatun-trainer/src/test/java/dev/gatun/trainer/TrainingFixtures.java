package dev.gatun.trainer;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Optional;

/** The fixtures of the reference implementations, where this machine has them. */
final class TrainingFixtures {
    private TrainingFixtures() {}

    /** {@code training/} of {@code -Dgatun.fixtures}, else of ../shared/fixtures, else none. */
    static Optional<Path> folder() {
        String given = System.getProperty("gatun.fixtures", "");
        if (!given.isBlank() && Files.isDirectory(Path.of(given))) {
            return Optional.of(Path.of(given).resolve("training"));
        }
        for (Path at = Path.of("").toAbsolutePath(); at != null; at = at.getParent()) {
            Path beside = at.resolveSibling("shared").resolve("fixtures/training");
            if (Files.isDirectory(beside)) {
                return Optional.of(beside);
            }
        }
        return Optional.empty();
    }
}
