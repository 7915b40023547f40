package dev.gatun.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What is wrong with files and folders, and the sentence that a person gets for it. */
class WrongInputTest {
    @TempDir private static Path shared;
    private static Path data;
    private static Path model;

    @TempDir private Path folder;

    @BeforeAll
    static void trainAModel() {
        data = Run.file(shared, "text.txt", Run.text(1, 2_000));
        model = shared.resolve("model");
        Run.train(data, model, "--steps", "2").ok();
    }

    /** The verbs that read text, with text, or with the text of a JDK. */
    private static Run learn(String verb, Path from, Path out) {
        return verb.equals("demo")
                ? Run.of("demo", "--data", "" + from, "--out", "" + out, "--steps", "2")
                : Run.train(from, out, "--steps", "2");
    }

    @ParameterizedTest
    @ValueSource(strings = {"demo", "train"})
    void noSuchFile(String verb) {
        Path missing = folder.resolve("missing.txt");
        learn(verb, missing, folder.resolve("out"))
                .failed(1, "gatun: " + missing + ": no such file or folder");
    }

    @ParameterizedTest
    @ValueSource(strings = {"demo", "train"})
    void emptyFile(String verb) {
        Path empty = Run.file(folder, "empty.txt", "");
        learn(verb, empty, folder.resolve("out")).failed(1, "gatun: " + empty + ": is empty");
    }

    @ParameterizedTest
    @ValueSource(strings = {"demo", "train"})
    void binaryFile(String verb) throws IOException {
        Path binary = Files.write(folder.resolve("binary"), new byte[] {'a', 'b', 0, 'c'});
        learn(verb, binary, folder.resolve("out"))
                .failed(1, "gatun: " + binary + ": is not text: a zero byte at offset 2");
        Path latin = Files.write(folder.resolve("latin1"), new byte[] {'a', (byte) 0xE9, 'c'});
        learn(verb, latin, folder.resolve("out2"))
                .failed(1, "gatun: " + latin + ": is not UTF-8 text");
    }

    @ParameterizedTest
    @ValueSource(strings = {"demo", "train"})
    void folderWithoutText(String verb) throws IOException {
        Path empty = Files.createDirectory(folder.resolve("nothing"));
        learn(verb, empty, folder.resolve("out")).failed(1, empty + ": no text among its 0 files");
    }

    @ParameterizedTest
    @ValueSource(strings = {"demo", "train"})
    void dataShorterThanOneContext(String verb) {
        Path tiny = Run.file(folder, "tiny.txt", "Too short.");
        learn(verb, tiny, folder.resolve("out"))
                .failed(1, "training tokens, fewer than one context of", "give more text");
    }

    @ParameterizedTest
    @ValueSource(strings = {"demo", "train"})
    void unwritableOut(String verb) {
        Path file = Run.file(folder, "file", "here already");
        learn(verb, data, file).failed(1, "--out " + file + ": cannot be written: is a file");
        Path below = file.resolve("below");
        learn(verb, data, below)
                .failed(1, "--out " + below + ": cannot be written: Not a directory");
    }

    @Test
    void outThatHoldsAnEarlierRun() {
        Run.train(data, model, "--steps", "2")
                .failed(1, model + ": holds checkpoints of an earlier run", "--resume");
        Run.of("demo", "--out", "" + model)
                .failed(1, model + ": holds checkpoints of an earlier run", "--resume");
    }

    @Test
    void nothingToResume() {
        Path out = folder.resolve("out");
        Run.train(data, out, "--steps", "2", "--resume")
                .failed(1, out + ": no checkpoint to resume from");
    }

    @Test
    void resumeWithOtherOptions() {
        Run.train(data, model, "--steps", "3", "--resume")
                .failed(1, "was trained with max_steps 2, now it is 3");
    }

    private static Run generate(Path from, String prompt) {
        return Run.of("generate", "--device=cpu", "--model", "" + from, "--prompt", prompt);
    }

    @Test
    void noModelThere() throws IOException {
        generate(folder.resolve("none"), "x").failed(1, "none: no such folder");
        Path empty = Files.createDirectory(folder.resolve("empty"));
        generate(empty, "x").failed(1, "empty/config.json: no such file");
        generate(data, "x").failed(1, "text.txt: is a file; give the folder");
    }

    @Test
    void modelOfAKindThatIsNotHere() throws IOException {
        Path other = Files.createDirectory(folder.resolve("other"));
        Run.file(other, "config.json", "{\"model_type\": \"bert\"}");
        generate(other, "x").failed(1, "model_type bert is not supported yet");
    }

    @Test
    void truncatedWeights() throws IOException {
        Path damaged = Files.createDirectory(folder.resolve("damaged"));
        for (String name : List.of("config.json", "tokenizer.json")) {
            Files.copy(model.resolve(name), damaged.resolve(name));
        }
        byte[] whole = Files.readAllBytes(model.resolve("model.safetensors"));
        Files.write(
                damaged.resolve("model.safetensors"),
                java.util.Arrays.copyOf(whole, whole.length - 5));
        generate(damaged, "x").failed(1, "damaged/model.safetensors: ");
    }

    @Test
    void promptLongerThanTheContext() {
        Run run = generate(model, "gatun ".repeat(100));
        run.failed(1, "the prompt has ", "is 16: shorten it to at most 15");
        assertThat(run.out()).isEmpty();
    }

    @ParameterizedTest
    @ValueSource(strings = {"demo", "generate"})
    void unknownDevice(String verb) {
        var args = new ArrayList<>(List.of(verb, "--device", "abacus"));
        args.addAll(
                verb.equals("demo")
                        ? List.of("--out", folder.resolve("out").toString())
                        : List.of("--model", model.toString(), "--prompt", "x"));
        Run.of(args.toArray(String[]::new)).failed(1, "there is no device \"abacus\"", "cpu");
    }

    @Test
    void stackTraceOnlyWhereItIsAskedFor() {
        Path none = folder.resolve("none");
        assertThat(generate(none, "x").err()).doesNotContain("\tat ");
        assertThat(Run.of("generate", "--model", "" + none, "--prompt", "x", "--stacktrace").err())
                .contains("\tat dev.gatun");
    }

    /** A file-size limit does to a process what a full disk does. */
    @Test
    void fullDisk() throws Exception {
        Path out = folder.resolve("out");
        List<String> command =
                Run.child(
                                Run.trainArguments(
                                        data, out, "--steps=2", "--n-embd=128", "--save-steps=1"))
                        .command();
        var limited = new ArrayList<>(List.of("bash", "-c", "ulimit -f 300; exec \"$@\"", "bash"));
        limited.addAll(command);
        Process process = new ProcessBuilder(limited).start();
        process.getOutputStream().close();
        String said = new String(process.getErrorStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(process.waitFor()).as(said).isEqualTo(1);
        assertThat(said).contains("gatun: ", "model.safetensors", "File too large");
        assertThat(said).doesNotContain("\tat ");
        try (var files = Files.list(out)) {
            assertThat(files.map(f -> "" + f.getFileName())).containsExactly("metrics.jsonl");
        }
    }
}
