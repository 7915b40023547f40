package dev.gatun.transformers;

import static org.junit.jupiter.api.Assumptions.abort;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Where the fixtures are: the small ones among the test resources, and the large ones where {@code
 * -Dgatun.fixtures} (or ../shared/fixtures beside the repository) has them.
 */
final class FixtureFolders {
    private FixtureFolders() {}

    static List<Path> roots() {
        var roots = new ArrayList<Path>();
        try {
            roots.add(
                    Path.of(FixtureFolders.class.getResource("/fixtures/README.md").toURI())
                            .getParent());
        } catch (URISyntaxException e) {
            throw new AssertionError(e);
        }
        Path large = large();
        if (Files.isDirectory(large)) {
            roots.add(large);
        }
        return roots;
    }

    private static Path large() {
        String given = System.getProperty("gatun.fixtures");
        if (given != null) {
            return Path.of(given);
        }
        Path folder = Path.of("").toAbsolutePath();
        while (folder.getParent() != null && !Files.exists(folder.resolve("gatun"))) {
            folder = folder.getParent();
        }
        return folder.resolve("../shared/fixtures").normalize();
    }

    /** What lies in a sub-folder of every root, in the order of the names. */
    static List<Path> list(String kind) {
        var all = new ArrayList<Path>();
        for (Path root : roots()) {
            Path folder = root.resolve(kind);
            if (Files.isDirectory(folder)) {
                try (var entries = Files.list(folder)) {
                    entries.sorted().forEach(all::add);
                } catch (IOException e) {
                    throw new UncheckedIOException(e);
                }
            }
        }
        return all;
    }

    /** {@code models/gpt2-tiny}, for test names and skips. */
    static String name(Path fixture) {
        return fixture.getParent().getFileName() + "/" + fixture.getFileName();
    }

    /** Reports by name what is not tested, and skips the running test. */
    static void skip(String what, String kind) {
        String line = "SKIPPED fixture " + what + ": kind not supported yet: " + kind;
        System.out.println(line);
        abort(line);
    }
}
