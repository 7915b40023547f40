package dev.gatun.cli;

import dev.gatun.kernels.Device;
import dev.gatun.trainer.Evaluation;
import dev.gatun.trainer.MetricsFile;
import dev.gatun.trainer.Report;
import dev.gatun.trainer.TextFiles;
import dev.gatun.trainer.TextFiles.Document;
import dev.gatun.trainer.Batches;
import dev.gatun.trainer.TokenDataset;
import dev.gatun.trainer.TrainResult;
import dev.gatun.trainer.TrainingArguments;
import dev.gatun.transformers.BpeTrainer;
import dev.gatun.transformers.GenerationConfig;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import dev.gatun.transformers.Tokenizer;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code gatun demo}: trains a small GPT-2 on this machine, from nothing, and lets it write. */
@Command(
        name = "demo",
        mixinStandardHelpOptions = true,
        sortOptions = false,
        description = {
            "Trains a tokenizer and a small GPT-2 on this machine, shows how it learns, and lets it write.",
            "Without --data it learns from the Java sources that come with the running JDK.",
            "The folder then holds config.json, model.safetensors, tokenizer.json, metrics.jsonl, report.html."
        })
final class Demo implements Callable<Integer> {
    /** Enough to train on for minutes, encoded in seconds. */
    private static final long MAX_TRAIN_CHARS = 25_000_000;

    private static final long TOKENIZER_CHARS = 12_000_000;
    private static final long VALIDATION_BYTES = 250_000;
    private static final long QUICK_TARGETS = 12_000;
    private static final int SAMPLE_TOKENS = 120;

    /** Where the samples begin when the data are Java sources. */
    private static final List<String> JAVA_PROMPTS =
            List.of(
                    "/**\n * Returns the ",
                    "public final class ",
                    "    private static int indexOf(");

    /** A model and recipe that fit a number of minutes on a machine of two cores. */
    private record Recipe(
            double minutes,
            int layers,
            int heads,
            int dim,
            int context,
            int vocabulary,
            int batch,
            double learningRate,
            int warmup) {
        // measured on 2 cores (docs/benchmarks): below about 8 minutes the smaller model has seen
        // more tokens and is ahead; the next size pays from about an hour on
        private static final List<Recipe> ALL =
                List.of(
                        new Recipe(8, 3, 6, 192, 256, 2048, 4, 4e-3, 50),
                        new Recipe(60, 4, 8, 256, 256, 2048, 4, 2e-3, 50),
                        new Recipe(Double.MAX_VALUE, 6, 10, 320, 256, 2048, 4, 1.5e-3, 100));

        static Recipe of(double minutes) {
            return ALL.stream().filter(r -> minutes <= r.minutes).findFirst().orElseThrow();
        }
    }

    @Spec private CommandSpec spec;
    @Mixin private RunOptions options = new RunOptions();

    @Option(
            names = "--data",
            paramLabel = "FILE|DIR",
            description = "UTF-8 text to learn from (default: the running JDK's own sources)")
    private @Nullable Path data;

    @Option(
            names = "--steps",
            paramLabel = "N",
            description = "optimizer steps, instead of a time")
    private @Nullable Long steps;

    @Option(
            names = "--minutes",
            paramLabel = "M",
            defaultValue = "3",
            description = "minutes to train, from the first step (default: ${DEFAULT-VALUE})")
    private double minutes;

    @Option(
            names = "--out",
            paramLabel = "DIR",
            defaultValue = "gatun-demo",
            description = "where everything is written (default: ${DEFAULT-VALUE})")
    private Path out = Path.of("gatun-demo");

    @Option(
            names = "--seed",
            paramLabel = "N",
            defaultValue = "1",
            description = "of weights, data order and samples (default: ${DEFAULT-VALUE})")
    private long seed;

    @Option(
            names = "--dump-tokens",
            paramLabel = "DIR",
            hidden = true,
            description = "write the token streams for a peer (bench/peers)")
    private @Nullable Path dump;

    Demo() {
        spec = CommandSpec.create();
    }

