package dev.gatun.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What {@code gatun bench --device} keeps of a run. */
class BenchTest {
    @Test
    void resultsAreKeptWithMachineDateAndCommit(@TempDir Path home) throws IOException {
        Files.writeString(home.resolve("COMMIT"), "0123456789ab\n"); // as a bundle has it
        Path results = home.resolve("jmh.json");
        Files.writeString(results, "[{\"benchmark\": \"OpBenchmark.forward\"}]");
        Path kept = Bench.keep(home, "cuda:1", results);
        assertThat(kept).hasParent(home.resolve("bench/results"));
        assertThat(kept.getFileName().toString()).endsWith("-cuda-1.json").doesNotContain(":");
        JsonNode all = new ObjectMapper().readTree(kept.toFile());
        assertThat(Instant.parse(all.get("date").asText()))
                .isBetween(Instant.now().minus(Duration.ofMinutes(1)), Instant.now());
        assertThat(all.get("device").asText()).isEqualTo("cuda:1");
        assertThat(all.get("commit").asText()).isEqualTo("0123456789ab");
        Info.machine().keySet().forEach(fact -> assertThat(all.get(fact).asText()).isNotBlank());
        assertThat(all.fieldNames())
                .toIterable()
                .contains("processor", "cores", "features", "memory", "java", "system");
        assertThat(all.get("results").get(0).get("benchmark").asText())
                .isEqualTo("OpBenchmark.forward");
    }

    @Test
    void aFolderThatIsNoRepositoryHasNoCommit(@TempDir Path home) throws IOException {
        assertThat(Bench.commit(home)).isEqualTo("unknown");
    }
}
