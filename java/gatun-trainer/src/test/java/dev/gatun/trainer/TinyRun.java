package dev.gatun.trainer;

import dev.gatun.kernels.Device;
import dev.gatun.transformers.BpeTrainer;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import dev.gatun.transformers.Tokenizer;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;

/**
 * A training small enough to run many times. As a program: trains into the folder of its first
 * argument, for as many steps as the second says and with bf16 as the third says, from the newest
 * checkpoint if there is one, and prints each step, so that a test can kill it.
 */
final class TinyRun {
    static final int CONTEXT = 32;

    private TinyRun() {}

    /** Made-up prose with something to learn in it. */
    static List<String> documents(long seed) {
        var random = new Random(seed);
        String[] words =
                "the canal lock gate lake rain ship water level rises falls and then slow grey over"
                        .split(" ");
        var documents = new ArrayList<String>();
        for (int d = 0; d < 40; d++) {
            var text = new StringBuilder();
            for (int w = 0; w < 120; w++) {
                text.append(words[random.nextInt(words.length)]).append(w % 9 == 8 ? ".\n" : " ");
            }
            documents.add(text.toString());
        }
        return documents;
    }

    static Tokenizer tokenizer() {
        return BpeTrainer.of(300).train(documents(1));
    }

    static Gpt2 model(Device device, Tokenizer tokenizer, double dropout) {
        return Gpt2.create(
                Gpt2Config.of(tokenizer.vocabSize(), CONTEXT, 2, 2, 16)
                        .dropout(dropout)
                        .endId(tokenizer.endOfText().orElseThrow()),
                device,
                3,
                tokenizer);
    }

    static TrainingArguments arguments(Path out, long steps) {
        return TrainingArguments.of(out)
                .maxSteps(steps)
                .learningRate(1e-2)
                .warmupSteps(5)
                .weightDecay(0.1)
                .saveSteps(10)
                .seed(7);
    }

    static Batches data(Tokenizer tokenizer) {
        return new Batches(TokenDataset.of(documents(1), tokenizer), 4, 2, CONTEXT, 7);
    }

    /** Trains or goes on; with dropout, so that the random numbers must be right as well. */
    static TrainResult run(TrainingArguments args, TrainingListener listener) throws IOException {
        Path out = args.outputDir();
        Tokenizer tokenizer = tokenizer();
        try (Device device = Device.open("cpu");
                Gpt2 model = model(device, tokenizer, 0.1)) {
            var trainer = new Trainer(model, args);
            return Checkpoints.newest(out).isPresent()
                    ? trainer.resume(data(tokenizer), null, listener)
                    : trainer.train(data(tokenizer), null, listener);
        }
    }

    public static void main(String[] args) throws IOException {
        run(
                arguments(Path.of(args[0]), Long.parseLong(args[1]))
                        .bf16(Boolean.parseBoolean(args[2])),
                new TrainingListener() {
                    @Override
                    public void stepped(Step step) {
                        System.out.println("step " + step.step());
                    }
                });
    }

    /** A main class of these tests in a JVM of its own, behind the words of a prefix. */
    static Process child(
            List<String> prefix, List<String> options, Class<?> main, String... arguments)
            throws IOException {
        var command = new ArrayList<>(prefix);
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.addAll(options);
        command.addAll(
                List.of(
                        "-XX:-UsePerfData",
                        "--enable-native-access=ALL-UNNAMED",
                        "-Dgatun.library.path=" + System.getProperty("gatun.library.path"),
                        "-cp",
                        classPath(),
                        main.getName()));
        command.addAll(List.of(arguments));
        return new ProcessBuilder(command).redirectErrorStream(true).start();
    }

    private static String classPath() {
        var entries = new ArrayList<String>();
        for (String property : List.of("java.class.path", "jdk.module.path")) {
            String value = System.getProperty(property, "");
            if (!value.isEmpty()) {
                entries.add(value);
            }
        }
        try { // patched into the module while tests run, so on no path
            entries.add(
                    Path.of(
                                    TinyRun.class
                                            .getProtectionDomain()
                                            .getCodeSource()
                                            .getLocation()
                                            .toURI())
                            .resolveSibling("test-classes")
                            .toString());
        } catch (java.net.URISyntaxException e) {
            throw new AssertionError(e);
        }
        return String.join(":", entries);
    }
}
