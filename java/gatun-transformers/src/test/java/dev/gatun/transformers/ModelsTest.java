package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.gatun.kernels.Device;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ModelsTest {
    @TempDir Path parent;
    private Device device;

    @BeforeEach
    void open() {
        device = Device.open("cpu");
    }

    @AfterEach
    void close() {
        device.close();
    }

    @Test
    void opensAFolderByItsType() throws IOException {
        Path folder = parent.resolve("m");
        try (Gpt2 model = Gpt2.create(Gpt2Config.of(31, 16, 1, 2, 8), device, 11, null)) {
            model.save(folder);
        }
        try (CausalLm model = Models.open(folder.toString(), device)) {
            assertThat(model).isInstanceOf(Gpt2.class);
            assertThat(model.vocabulary()).isEqualTo(31);
            assertThat(model.context()).isEqualTo(16);
            assertThat(model.tokenizer()).isEmpty();
        }
    }

    @Test
    void saysWhatItCannotOpen() throws IOException {
        assertThatThrownBy(() -> Models.open(parent.resolve("gone"), device))
                .isInstanceOf(CheckpointException.class)
                .hasMessageEndingWith("/gone: no such folder");
        assertThatThrownBy(() -> Models.open(parent, device))
                .hasMessageEndingWith("/config.json: no such file");
        assertThatThrownBy(() -> Models.open(parent.resolve("x.gguf"), device))
                .hasMessageContaining("/x.gguf: GGUF files are not supported yet");
        Path config =
                Files.writeString(parent.resolve("config.json"), "{\"model_type\":\"llama\"}");
        assertThatThrownBy(() -> Models.open(parent, device))
                .hasMessageEndingWith(
                        "/config.json: model_type llama is not supported yet; supported: gpt2");
        assertThatThrownBy(() -> Models.open(config, device))
                .hasMessageContaining("/config.json: is a file; give the folder");
        Files.writeString(config, "{}");
        assertThatThrownBy(() -> Models.open(parent, device))
                .hasMessageEndingWith("/config.json: model_type is missing; supported: gpt2");
    }

    @Test
    void findsHubIdsInTheLocalCache() throws IOException {
        Path repository = parent.resolve("models--some-org--a.model");
        Path one = Files.createDirectories(repository.resolve("snapshots").resolve("a".repeat(40)));
        Path two = Files.createDirectories(repository.resolve("snapshots").resolve("b".repeat(40)));
        assertThat(one.toFile().setLastModified(2_000_000)).isTrue();
        assertThat(two.toFile().setLastModified(1_000_000)).isTrue();
        assertThat(Models.find("some-org/a.model", parent)).isEqualTo(one);
        Path refs = Files.createDirectories(repository.resolve("refs"));
        Files.writeString(refs.resolve("main"), "b".repeat(40));
        assertThat(Models.find("some-org/a.model", parent)).isEqualTo(two);
        // what refs/main says is a commit or nothing
        Files.writeString(refs.resolve("main"), "../../../etc");
        assertThat(Models.find("some-org/a.model", parent)).isEqualTo(one);
        assertThatThrownBy(() -> Models.find("some-org/other", parent))
                .isInstanceOf(CheckpointException.class)
                .hasMessageContaining("some-org/other: no such folder, and no such model in the")
                .hasMessageContaining("hf download some-org/other");
    }

    @ParameterizedTest
    @ValueSource(strings = {"../x", "/x", "a/b/c", "..", ".hidden", "a/..", "~/x", "a b", "-x"})
    void aPathIsNoHubId(String path) throws IOException {
        Files.createDirectories(
                parent.resolve("models--" + path.replace("/", "--") + "/snapshots/s"));
        assertThat(Models.find(path, parent)).isEqualTo(Path.of(path));
    }

    @Test
    void aNameWithNulIsASentence() {
        assertThatThrownBy(() -> Models.open("a\0b", device))
                .isInstanceOf(CheckpointException.class)
                .hasMessageContaining("no model folder can have this name");
    }
}