    @Override
    public Integer call() throws IOException {
        if (!(minutes > 0) || minutes > 100_000) {
            throw new ParameterException(
                    spec.commandLine(), "--minutes is %s, wanted above 0".formatted(minutes));
        }
        if (steps != null && steps < 1) {
            throw new ParameterException(
                    spec.commandLine(), "--steps is %d, wanted 1 or more".formatted(steps));
        }
        Files.createDirectories(out);
        PrintWriter console = spec.commandLine().getOut();
        Recipe recipe = Recipe.of(minutes);

        long begin = System.nanoTime();
        List<Document> documents = data == null ? JdkSources.read() : TextFiles.read(data);
        TextFiles text = text(documents);
        console.printf(
                Locale.ROOT,
                "%s: %.1f MB to learn from, %.0f KB of %d other files to be measured on%n",
                data == null ? JdkSources.archive() + " (java.base)" : data,
                chars(text.train()) / 1e6,
                chars(text.validation()) / 1e3,
                text.validation().size());
        console.flush();
        Tokenizer tokenizer = tokenizer(text.train(), recipe.vocabulary);
        var train = TokenDataset.of(texts(text.train()), tokenizer);
        var held = TokenDataset.of(texts(text.validation()), tokenizer);
        var evaluation = new Evaluation(held, tokenizer, 8, recipe.context);
        console.printf(
                Locale.ROOT,
                "tokenizer of %d tokens trained, %,d tokens encoded in %.1f s%n",
                tokenizer.vocabSize(),
                train.size() + held.size(),
                (System.nanoTime() - begin) / 1e9);
        console.flush();
        if (dump != null) {
            dump(train, held, evaluation);
        }

        TrainingArguments args =
                TrainingArguments.of(out)
                        .perDeviceTrainBatchSize(recipe.batch)
                        .learningRate(recipe.learningRate)
                        .warmupSteps(recipe.warmup)
                        .lrSchedulerType(TrainingArguments.Scheduler.COSINE_WITH_MIN_LR)
                        .weightDecay(0.1)
                        .adam(0.9, 0.95, 1e-8)
                        .evalSteps(0.1)
                        .saveSteps(0)
                        .seed(seed);
        args = steps == null ? args.maxMinutes(minutes) : args.maxSteps(steps);
        Gpt2Config config =
                Gpt2Config.of(
                                tokenizer.vocabSize(),
                                recipe.context,
                                recipe.layers,
                                recipe.heads,
                                recipe.dim)
                        .dropout(0)
                        .endId(tokenizer.endOfText().orElseThrow());
        try (Device device = options.open();
                Gpt2 model = Gpt2.create(config, device, seed, tokenizer)) {
            long parameters =
                    model.parameters().stream().mapToLong(p -> p.weight().elements()).sum();
            console.printf(
                    Locale.ROOT,
                    "GPT-2 of %.1f M parameters (%d layers of %d, context %d) on %s: %s%n%n",
                    parameters / 1e6,
                    recipe.layers,
                    recipe.dim,
                    recipe.context,
                    device.name(),
                    device.description());
            console.flush();
            var batches = new Batches(train, recipe.batch, 1, recipe.context, seed);
            var run =
                    new TrainingRun(
                            args,
                            model,
                            console,
                            "it writes with: gatun generate --model THAT-FOLDER --prompt TEXT");
            TrainResult result =
                    run.train(batches, evaluation.sample(QUICK_TARGETS, tokenizer));
            if (result.stopped()) {
                return 1;
            }
            Evaluation.Result measured = evaluation.of(model);
            double gzip = Report.gzipBitsPerByte(texts(text.validation()));
            console.printf(
                    Locale.ROOT,
                    "%n%,d steps in %s, %,.0f tokens/s. On %.0f KB that it never saw: %.3f bits per byte (gzip -9: %.3f)%n",
                    result.step(),
                    Progress.time(result.seconds()),
                    result.tokensPerSecond(),
                    measured.bytes() / 1e3,
                    measured.bitsPerByte(),
                    gzip);
            Map<String, String> samples = samples(model, text.validation(), console);
            Report.write(
                    out,
                    new Report(
                            "GPT-2 of %.1f M parameters".formatted(parameters / 1e6),
                            MetricsFile.read(out),
                            settings(args, recipe, device),
                            Info.machine(),
                            samples,
                            gzip,
                            measured));
            console.printf(
                    "%nwritten to %s: config.json, model.safetensors, tokenizer.json, metrics.jsonl, report.html%n",
                    out);
            console.printf(
                    "next: gatun generate --model %s --prompt 'public final class ' --temperature 0.8%n",
                    out);
            console.printf("      gatun train --help%n");
            console.flush();
            options.printProfile(device, console);
        }
        return 0;
    }

