package dev.gatun.kernels.internal;

import static org.assertj.core.api.Assertions.assertThat;

import dev.gatun.kernels.Child;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The committed bindings are those of the committed header. */
class BindingsTest {
    @TempDir private Path temporary;

    private static Path repository() {
        Path at = Path.of("").toAbsolutePath();
        while (!Files.isRegularFile(at.resolve("native/include/gatun.h"))) {
            at = at.getParent();
        }
        return at;
    }

    @Test
    void theHeaderHasNotChangedSince() throws Exception {
        byte[] header = Files.readAllBytes(repository().resolve("native/include/gatun.h"));
        String now = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(header));
        try (var stored = Native.class.getResourceAsStream("gatun.h.sha256")) {
            assertThat(new String(stored.readAllBytes(), StandardCharsets.UTF_8).strip())
                    .as("gatun.h changed: run java/gatun-kernels/src/bindings/generate.sh, commit")
                    .isEqualTo(now);
        }
    }

    @Test
    void jextractWritesTheSameBytes() throws Exception {
        String jextract = System.getenv("JEXTRACT");
        if (jextract == null || jextract.isBlank()) {
            System.out.println("SKIPPED test bindings byte for byte: JEXTRACT is not set");
            Assumptions.abort("JEXTRACT is not set");
        }
        Child.Result result =
                Child.run(
                        List.of(
                                "bash",
                                repository()
                                        .resolve("java/gatun-kernels/src/bindings/generate.sh")
                                        .toString(),
                                "--check",
                                temporary.resolve("made").toString()),
                        Map.of());
        assertThat(result.exit()).as(result.output()).isZero();
    }

    @Test
    void theLibraryAndTheBindingsAgree() {
        assertThat(Native.load()).endsWith("libgatun.so");
        assertThat(GatunH.gatun_abi_version()).isEqualTo(GatunH.GATUN_ABI_VERSION());
        assertThat(gatun_tensor.layout().byteSize()).isEqualTo(128);
    }
}
