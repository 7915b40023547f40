package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/** Files that are wrong, and the sentence each gets. */
class TokenizerFileTest {

    private static final long SEED = 20261125;

    private static final String GOOD =
            """
            {"version": "1.0", "truncation": null, "padding": null,
             "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false,
                               "rstrip": false, "normalized": false, "special": true}],
             "normalizer": null,
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
                               "trim_offsets": true, "use_regex": true},
             "post_processor": {"type": "ByteLevel"},
             "decoder": {"type": "ByteLevel"},
             "model": {"type": "BPE", "dropout": null, "unk_token": null,
                       "continuing_subword_prefix": null, "end_of_word_suffix": "",
                       "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                       "vocab": {"a": 0, "b": 1, "ab": 2, "abb": 3},
                       "merges": [["a", "b"], "ab b"]}}
            """;

    @TempDir Path folder;

    private Path write(String name, String text) throws IOException {
        return Files.writeString(folder.resolve(name), text);
    }

    @Test
    void theGoodFileIsGood() throws IOException {
        Tokenizer tokenizer = Tokenizer.open(write("tokenizer.json", GOOD));
        assertThat(tokenizer.encode("abba")).containsExactly(3, 0);
        assertThat(tokenizer.encodeWithSpecial("ab<s>")).containsExactly(2, 4);
        assertThat(tokenizer.vocabSize()).isEqualTo(5);
        tokenizer.save(folder.resolve("again.json"));
        assertThat(Tokenizer.open(folder.resolve("again.json")).encodeWithSpecial("ab<s>"))
                .containsExactly(2, 4);
    }

