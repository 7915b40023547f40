package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.params.provider.Arguments.arguments;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Files that try to mislead the reader, each with the sentence that refuses it. */
class SafetensorsTest {
    private static final String F32_2X2 =
            "\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}";

    @TempDir Path folder;

    static byte[] bytes(String header, int dataBytes) {
        byte[] json = header.getBytes(StandardCharsets.UTF_8);
        return ByteBuffer.allocate(8 + json.length + dataBytes)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(json.length)
                .put(json)
                .array();
    }

    private Path write(byte[] contents) throws IOException {
        return Files.write(folder.resolve("model.safetensors"), contents);
    }

    private static Arguments header(String header, int dataBytes, String sentence) {
        return arguments(bytes(header, dataBytes), sentence);
    }

    private static byte[] length(long headerBytes, int follow) {
        return ByteBuffer.allocate(8 + follow)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(headerBytes)
                .array();
    }

    private static String entry(String name, String dtype, String shape, String offsets) {
        return "\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":%s}"
                .formatted(name, dtype, shape, offsets);
    }

    static Stream<Arguments> hostile() {
        return Stream.of(
                arguments(new byte[0], "has 0 bytes; a safetensors file begins with 8 bytes"),
                arguments(new byte[7], "has 7 bytes; a safetensors file begins with 8 bytes"),
                arguments(
                        length(100_000_001, 50),
                        "header length is 100000001; a safetensors header has at most 100000000"),
                arguments(
                        length(-1, 50),
                        "header length is 18446744073709551615; a safetensors header has at most"),
                arguments(
                        length(Long.MIN_VALUE, 50),
                        "header length is 9223372036854775808; a safet"),
                arguments(
                        length(1000, 50),
                        "header length is 1000, but only 50 bytes follow; the file is truncated"),
                arguments(length(0, 0), "the header is missing; wanted an object"),
                header("not json", 0, "the header is not valid JSON: Unrecognized token 'not'"),
                header("{\"a\":", 0, "the header is not valid JSON: Unexpected end-of-input"),
                header("[]", 0, "the header is an array; wanted an object"),
                header("{} {}", 0, "the header has more after its JSON object"),
                header("{" + "\"a\":{".repeat(50), 0, "a has an unknown field a"),
                header("{\"a\":" + "[".repeat(100_000), 0, "a is an array; wanted an object"),
                header("{\"a\":1}", 0, "a is 1; wanted an object"),
                header("{\"a\":{\"shape\":[]}}", 0, "a has no dtype"),
                header("{\"a\":{\"dtype\":\"F32\"}}", 0, "a has no shape"),
                header("{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 0, "a has no data_offsets"),
                header(
                        "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"x\":1}}",
                        4,
                        "a has an unknown field x"),
                header(
                        "{" + entry("a", "F33", "[2]", "[0,8]") + "}",
                        8,
                        "a has dtype F33, which is none of [BF16, BOOL, C64, F16"),
                header(
                        "{" + entry("a", "F32", "[2,-2]", "[0,16]") + "}",
                        16,
                        "a shape holds -2; wanted a number from 0 to 2^63 - 1"),
                header(
                        "{" + entry("a", "F32", "[2.0]", "[0,8]") + "}",
                        8,
                        "a shape is 2.0; wanted a whole number"),
                header(
                        "{" + entry("a", "F32", "[9223372036854775808]", "[0,8]") + "}",
                        8,
                        "a shape holds 9223372036854775808; wanted a number"),
                header(
                        "{" + entry("a", "F32", "[4294967296,4294967296]", "[0,0]") + "}",
                        0,
                        "a has shape [4294967296, 4294967296], whose size overflows"),
                header(
                        "{" + entry("a", "F32", "[4611686018427387904]", "[0,0]") + "}",
                        0,
                        "a has shape [4611686018427387904], whose size overflows"),
                header(
                        "{" + entry("a", "F32", "[2,2]", "[0,12]") + "}",
                        12,
                        "a has 12 bytes of data, its shape [2, 2] of F32 takes 16"),
                header(
                        "{" + entry("a", "F32", "[2]", "[8,0]") + "}",
                        8,
                        "a has data_offsets [8, 0]; wanted [begin, end]"),
                header(
                        "{" + entry("a", "F32", "[2]", "[0,8,16]") + "}",
                        8,
                        "a has data_offsets [0, 8, 16]; wanted [begin, end]"),
                header(
                        "{" + entry("a", "F32", "[2]", "[-8,0]") + "}",
                        8,
                        "a data_offsets holds -8; wanted a number"),
                header(
                        "{" + F32_2X2 + "," + entry("b", "F32", "[4]", "[8,24]") + "}",
                        24,
                        "b begins at byte 8 of the data, a ends at 16: they overlap"),
                header(
                        "{" + F32_2X2 + "," + entry("b", "F32", "[2,2]", "[0,16]") + "}",
                        16,
                        "b begins at byte 0 of the data, a ends at 16: they overlap"),
                header(
                        "{" + F32_2X2 + "," + entry("b", "F32", "[1]", "[20,24]") + "}",
                        24,
                        "b begins at byte 20 of the data, a ends at 16: a hole"),
                header(
                        "{" + entry("a", "F32", "[1]", "[4,8]") + "}",
                        8,
                        "a begins at byte 4 of the data, the header ends at 0: a hole"),
                header(
                        "{" + F32_2X2 + "}",
                        15,
                        "the header describes 16 bytes of data, the file has 15: truncated"),
                header(
                        "{"
                                + entry(
                                        "a",
                                        "U8",
                                        "[9223372036854775807]",
                                        "[0,9223372036854775807]")
                                + "}",
                        16,
                        "describes 9223372036854775807 bytes of data, the file has 16: truncated"),
                header("{" + F32_2X2 + "}", 17, "has 1 bytes after its last tensor"),
                header(
                        "{" + F32_2X2 + "," + F32_2X2 + "}",
                        16,
                        "the header is not valid JSON: Duplicate field 'a'"),
                header("{\"__metadata__\":{\"x\":1}}", 0, "__metadata__ x is 1; wanted a string"),
                header("{\"__metadata__\":7}", 0, "__metadata__ is 7; wanted an object"));
    }

    @ParameterizedTest
    @MethodSource("hostile")
    void refuses(byte[] contents, String sentence) throws IOException {
        Path file = write(contents);
        assertThatThrownBy(() -> Safetensors.open(file).close())
                .isInstanceOf(CheckpointException.class)
                .hasMessageStartingWith(folder.getFileName() + "/model.safetensors: ")
                .hasMessageContaining(sentence);
        // the file is not held open: it can be deleted and made again
        Files.delete(file);
    }

    @Test
    void refusesWhatIsNotThere() {
        assertThatThrownBy(() -> Safetensors.open(folder.resolve("x.safetensors")))
                .isInstanceOf(CheckpointException.class)
                .hasMessage(folder.getFileName() + "/x.safetensors: no such file");
        assertThatThrownBy(() -> Safetensors.open(folder))
                .isInstanceOf(CheckpointException.class)
                .hasMessageEndingWith(": no such file");
    }

    @Test
    void refusesAFileThatShrinksWhileItIsRead() throws IOException {
        Path file = write(bytes("{" + F32_2X2 + "}", 16));
        try (var open = Safetensors.open(file)) {
            write(bytes("{" + F32_2X2 + "}", 4));
            assertThatThrownBy(() -> open.toFloats("a"))
                    .isInstanceOf(CheckpointException.class)
                    .hasMessageContaining("ended inside a");
        }
    }

    /** Any one damaged byte gives a sound file or a sentence, never another exception. */
    @Test
    void survivesDamage() throws IOException {
        long seed = 4711;
        var random = new Random(seed);
        byte[] sound =
                bytes(
                        "{\"__metadata__\":{\"format\":\"pt\"},"
                                + F32_2X2
                                + ","
                                + entry("b", "BF16", "[3]", "[16,22]")
                                + "}",
                        22);
        int refused = 0;
        for (int i = 0; i < 3000; i++) {
            byte[] damaged = sound.clone();
            for (int hits = 1 + random.nextInt(3); hits > 0; hits--) {
                damaged[random.nextInt(damaged.length)] = (byte) random.nextInt();
            }
            Path file = write(damaged);
            try (var open = Safetensors.open(file)) {
                for (String name : open.entries().keySet()) {
                    String dtype = open.entries().get(name).dtype();
                    if (dtype.equals("F32") || dtype.equals("BF16") || dtype.equals("F16")) {
                        open.toFloats(name);
                    }
                }
            } catch (CheckpointException e) {
                refused++;
            } catch (RuntimeException e) {
                throw new AssertionError("seed " + seed + ", damage " + i, e);
            }
        }
        assertThat(refused).isPositive();
    }

    @Test
    void readsEveryDtype() throws IOException {
        byte[] header =
                ("  {"
                                + entry("f64", "F64", "[1]", "[0,8]")
                                + ","
                                + entry("i64", "I64", "[1]", "[8,16]")
                                + ","
                                + entry("f32", "F32", "[]", "[16,20]")
                                + ","
                                + entry("i32", "I32", "[1]", "[20,24]")
                                + ","
                                + entry("f16", "F16", "[1]", "[24,26]")
                                + ","
                                + entry("bf16", "BF16", "[1]", "[26,28]")
                                + ","
                                + entry("u8", "U8", "[2]", "[28,30]")
                                + ","
                                + entry("none", "F32", "[0,3]", "[30,30]")
                                + "}  ")
                        .getBytes(StandardCharsets.UTF_8);
        var file =
                ByteBuffer.allocate(8 + header.length + 30)
                        .order(ByteOrder.LITTLE_ENDIAN)
                        .putLong(header.length)
                        .put(header)
                        .putDouble(1.5)
                        .putLong(-7)
                        .putFloat(-2.25f)
                        .putInt(-9)
                        .putShort(Float.floatToFloat16(0.5f))
                        .putShort((short) (Float.floatToIntBits(3f) >> 16))
                        .put((byte) 200)
                        .put((byte) 1);
        try (var open = Safetensors.open(write(file.array()))) {
            assertThat(open.toFloats("f64")).containsExactly(1.5f);
            assertThat(open.toLongs("i64")).containsExactly(-7);
            assertThat(open.toFloats("f32")).containsExactly(-2.25f);
            assertThat(open.entries().get("f32").shape()).isEqualTo(List.of());
            assertThat(open.toLongs("i32")).containsExactly(-9);
            assertThat(open.toFloats("f16")).containsExactly(0.5f);
            assertThat(open.toFloats("bf16")).containsExactly(3f);
            assertThat(open.toLongs("u8")).containsExactly(200, 1);
            assertThat(open.toFloats("none")).isEmpty();
            assertThatThrownBy(() -> open.toFloats("i64"))
                    .hasMessageContaining("i64 is i64[1]; wanted a float tensor");
            assertThatThrownBy(() -> open.toLongs("f16"))
                    .hasMessageContaining("f16 is f16[1]; wanted an integer tensor");
            assertThatThrownBy(() -> open.toLongs("x")).hasMessageContaining("has no tensor x");
        }
    }
}
