package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;

/**
 * Ids and texts of the reference library ({@code tokenizers} 0.23.2) and of llama.cpp, for every
 * folder of tokenizers among the fixtures and among the test resources.
 */
class TokenizerParityTest {

    private static final Pattern UNSUPPORTED =
            Pattern.compile(": (?:model type )?(.*) is not supported yet");

    @TempDir Path scratch;

    @TestFactory
    Stream<DynamicTest> everyTokenizerAgreesWithTheReference() {
        return FixtureFolders.list("tokenizers").stream()
                .filter(Files::isDirectory)
                .map(folder ->
                        DynamicTest.dynamicTest(
                                folder.getFileName().toString(), () -> check(folder)));
    }

    private void check(Path folder) throws IOException {
        Tokenizer tokenizer = open(folder);
        checkCases(tokenizer, folder.resolve("cases.json"));
        checkSequences(tokenizer, folder.resolve("sequences.json"));
        checkLlamaCpp(tokenizer, folder);

        Path saved = scratch.resolve(folder.getFileName() + ".json");
        tokenizer.save(saved);
        checkCases(Tokenizer.open(saved), folder.resolve("cases.json"));

        if (Files.exists(folder.resolve("merges.txt"))) {
            Tokenizer older = Tokenizer.open(folder.resolve("vocab.json"));
            checkCases(older, folder.resolve("cases.json"));
            checkLlamaCpp(older, folder);
            assertThat(older.endOfText()).isEqualTo(tokenizer.endOfText());
        }
    }

    private static Tokenizer open(Path folder) {
        String kind = "SentencePiece model";
        if (Files.exists(folder.resolve("tokenizer.json"))) {
            try {
                return Tokenizer.open(folder);
            } catch (CheckpointException e) {
                Matcher unsupported = UNSUPPORTED.matcher(e.getMessage());
                if (!unsupported.find()) {
                    throw e;
                }
                kind = unsupported.group(1);
            }
        }
        FixtureFolders.skip(FixtureFolders.name(folder), kind);
        throw new AssertionError("not skipped");
    }

    private static void checkCases(Tokenizer tokenizer, Path file) throws IOException {
        JsonNode cases = Json.MAPPER.readTree(file.toFile());
        assertThat(cases.size()).as("cases in %s", file).isGreaterThan(50);
        for (JsonNode row : cases) {
            String text = row.get("text").textValue();
            int[] ids = ints(row.get("ids"));
            assertThat(tokenizer.encodeWithSpecial(text)).as("ids of %s", row).isEqualTo(ids);
            assertThat(Arrays.stream(ids).mapToObj(tokenizer::token).toList())
                    .as("tokens of %s", row)
                    .isEqualTo(strings(row.get("tokens")));
            for (int id : ids) {
                assertThat(tokenizer.idOf(tokenizer.token(id))).hasValue(id);
            }
            checkDecoding(tokenizer, row);
            if (row.has("ids_plain")) {
                assertThat(tokenizer.encode(text))
                        .as("plain ids of %s", row)
                        .isEqualTo(ints(row.get("ids_plain")));
            }
        }
    }

    private static void checkSequences(Tokenizer tokenizer, Path file) throws IOException {
        if (Files.exists(file)) {
            for (JsonNode row : Json.MAPPER.readTree(file.toFile())) {
                checkDecoding(tokenizer, row);
            }
        }
    }

    private static void checkDecoding(Tokenizer tokenizer, JsonNode row) {
        int[] ids = ints(row.get("ids"));
        assertThat(tokenizer.decode(ids, true))
                .as("text of %s", row)
                .isEqualTo(row.get("decode_skip").textValue());
        assertThat(tokenizer.decode(ids))
                .as("text of %s", row)
                .isEqualTo(row.get("decode_keep").textValue());
    }

    private static void checkLlamaCpp(Tokenizer tokenizer, Path folder) throws IOException {
        Path inputs = folder.resolve("llamacpp.inp");
        if (!Files.exists(inputs)) {
            return;
        }
        String[] texts = Files.readString(inputs).split("\n__ggml_vocab_test__\n", -1);
        List<String> lines = Files.readAllLines(folder.resolve("llamacpp.out"));
        assertThat(texts.length).as("inputs of llama.cpp").isGreaterThanOrEqualTo(lines.size());
        for (int i = 0; i < lines.size(); i++) {
            int[] ids =
                    Arrays.stream(lines.get(i).strip().split(" +"))
                            .filter(id -> !id.isEmpty())
                            .mapToInt(Integer::parseInt)
                            .toArray();
            assertThat(tokenizer.encode(texts[i]))
                    .as("ids of llama.cpp's input %d, '%s'", i, texts[i])
                    .isEqualTo(ids);
        }
    }

    private static int[] ints(JsonNode array) {
        int[] ints = new int[array.size()];
        for (int i = 0; i < ints.length; i++) {
            ints[i] = array.get(i).intValue();
        }
        return ints;
    }

    private static List<String> strings(JsonNode array) {
        List<String> strings = new ArrayList<>();
        array.forEach(node -> strings.add(node.textValue()));
        return strings;
    }

    /** The small tokenizers among the test resources. */
    static Path resources() {
        return FixtureFolders.roots().getFirst().resolve("tokenizers");
    }
}
