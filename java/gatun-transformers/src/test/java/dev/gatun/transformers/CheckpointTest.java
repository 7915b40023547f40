package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class CheckpointTest {
    @TempDir Path parent;
    private Path folder;
    private Device device;

    @BeforeEach
    void open() throws IOException {
        folder = Files.createDirectory(parent.resolve("tiny"));
        device = Device.open("cpu");
    }

    @AfterEach
    void close() {
        assertThat(device.memory().buffers()).as("buffers left").isZero();
        device.close();
    }

    private void write(String file, Map<String, long[]> tensors) throws IOException {
        Map<String, Tensor> made = new LinkedHashMap<>();
        tensors.forEach((name, shape) -> {
            int elements = 1;
            for (long size : shape) {
                elements *= (int) size;
            }
            float[] values = new float[elements];
            for (int i = 0; i < elements; i++) {
                values[i] = name.hashCode() % 100 + i * 0.5f;
            }
            made.put(name, Tensor.of(device, values, shape));
        });
        Safetensors.write(folder.resolve(file), made, Map.of("format", "pt"));
        made.values().forEach(Tensor::close);
    }

    private void index(String json) throws IOException {
        Files.writeString(folder.resolve("model.safetensors.index.json"), json);
    }

    @Test
    void takesWhatIsThere() throws IOException {
        write("model.safetensors", Map.of("m.a", new long[] {2, 3}, "b", new long[] {4}));
        Tensor a;
        Tensor b;
        try (var in = Checkpoint.open(folder, device)) {
            in.optionalPrefix("m.");
            a = in.take("m.a", 2, 3);
            b = in.take("m.b", 4);
        }
        try (a;
                b) {
            assertThat(a).hasToString("f32[2, 3] on cpu");
            float first = "m.a".hashCode() % 100;
            assertThat(a.toFloats())
                    .containsExactly(
                            first, first + 0.5f, first + 1, first + 1.5f, first + 2, first + 2.5f);
            assertThat(b.toFloats()[3]).isEqualTo("b".hashCode() % 100 + 1.5f);
        }
    }

    @Test
    void listsEverythingThatIsWrong() throws IOException {
        write(
                "model.safetensors",
                Map.of(
                        "h.3.attn.c_attn.weight", new long[] {768, 3},
                        "h.0.extra", new long[] {2},
                        "h.0.attn.bias", new long[] {1},
                        "good", new long[] {5}));
        assertThatThrownBy(
                        () -> {
                            try (var in = Checkpoint.open(folder, device)) {
                                in.ignore("h.{}.attn.bias");
                                in.take("good", 5);
                                in.take("h.3.attn.c_attn.weight", 768, 4);
                                in.take("h.1.gone", 7);
                                in.take("good", 5);
                            }
                        })
                .isInstanceOf(CheckpointException.class)
                .hasMessage(
                        "tiny/model.safetensors: h.3.attn.c_attn.weight is f32[768, 3], config.json"
                                + " wants [768, 4]; h.1.gone is missing, config.json wants it as"
                                + " [7]; h.0.extra is f32[2], and the model has no such weight");
    }

    @Test
    void refusesWeightsThatAreNotFloats() throws IOException {
        try (Tensor ids = Tensor.of(device, new int[] {1, 2}, 2)) {
            Safetensors.write(folder.resolve("model.safetensors"), Map.of("w", ids), Map.of());
        }
        assertThatThrownBy(
                        () -> {
                            try (var in = Checkpoint.open(folder, device)) {
                                in.take("w", 2);
                            }
                        })
                .isInstanceOf(CheckpointException.class)
                .hasMessage("tiny/model.safetensors: w is i32[2], wanted f32, f16 or bf16");
    }

    @Test
    void closesWhatItTookWhenTheFileIsCut() throws IOException {
        write("model.safetensors", Map.of("a", new long[] {1000}, "b", new long[] {1000}));
        Path file = folder.resolve("model.safetensors");
        assertThatThrownBy(
                        () -> {
                            try (var in = Checkpoint.open(folder, device)) {
                                in.take("a", 1000);
                                try (var cut =
                                        java.nio.channels.FileChannel.open(
                                                file, java.nio.file.StandardOpenOption.WRITE)) {
                                    cut.truncate(200);
                                }
                                in.take("b", 1000);
                            }
                        })
                .isInstanceOf(CheckpointException.class)
                .hasMessageContaining("ended inside b; it was cut while it was being read");
    }

    @ParameterizedTest
    @ValueSource(strings = {"F16", "BF16"})
    void convertsHalves(String dtype) throws IOException {
        // every finite 16-bit pattern, against the definition of the format
        String header =
                "{\"w\":{\"dtype\":\"%s\",\"shape\":[65536],\"data_offsets\":[0,131072]}}"
                        .formatted(dtype);
        byte[] contents = SafetensorsTest.bytes(header, 131072);
        for (int i = 0; i < 65536; i++) {
            contents[contents.length - 131072 + 2 * i] = (byte) i;
            contents[contents.length - 131072 + 2 * i + 1] = (byte) (i >> 8);
        }
        Files.write(folder.resolve("model.safetensors"), contents);
        Tensor w;
        try (var in = Checkpoint.open(folder, device)) {
            w = in.take("w", 65536);
        }
        try (w) {
            float[] values = w.toFloats();
            int mantissaBits = dtype.equals("F16") ? 10 : 7;
            int exponentBits = 15 - mantissaBits;
            int bias = (1 << (exponentBits - 1)) - 1;
            for (int i = 0; i < 65536; i++) {
                int sign = i >> 15 == 0 ? 1 : -1;
                int exponent = i >> mantissaBits & (1 << exponentBits) - 1;
                int mantissa = i & (1 << mantissaBits) - 1;
                if (exponent == (1 << exponentBits) - 1) {
                    assertThat(Float.isFinite(values[i])).as("%s %x", dtype, i).isFalse();
                    continue;
                }
                double fraction = mantissa / (double) (1 << mantissaBits);
                double wanted =
                        exponent == 0
                                ? sign * fraction * Math.pow(2, 1 - bias)
                                : sign * (1 + fraction) * Math.pow(2, exponent - bias);
                if (values[i] != (float) wanted) {
                    assertThat(values[i]).as("%s %x", dtype, i).isEqualTo((float) wanted);
                }
            }
        }
    }

    @Test
    void readsShards() throws IOException {
        write("one.safetensors", Map.of("a", new long[] {2}));
        write("two.safetensors", Map.of("b", new long[] {3}));
        index(
                "{\"metadata\":{\"total_size\":20},\"weight_map\":{\"a\":\"one.safetensors\","
                        + "\"b\":\"two.safetensors\"}}");
        Tensor a;
        Tensor b;
        try (var in = Checkpoint.open(folder, device)) {
            a = in.take("a", 2);
            b = in.take("b", 3);
        }
        try (a;
                b) {
            assertThat(a.toFloats()[1]).isEqualTo("a".hashCode() % 100 + 0.5f);
            assertThat(b.toFloats()[1]).isEqualTo("b".hashCode() % 100 + 0.5f);
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "../secret.safetensors",
                "/etc/secret.safetensors",
                "sub/x.safetensors",
                "..\\\\x.safetensors",
                "x\\u0000.safetensors",
                "..safetensors",
                "model.bin",
                ""
            })
    void refusesShardsElsewhere(String file) throws IOException {
        Files.write(parent.resolve("secret.safetensors"), SafetensorsTest.bytes("{}", 0));
        index("{\"weight_map\":{\"a\":\"" + file + "\"}}");
        assertThatThrownBy(() -> Checkpoint.open(folder, device).close())
                .isInstanceOf(CheckpointException.class)
                .hasMessageStartingWith("tiny/model.safetensors.index.json: weight_map: a is \"")
                .hasMessageEndingWith(
                        "; it must be the plain name of a .safetensors file in this folder");
    }

    @Test
    void refusesIndexesThatDisagree() throws IOException {
        write("one.safetensors", Map.of("a", new long[] {2}, "c", new long[] {2}));
        index("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}");
        assertThatThrownBy(() -> Checkpoint.open(folder, device).close())
                .hasMessage(
                        "tiny/one.safetensors: does not hold what model.safetensors.index.json"
                                + " says: missing b, extra c");
        index("{\"weight_map\":{\"a\":\"gone.safetensors\"}}");
        assertThatThrownBy(() -> Checkpoint.open(folder, device).close())
                .hasMessage("tiny/gone.safetensors: no such file");
        index("{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}");
        assertThatThrownBy(() -> Checkpoint.open(folder, device).close())
                .hasMessageContaining("index.json: not valid JSON: Duplicate field 'a'");
        index("{\"weight_map\":{\"a\":7}}");
        assertThatThrownBy(() -> Checkpoint.open(folder, device).close())
                .hasMessageContaining("weight_map: a is 7; it must be a file name");
        index("{\"weight_map\":[]}");
        assertThatThrownBy(() -> Checkpoint.open(folder, device).close())
                .hasMessageContaining("weight_map is an array; it must be an object");
        index("{}");
        assertThatThrownBy(() -> Checkpoint.open(folder, device).close())
                .hasMessageContaining("weight_map is missing");
    }

    @Test
    void refusesATensorInTwoShards() throws IOException {
        write("one.safetensors", Map.of("a", new long[] {2}));
        write("two.safetensors", Map.of("a", new long[] {2}, "b", new long[] {2}));
        index("{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}");
        assertThatThrownBy(() -> Checkpoint.open(folder, device).close())
                .hasMessageContaining("two.safetensors: does not hold what")
                .hasMessageEndingWith("missing nothing, extra a");
    }

    @Test
    void saysWhatAFolderLacks() throws IOException {
        assertThatThrownBy(() -> Checkpoint.open(parent.resolve("nowhere"), device))
                .hasMessageEndingWith("/nowhere: no such folder");
        assertThatThrownBy(() -> Checkpoint.open(folder, device))
                .hasMessageEndingWith(
                        "/tiny: has neither model.safetensors nor model.safetensors.index.json");
        Files.createFile(folder.resolve("pytorch_model.bin"));
        assertThatThrownBy(() -> Checkpoint.open(folder, device))
                .hasMessageEndingWith("are never read: save the model as safetensors");
    }

    @Test
    void matricesAreOfTheWantedDtypeAndVectorsF32() throws IOException {
        float[] values = {1, -2, 0.5f, 3.1415927f};
        for (DType stored : List.of(DType.F32, DType.F16, DType.BF16)) {
            try (Tensor w = Tensor.empty(device, stored, Purpose.OTHER, 2, 2);
                    Tensor b = Tensor.empty(device, stored, Purpose.OTHER, 4)) {
                w.write(values);
                b.write(values);
                Safetensors.write(
                        folder.resolve("model.safetensors"), Map.of("w", w, "b", b), Map.of());
            }
            for (DType wanted : List.of(DType.F32, DType.F16, DType.BF16)) {
                Tensor w;
                Tensor b;
                try (var in = Checkpoint.open(folder, device, wanted)) {
                    w = in.take("w", 2, 2);
                    b = in.take("b", 4);
                }
                try (w;
                        b) {
                    assertThat(w.dtype()).isEqualTo(wanted);
                    assertThat(w.toFloats())
                            .as("%s as %s", stored, wanted)
                            .containsExactly(rounded(rounded(values, stored), wanted));
                    assertThat(b.dtype()).isEqualTo(DType.F32);
                    assertThat(b.toFloats()).containsExactly(rounded(values, stored));
                }
            }
        }
    }

    private float[] rounded(float[] values, DType dtype) {
        try (Tensor t = Tensor.empty(device, dtype, Purpose.OTHER, values.length)) {
            t.write(values);
            return t.toFloats();
        }
    }
}
