package dev.gatun.bench.check;

import java.io.BufferedWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** The report's file, and the same on standard output: line by line, each on the disk at once. */
final class Report implements AutoCloseable {
    private final BufferedWriter file;
    private String last = "";

    Report(Path path) throws IOException {
        if (path.getParent() != null) {
            Files.createDirectories(path.getParent());
        }
        file = Files.newBufferedWriter(path);
    }

    synchronized void line(String text) {
        last = text;
        System.out.println(text);
        try {
            file.write(text);
            file.newLine();
            file.flush();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The line before. */
    synchronized String last() {
        return last;
    }

    /** A line of some other program's. */
    void code(String text) {
        line("    " + text);
    }

    @Override
    public void close() throws IOException {
        file.close();
    }
}