    /** Training and validation text, cut to what can be encoded in seconds. */
    private static TextFiles text(List<Document> documents) {
        long total = chars(documents);
        TextFiles split = TextFiles.split(documents, 0.005, VALIDATION_BYTES);
        if (total <= MAX_TRAIN_CHARS) {
            return split;
        }
        int stride = (int) Math.ceil((double) total / MAX_TRAIN_CHARS);
        var some = new ArrayList<Document>();
        for (int i = 0; i < split.train().size(); i += stride) {
            some.add(split.train().get(i));
        }
        return some.size() < 2 ? split : new TextFiles(some, split.validation());
    }

    private static Tokenizer tokenizer(List<Document> train, int vocabulary) {
        var sample = new ArrayList<String>();
        long chars = 0;
        int stride = (int) Math.max(1, chars(train) / TOKENIZER_CHARS);
        for (int i = 0; i < train.size() && chars < TOKENIZER_CHARS; i += stride) {
            sample.add(train.get(i).text());
            chars += train.get(i).text().length();
        }
        return BpeTrainer.of(vocabulary).train(sample);
    }

    private Map<String, String> samples(Gpt2 model, List<Document> unseen, PrintWriter console) {
        List<String> prompts =
                data == null
                        ? JAVA_PROMPTS
                        : unseen.stream()
                                .map(d -> d.text().strip())
                                .filter(t -> !t.isEmpty())
                                .map(t -> t.substring(0, t.offsetByCodePoints(0, Math.min(24, t.codePointCount(0, t.length())))))
                                .limit(JAVA_PROMPTS.size())
                                .toList();
        var samples = new LinkedHashMap<String, String>();
        for (String prompt : prompts) {
            var written = new StringBuilder();
            console.printf("%n--- %s%n%s", prompt.lines().findFirst().orElse(""), prompt);
            console.flush();
            model.generate(
                    prompt,
                    GenerationConfig.of()
                            .maxNewTokens(SAMPLE_TOKENS)
                            .temperature(0.8f)
                            .topP(0.95f)
                            .seed(seed),
                    piece -> {
                        written.append(piece);
                        console.print(piece);
                        console.flush();
                    });
            console.println();
            samples.put(prompt, written.toString());
        }
        return samples;
    }

    private static Map<String, String> settings(
            TrainingArguments args, Recipe recipe, Device device) {
        var settings = new LinkedHashMap<String, String>();
        settings.put("layers", String.valueOf(recipe.layers));
        settings.put("heads", String.valueOf(recipe.heads));
        settings.put("width", String.valueOf(recipe.dim));
        settings.put("context", String.valueOf(recipe.context));
        settings.put("vocabulary", String.valueOf(recipe.vocabulary));
        args.toMap().forEach((name, value) -> settings.put(name, String.valueOf(value)));
        settings.put("device", device.name() + ": " + device.description());
        settings.put("gatun", Info.Version.of());
        return settings;
    }

    private void dump(TokenDataset train, TokenDataset held, Evaluation evaluation)
            throws IOException {
        Path folder = Objects.requireNonNull(dump);
        Files.createDirectories(folder);
        Files.write(folder.resolve("train.u16"), ids(train));
        Files.write(folder.resolve("validation.u16"), ids(held));
        Files.writeString(folder.resolve("validation.bytes"), String.valueOf(evaluation.bytes()));
    }

    private static byte[] ids(TokenDataset data) {
        var bytes = ByteBuffer.allocate(2 * data.size()).order(ByteOrder.LITTLE_ENDIAN);
        for (int i = 0; i < data.size(); i++) {
            bytes.putShort((short) data.id(i));
        }
        return bytes.array();
    }

    private static List<String> texts(List<Document> documents) {
        return documents.stream().map(Document::text).toList();
    }

    private static long chars(List<Document> documents) {
        return documents.stream().mapToLong(d -> d.text().length()).sum();
    }
}
