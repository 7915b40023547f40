package dev.gatun.transformers;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.AccessDeniedException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;

/**
 * Writes a file so that its name always holds either the old or the whole new contents: into a
 * temporary file beside it, synced, then renamed over it. A failure (full disk, killed process)
 * leaves the old file as it was; a failure that this process survives leaves no temporary file.
 */
public final class AtomicFile {
    /** Writes the contents. */
    @FunctionalInterface
    public interface Body {
        void write(FileChannel channel) throws IOException;
    }

    private AtomicFile() {}

    public static void write(Path file, byte[] contents) throws IOException {
        write(file, channel -> writeFully(channel, ByteBuffer.wrap(contents)));
    }

    /**
     * Writes a file whose contents come piece by piece.
     *
     * @throws IOException with a message that names the file and says what is wrong with it
     */
    public static void write(Path file, Body body) throws IOException {
        Path folder = file.toAbsolutePath().getParent();
        if (folder == null) {
            throw new IOException(file + ": cannot be written: it is no file");
        }
        Path temporary =
                folder.resolve(
                        ".%s.%d.tmp".formatted(file.getFileName(), ProcessHandle.current().pid()));
        try {
            try (var channel =
                    FileChannel.open(
                            temporary,
                            StandardOpenOption.CREATE,
                            StandardOpenOption.TRUNCATE_EXISTING,
                            StandardOpenOption.WRITE)) {
                body.write(channel);
                channel.force(true);
            }
            Files.move(temporary, file, StandardCopyOption.ATOMIC_MOVE);
            sync(folder);
        } catch (IOException e) {
            discard(temporary);
            throw new IOException(
                    "%s: cannot be written: %s".formatted(Folder.name(file), reason(e, folder)), e);
        } catch (RuntimeException | Error e) {
            discard(temporary);
            throw e;
        }
    }

    private static void discard(Path temporary) {
        try {
            Files.deleteIfExists(temporary);
        } catch (IOException _) {
            // the failure that brought us here is the one to report
        }
    }

    static void writeFully(FileChannel channel, ByteBuffer bytes) throws IOException {
        while (bytes.hasRemaining()) {
            channel.write(bytes);
        }
    }

    /** Makes a rename in a folder durable: without it a power cut may bring the old name back. */
    public static void sync(Path folder) throws IOException {
        try (var channel = FileChannel.open(folder, StandardOpenOption.READ)) {
            channel.force(true);
        }
    }

    private static String reason(IOException e, Path folder) {
        return switch (e) {
            case NoSuchFileException _ -> "no such folder: " + folder.getFileName();
            case AccessDeniedException _ -> "permission denied";
            default -> String.valueOf(e.getMessage());
        };
    }
}