    /** What stands in the good file, what replaces it, and the message. */
    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            textBlock =
                    """
                    "abb": 3   | "abb": 2          | model.vocab: tokens 'ab' and 'abb' both have id 2
                    "abb": 3   | "ab": 3           | not valid JSON: Duplicate field 'ab'
                    "abb": 3   | "": 3             | model.vocab: the token with id 3 is empty
                    "abb": 3   | "abb": -1         | model.vocab: token 'abb' has id -1: ids are 0 to 4194303
                    "abb": 3   | "abb": 2147483647 | model.vocab: token 'abb' has id 2147483647: ids are 0
                    "abb": 3   | "abb": 1e99       | token 'abb' has id 1.0E99: a whole number is wanted
                    "abb": 3   | "abb": 18446744073709551616 | has id 18446744073709551616: a whole number
                    "abb": 3   | "abb": "3"        | token 'abb' has id "3": a whole number is wanted
                    "abb": 3   | "abc": 3          | model.merges[1] names 'abb', which the vocabulary does not
                    ["a", "b"] | ["a", "x"]        | model.merges[0] names 'x', which the vocabulary does not
                    ["a", "b"] | ["a"]             | model.merges[0] is ["a"]: wanted "a b" or [a, b]
                    ["a", "b"] | 7                 | model.merges[0] is 7: wanted "a b" or [a, b]
                    "ab b"     | "ab  b"           | model.merges[1] is 'ab  b': two tokens and one space
                    "ab b"     | "abb"             | model.merges[1] is 'abb': two tokens and one space
                    "merges"   | "Merges"          | model.merges is missing
                    "vocab"    | "Vocab"           | model.vocab is missing
                    "model"    | "modell"          | model is missing
                    "id": 4    | "id": 3           | added_tokens[0].tokens 'abb' and '<s>' both have id 3
                    "id": 4    | "id": -4          | added_tokens[0].token '<s>' has id -4: ids are 0 to
                    "id": 4    | "id": null        | added_tokens[0].id and content: a number and a string
                    "<s>"      | "ab"              | added_tokens[0].token 'ab' has two ids, 2 and 4
                    "<s>"      | ""                | added_tokens[0].the token with id 4 is empty
                    "lstrip": false   | "lstrip": 0            | added_tokens[0].lstrip: true or false is wanted
                    "unk_token": null | "unk_token": "?"       | model.unk_token names '?', which the vocabulary
                    "add_prefix_space": false | "x": 0         | pre_tokenizer.add_prefix_space: true or false
                    "type": "BPE"     | "type": "WordPiece"    | model type WordPiece is not supported yet
                    "type": "BPE"     | "type": "Unigram"      | model type Unigram is not supported yet
                    "dropout": null   | "dropout": 0.1         | BPE dropout is not supported yet
                    "end_of_word_suffix": "" | "end_of_word_suffix": "</w>" | BPE with end_of_word_suffix is
                    "normalizer": null | "normalizer": {"type": "NFC"} | normalizer NFC is not supported yet
                    "pre_tokenizer"   | "pre"                  | pre-tokenizer null is not supported yet
                    "decoder"         | "de"                   | decoder null is not supported yet
                    "post_processor": {"type": "ByteLevel"} | "post_processor": {"type": "Odd"} | post-processor Odd is not
                    {"version"        | {{"version"            | not valid JSON
                    """)
    void faultIsNamed(String good, String bad, String message) throws IOException {
        assertThat(GOOD).contains(good);
        Path file = write("tokenizer.json", GOOD.replace(good, bad));
        assertThatThrownBy(() -> Tokenizer.open(file))
                .isInstanceOf(CheckpointException.class)
                .hasMessageContaining("tokenizer.json: ")
                .hasMessageContaining(message);
    }

    @Test
    void whatIsNotATokenizerIsNamed() throws IOException {
        assertThatThrownBy(() -> Tokenizer.open(folder))
                .isInstanceOf(CheckpointException.class)
                .hasMessageContaining("has no tokenizer: neither tokenizer.json nor vocab.json");
        assertThatThrownBy(() -> Tokenizer.open(folder.resolve("tokenizer.json")))
                .isInstanceOf(CheckpointException.class)
                .hasMessageContaining("tokenizer.json: no such file");
        for (String text : new String[] {"", "[]", "7", "not json", "\0\0\0", "{", "null", "{}"}) {
            Path file = write("tokenizer.json", text);
            assertThatThrownBy(() -> Tokenizer.open(file))
                    .as("'%s'", text)
                    .isInstanceOf(CheckpointException.class)
                    .hasMessageContaining("tokenizer.json: ");
        }
        Path deep = write("tokenizer.json", "{\"model\":" + "[".repeat(100_000));
        assertThatThrownBy(() -> Tokenizer.open(deep)).isInstanceOf(CheckpointException.class);
    }

    @Test
    void truncatedFileIsAnErrorAtEveryLength() throws IOException {
        String whole = GOOD.strip();
        for (int length = 0; length < whole.length(); length++) {
            Path file = write("tokenizer.json", whole.substring(0, length));
            assertThatThrownBy(() -> Tokenizer.open(file))
                    .as("the first %d characters", length)
                    .isInstanceOf(CheckpointException.class);
        }
    }

    @Test
    void damagedFileIsOpenedOrRefusedButNeverBreaksAnything() throws IOException {
        Random random = new Random(SEED);
        byte[] good = GOOD.getBytes(StandardCharsets.UTF_8);
        for (int round = 0; round < 2000; round++) {
            byte[] bad = good.clone();
            for (int i = 1 + random.nextInt(3); i > 0; i--) {
                bad[random.nextInt(bad.length)] = (byte) random.nextInt(256);
            }
            Path file = Files.write(folder.resolve("tokenizer.json"), bad);
            try {
                Tokenizer opened = Tokenizer.open(file);
                assertThatCode(() -> opened.encodeWithSpecial("abba <s>"))
                        .as("seed %d, round %d", SEED, round)
                        .doesNotThrowAnyException();
            } catch (CheckpointException e) {
                assertThat(e).hasMessageContaining("tokenizer.json");
            }
        }
    }

    @Test
    void vocabularyAndMergesInTwoFiles() throws IOException {
        write("vocab.json", "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<|endoftext|>\": 3}");
        write("merges.txt", "#version: 0.2\r\na b\r\n\r\n");
        for (String name : new String[] {"", "vocab.json", "merges.txt"}) {
            Tokenizer tokenizer = Tokenizer.open(folder.resolve(name));
            assertThat(tokenizer.encodeWithSpecial("abb<|endoftext|>")).containsExactly(2, 1, 3);
            assertThat(tokenizer.endOfText()).hasValue(3);
        }
    }

    static Stream<String[]> faultyPairs() {
        String vocab = "{\"a\": 0, \"b\": 1, \"ab\": 2}";
        return Stream.of(
                new String[] {vocab, "a b\na c\n", "merges.txt: line 2 names 'c'"},
                new String[] {vocab, "a b\nb a\n", "merges.txt: line 2 names 'ba'"},
                new String[] {vocab, "ab\n", "merges.txt: line 1 is 'ab': two tokens and one"},
                new String[] {vocab, "a b c\n", "merges.txt: line 1 is 'a b c': two tokens"},
                new String[] {"{\"a\": 0, \"b\": 0}", "", "vocab.json: tokens 'a' and 'b' both"},
                new String[] {"{\"a\": 0, \"a\": 1}", "", "vocab.json: not valid JSON: Duplicate"},
                new String[] {"{\"a\": -7}", "", "vocab.json: token 'a' has id -7"},
                new String[] {"{}", "", "vocab.json: no token at all"},
                new String[] {"", "", "vocab.json: "});
    }

    @ParameterizedTest
    @MethodSource("faultyPairs")
    void faultOfTwoFilesIsNamed(String vocab, String merges, String message) throws IOException {
        write("vocab.json", vocab);
        write("merges.txt", merges);
        assertThatThrownBy(() -> Tokenizer.open(folder))
                .isInstanceOf(CheckpointException.class)
                .hasMessageContaining(message);
    }

    @Test
    void missingOrBinaryMergesAreNamed() throws IOException {
        write("vocab.json", "{\"a\": 0}");
        assertThatThrownBy(() -> Tokenizer.open(folder))
                .isInstanceOf(CheckpointException.class)
                .hasMessageContaining("merges.txt: no such file");
        Files.write(folder.resolve("merges.txt"), new byte[] {'a', ' ', (byte) 0xFF});
        assertThatThrownBy(() -> Tokenizer.open(folder))
                .isInstanceOf(CheckpointException.class)
                .hasMessageContaining("merges.txt: not UTF-8 text");
    }

    @Test
    void longNamesAreShortenedInMessages() throws IOException {
        String token = "x".repeat(3000);
        write("vocab.json", "{\"a\": 0}");
        write("merges.txt", "a " + token + "\n");
        assertThatThrownBy(() -> Tokenizer.open(folder))
                .satisfies(e -> assertThat(e.getMessage().length()).isLessThan(300));
    }

    @Test
    void savingWhereNothingCanBeWrittenIsAnError() throws IOException {
        Tokenizer tokenizer = Tokenizer.open(write("tokenizer.json", GOOD));
        Path nowhere = folder.resolve("no/such/folder/tokenizer.json");
        assertThatThrownBy(() -> tokenizer.save(nowhere))
                .isInstanceOf(UncheckedIOException.class)
                .hasMessageContaining("tokenizer.json: cannot be written");
    }

    @Test
    void savingReplacesTheFileAndLeavesNoOther() throws IOException {
        Tokenizer tokenizer = Tokenizer.open(write("tokenizer.json", GOOD));
        tokenizer.save(folder.resolve("tokenizer.json"));
        tokenizer.save(folder.resolve("tokenizer.json"));
        try (Stream<Path> entries = Files.list(folder)) {
            assertThat(entries).hasSize(1);
        }
        assertThat(Tokenizer.open(folder).encode("abb")).containsExactly(3);
    }
}
