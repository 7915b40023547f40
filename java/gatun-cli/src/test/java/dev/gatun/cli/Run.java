package dev.gatun.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.File;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;

/** A command line that was run in this process: its exit code and what it said. */
record Run(int code, String out, String err) {
    /** Few and small numbers, so that a step takes a millisecond. */
    static final List<String> TINY =
            List.of(
                    "--n-layer=1",
                    "--n-head=2",
                    "--n-embd=16",
                    "--context=16",
                    "--vocab-size=300",
                    "--batch-size=2",
                    "--eval-steps=0");

    static Run of(String... args) {
        var out = new StringWriter();
        var err = new StringWriter();
        int code = Main.execute(new PrintWriter(out), new PrintWriter(err, true), args);
        return new Run(code, out.toString(), err.toString());
    }

    /** {@code train} with {@link #TINY} sizes, on cpu. */
    static Run train(Path data, Path out, String... more) {
        return trainOn("cpu", data, out, more);
    }

    static Run trainOn(String device, Path data, Path out, String... more) {
        return of(arguments(device, data, out, more).toArray(String[]::new));
    }

    static List<String> trainArguments(Path data, Path out, String... more) {
        return arguments("cpu", data, out, more);
    }

    private static List<String> arguments(String device, Path data, Path out, String... more) {
        var args = new ArrayList<>(List.of("train", "--data", "" + data, "--out", "" + out));
        args.addAll(TINY);
        args.add("--device=" + device);
        args.addAll(List.of(more));
        return args;
    }

    /** Succeeded, with nothing to complain of. */
    Run ok() {
        assertThat(code).as("exit code of a run that said%n%s%n%s", out, err).isZero();
        return this;
    }

    /** Failed with these words, in a sentence and no stack trace. */
    void failed(int wantedCode, String... words) {
        assertThat(err).contains(words);
        assertThat(err).doesNotContain("\tat ", "Exception");
        assertThat(code).as("exit code of a run that said%n%s%n%s", out, err).isEqualTo(wantedCode);
    }

    /** The command line for a process of its own, of this module's and the tests' classes. */
    static ProcessBuilder child(List<String> args) {
        var path = new ArrayList<String>();
        for (String property : List.of("jdk.module.path", "java.class.path")) {
            String entries = System.getProperty(property, "");
            if (!entries.isEmpty()) {
                path.add(entries);
            }
        }
        var command =
                new ArrayList<>(
                        List.of(
                                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                                "--enable-native-access=ALL-UNNAMED",
                                "-Dgatun.library.path="
                                        + System.getProperty("gatun.library.path", ""),
                                "-cp",
                                String.join(File.pathSeparator, path),
                                "dev.gatun.cli.Main"));
        command.addAll(args);
        return new ProcessBuilder(command);
    }

    /** A text of made-up sentences, the same for the same seed. */
    static String text(long seed, int words) {
        var random = new Random(seed);
        var text = new StringBuilder();
        String[] syllables = {"ga", "tun", "mel", "or", "ki", "sta", "ne", "lu", "fir", "o", "é"};
        for (int i = 0; i < words; i++) {
            int length = 1 + skewed(random, 4);
            for (int s = 0; s < length; s++) {
                text.append(syllables[skewed(random, syllables.length)]);
            }
            text.append(random.nextInt(9) == 0 ? ".\n" : " ");
        }
        return text.toString();
    }

    /** Below {@code bound}, small numbers more often. */
    private static int skewed(Random random, int bound) {
        double x = random.nextDouble();
        return (int) (bound * x * x);
    }

    static Path file(Path folder, String name, String text) {
        try {
            return Files.writeString(folder.resolve(name), text);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
