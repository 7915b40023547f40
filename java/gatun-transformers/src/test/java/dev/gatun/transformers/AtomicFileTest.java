package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class AtomicFileTest {
    @TempDir Path folder;

    @Test
    void replacesAsAWhole() throws IOException {
        Path file = folder.resolve("a");
        AtomicFile.write(file, new byte[] {1, 2});
        AtomicFile.write(file, new byte[] {3});
        assertThat(Files.readAllBytes(file)).containsExactly(3);
        assertThat(folder.toFile().list()).containsExactly("a");
    }

    @Test
    void aFailureKeepsTheOldContents() throws IOException {
        Path file = folder.resolve("a");
        AtomicFile.write(file, new byte[] {1, 2});
        assertThatThrownBy(() ->
                        AtomicFile.write(
                                file,
                                out -> {
                                    out.write(ByteBuffer.wrap(new byte[] {7, 7, 7}));
                                    throw new IOException("No space left on device");
                                }))
                .isInstanceOf(IOException.class)
                .hasMessage(
                        folder.getFileName() + "/a: cannot be written: No space left on device");
        assertThatThrownBy(() ->
                        AtomicFile.write(
                                file,
                                _ -> {
                                    throw new IllegalStateException("bug");
                                }))
                .hasMessage("bug");
        assertThat(Files.readAllBytes(file)).containsExactly(1, 2);
        assertThat(folder.toFile().list()).containsExactly("a");
    }

    @Test
    void saysWhichFolderIsMissing() {
        assertThatThrownBy(() -> AtomicFile.write(folder.resolve("no/a"), new byte[1]))
                .isInstanceOf(IOException.class)
                .hasMessage("no/a: cannot be written: no such folder: no");
    }

    @Test
    void sameNameMayBeRelative() throws IOException {
        Path file = Path.of("target").resolve("atomic-file-test");
        Files.createDirectories(file.toAbsolutePath().getParent());
        AtomicFile.write(file, new byte[] {5});
        assertThat(Files.readAllBytes(file)).containsExactly(5);
        Files.delete(file);
    }
}
