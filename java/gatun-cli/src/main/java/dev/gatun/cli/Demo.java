package dev.gatun.cli;

import dev.gatun.kernels.Device;
import dev.gatun.trainer.Batches;
import dev.gatun.trainer.Checkpoints;
import dev.gatun.trainer.Evaluation;
import dev.gatun.trainer.MetricsFile;
import dev.gatun.trainer.Report;
import dev.gatun.trainer.TextFiles;
import dev.gatun.trainer.TextFiles.Document;
import dev.gatun.trainer.TokenDataset;
import dev.gatun.trainer.TrainResult;
import dev.gatun.trainer.TrainingArguments;
import dev.gatun.transformers.BpeTrainer;
import dev.gatun.transformers.CausalLm;
import dev.gatun.transformers.GenerationConfig;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import dev.gatun.transformers.Models;
import dev.gatun.transformers.Tokenizer;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.OptionalLong;
import java.util.Set;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code gatun demo}: trains a small GPT-2 on this machine, from nothing, and lets it write. */
@Command(
        name = "demo",
        sortOptions = false,
        customSynopsis = "gatun demo [OPTION...]",
        description = {
            "Trains a small GPT-2 on this machine, from nothing, and lets it write.",
            "Without --data it learns from the Java sources that come with the running JDK; nothing is",
            "downloaded. Afterwards --out holds config.json, model.safetensors, tokenizer.json,",
            "metrics.jsonl (a line a step) and report.html (open it in a browser).",
            "Ctrl-C saves a checkpoint; the same command with --resume goes on from there."
        },
        optionListHeading = "%nOptions:%n",
        footer = {
            "",
            "Examples:",
            "  ./gatun demo",
            "  ./gatun demo --minutes 12 --out longer",
            "  ./gatun demo --data books/ --minutes 60"
        })
final class Demo implements Callable<Integer> {
    /** Enough to train on for minutes, encoded in seconds. */
    private static final long MAX_TRAIN_CHARS = 25_000_000;

    private static final long TOKENIZER_CHARS = 12_000_000;
    private static final long VALIDATION_BYTES = 250_000;
    private static final int SAMPLES = 3;
    private static final int PROMPT_LETTERS = 24;

    /**
     * How much is measured and written.
     *
     * @param rows of a batch of an evaluation
     * @param quickTargets tokens that the evaluations during training predict, about
     * @param quickSteps share of the steps between these; 0: none
     * @param whole whether the evaluation at the end predicts all there is, or as little
     * @param samples texts to write, of so many {@code tokens}
     */
    private record Extent(
            int rows,
            long quickTargets,
            double quickSteps,
            boolean whole,
            int samples,
            int tokens) {
        private static final Extent FULL = new Extent(8, 12_000, 0.1, true, SAMPLES, 120);
        // a token takes seconds
        private static final Extent SIMULATION = new Extent(1, 1, 0, false, 1, 8);
    }

    /** Where the samples begin when the data are Java sources. */
    private static final List<String> JAVA_PROMPTS =
            List.of(
                    "/**\n * Returns the ",
                    "public final class ",
                    "    private static int indexOf(");

    /** A model and recipe that fit a number of minutes on a machine of two cores. */
    record Recipe(
            double minutes,
            int layers,
            int heads,
            int dim,
            int context,
            int vocabulary,
            int batch,
            double learningRate,
            int warmup) {
        // rate of the first: after 400 steps 1.91 bits per byte at 2e-3, 1.94 at 1.3e-3, 2.01 at
        // 4e-3 (docs/benchmarks); sizes and rates of the longer ones are not measured yet
        private static final List<Recipe> ALL =
                List.of(
                        new Recipe(8, 3, 6, 192, 256, 2048, 4, 2e-3, 50),
                        new Recipe(60, 4, 8, 256, 256, 2048, 4, 2e-3, 50),
                        new Recipe(Double.MAX_VALUE, 6, 10, 320, 256, 2048, 4, 1.5e-3, 100));

        static Recipe of(double minutes) {
            return ALL.stream().filter(r -> minutes <= r.minutes).findFirst().orElseThrow();
        }

        TrainingArguments arguments(Path out, long seed) {
            return TrainingArguments.of(out)
                    .perDeviceTrainBatchSize(batch)
                    .learningRate(learningRate)
                    .warmupSteps(warmup)
                    .lrSchedulerType(TrainingArguments.Scheduler.COSINE_WITH_MIN_LR)
                    .weightDecay(0.1)
                    .adam(0.9, 0.95, 1e-8)
                    .saveSteps(0)
                    .seed(seed);
        }
    }

    @Spec private CommandSpec spec = CommandSpec.create();

    @Option(
            names = "--data",
            paramLabel = "FILE|DIR",
            description = "UTF-8 text to learn from (default: the running JDK's own sources)")
    private @Nullable Path data;

    @Option(
            names = "--minutes",
            paramLabel = "M",
            defaultValue = "3",
            description =
                    "from the first step on; many minutes train a larger model"
                            + " (default: ${DEFAULT-VALUE})")
    private double minutes;

    @Option(
            names = "--steps",
            paramLabel = "N",
            description =
                    "so many steps, however long they take; --minutes then only sizes the model")
    private @Nullable Long steps;

    @Option(
            names = "--out",
            paramLabel = "DIR",
            defaultValue = "gatun-demo",
            description = "where everything is written (default: ${DEFAULT-VALUE})")
    private Path out = Path.of("gatun-demo");

    @Option(names = "--resume", description = "go on where Ctrl-C stopped the same command")
    private boolean resume;

    @Option(
            names = "--seed",
            paramLabel = "N",
            defaultValue = "1",
            description = "of weights, data order and samples (default: ${DEFAULT-VALUE})")
    private long seed;

    @Option(names = "--bf16", description = "matrices and activations in bf16; weights stay f32")
    private boolean bf16;

    @Option(
            names = "--dump-tokens",
            paramLabel = "DIR",
            hidden = true,
            description = "write the token streams for a peer (bench/peers)")
    private @Nullable Path dump;

    @Mixin private RunOptions options = new RunOptions();

    @Override
    public Integer call() throws IOException {
        var limits = new Limits(spec.commandLine());
        limits.above("--minutes", minutes, 0, 100_000);
        if (steps != null) {
            limits.whole("--steps", steps, 1, 1_000_000_000);
        }
        TrainingRun.prepare(out);
        OptionalLong checkpoint = TrainingRun.checkpoint(out, resume);
        PrintWriter console = spec.commandLine().getOut();
        Recipe recipe = Recipe.of(minutes);

        try (Device device = options.open()) {
            boolean simulated = device.name().startsWith("sim");
            Extent extent = simulated ? Extent.SIMULATION : Extent.FULL;
            say("Device", "%s", options.line(device));
            if (simulated) {
                say("", "This is a simulation: the GPU's kernels, executed on this processor. The");
                say("", "values are a GPU's, the time is not; little is measured and written.");
            }
            List<Document> documents = data == null ? JdkSources.read() : TextFiles.read(data);
            TextFiles text = text(documents);
            say(
                    "Data",
                    "%s: %s to learn from, %s of %d other files to be measured on",
                    data == null ? JdkSources.archive() + " (java.base)" : data,
                    bytes(chars(text.train())),
                    bytes(chars(text.validation())),
                    text.validation().size());
            Tokenizer tokenizer = tokenizer(text.train(), recipe.vocabulary);
            var train = TokenDataset.of(texts(text.train()), tokenizer);
            var held = TokenDataset.of(texts(text.validation()), tokenizer);
            var batches = new Batches(train, recipe.batch, 1, recipe.context, seed);
            var evaluation = new Evaluation(held, tokenizer, extent.rows, recipe.context);
            var quick = evaluation.sample(extent.quickTargets, tokenizer);
            if (dump != null) {
                dump(train, held, evaluation);
            }
            try (CausalLm model =
                    resume
                            ? Models.open(Checkpoints.newest(out).orElseThrow(), device)
                            : Gpt2.create(config(recipe, tokenizer), device, seed, tokenizer)) {
                String size =
                        "GPT-2 of %.1f M parameters".formatted(TrainingRun.parameters(model) / 1e6);
                say(
                        "Model",
                        "%s: %d layers of width %d, context %d tokens",
                        size,
                        recipe.layers,
                        recipe.dim,
                        recipe.context);
                TrainingArguments args = arguments(recipe, extent);
                say("Training", "%s; Ctrl-C stops it and saves%n", length());
                TrainResult result =
                        new TrainingRun(args, model, spec.commandLine())
                                .run(checkpoint, batches, quick);
                if (result.stopped()) {
                    return TrainingRun.STOPPED;
                }
                Evaluation.Result measured =
                        extent.whole ? evaluation.of(model) : result.evaluation().orElseThrow();
                double gzip = Report.gzipBitsPerByte(texts(text.validation()));
                console.println();
                say("Trained", "%s", TrainingRun.summary(result));
                say(
                        "Measured",
                        "%.3f bits per byte on %s that it never saw (gzip -9 needs %.3f)",
                        measured.bitsPerByte(),
                        bytes(measured.bytes()),
                        gzip);
                Map<String, String> samples = samples(model, text.validation(), extent);
                Report.write(
                        out,
                        new Report(
                                size,
                                MetricsFile.read(out),
                                settings(args, recipe, device),
                                Info.machine(),
                                samples,
                                gzip,
                                measured));
                if (result.checkpoint().isPresent()) {
                    // of no use any more: the model itself is in the folder
                    TrainingRun.delete(result.checkpoint().get());
                }
                console.println();
                say(
                        "Written",
                        "%s: config.json, model.safetensors, tokenizer.json, metrics.jsonl",
                        out);
                say("Look at", "%s", out.resolve(Report.NAME));
                say(
                        "Try",
                        "./gatun generate --model %s --prompt %s --temperature 0.8",
                        TrainingRun.quoted(out.toString()),
                        TrainingRun.quoted(shortest(samples.keySet())));
                say("", "./gatun train --help");
            }
            options.printProfile(device, console);
        }
        return 0;
    }

    /** A line of the log: what it is about, and what there is to say. */
    private void say(String subject, String format, Object... values) {
        PrintWriter console = spec.commandLine().getOut();
        console.printf("%-10s %s%n", subject, format.formatted(values));
        console.flush();
    }

    /** The prompt that is easiest to type. */
    private static String shortest(Set<String> prompts) {
        return prompts.stream()
                .filter(prompt -> !prompt.contains("\n"))
                .min(Comparator.comparingInt(String::length))
                .orElse("The ");
    }

    private String length() {
        if (steps != null) {
            return steps == 1 ? "1 step" : "%,d steps".formatted(steps);
        }
        return "%s from the first step on".formatted(Progress.time(minutes * 60));
    }

    private static String bytes(long count) {
        return count < 1_000_000
                ? "%.1f KB".formatted(count / 1e3)
                : "%.1f MB".formatted(count / 1e6);
    }

    private TrainingArguments arguments(Recipe recipe, Extent extent) {
        TrainingArguments args =
                recipe.arguments(out, seed).evalSteps(extent.quickSteps).bf16(bf16);
        return steps == null ? args.maxMinutes(minutes) : args.maxSteps(steps);
    }

    static Gpt2Config config(Recipe recipe, Tokenizer tokenizer) {
        return Gpt2Config.of(
                        tokenizer.vocabSize(),
                        recipe.context,
                        recipe.layers,
                        recipe.heads,
                        recipe.dim)
                .dropout(0)
                .endId(tokenizer.endOfText().orElseThrow());
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

    private Map<String, String> samples(CausalLm model, List<Document> unseen, Extent extent) {
        PrintWriter console = spec.commandLine().getOut();
        List<String> all = data == null ? JAVA_PROMPTS : prompts(unseen);
        List<String> prompts = all.subList(0, Math.min(extent.samples, all.size()));
        var samples = new LinkedHashMap<String, String>();
        for (String prompt : prompts) {
            var written = new StringBuilder();
            console.printf(
                    "%n--- sample %d of %d, continuing \"%s\"%n%s",
                    samples.size() + 1,
                    prompts.size(),
                    prompt.strip().replaceAll("\\s+", " "),
                    prompt);
            console.flush();
            model.generate(
                    prompt,
                    GenerationConfig.of()
                            .maxNewTokens(extent.tokens)
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

    /** Three beginnings out of texts that the model never saw: of files, or of places in one. */
    static List<String> prompts(List<Document> unseen) {
        var prompts = new LinkedHashSet<String>();
        for (int place = 0; place < SAMPLES; place++) {
            for (Document document : unseen) {
                String text = document.text();
                int from = (int) ((long) text.length() * place / SAMPLES);
                while (from > 0 && from < text.length() && text.charAt(from - 1) > ' ') {
                    from++; // to the next word
                }
                String prompt = beginning(text.substring(from).stripLeading());
                if (!prompt.isEmpty() && prompts.size() < SAMPLES) {
                    prompts.add(prompt);
                }
            }
        }
        return List.copyOf(prompts);
    }

    /** The first words, or the first letters where there is a word without end. */
    private static String beginning(String text) {
        int letters = Math.min(PROMPT_LETTERS, text.codePointCount(0, text.length()));
        int end = text.offsetByCodePoints(0, letters);
        int space = end;
        while (space > 0 && space < text.length() && text.charAt(space) > ' ') {
            space--;
        }
        return text.substring(0, space > 0 ? space : end).strip();
    }

    private static Map<String, String> settings(
            TrainingArguments args, Recipe recipe, Device device) {
        var settings = new LinkedHashMap<String, String>();
        settings.put("layers", String.valueOf(recipe.layers));
        settings.put("heads", String.valueOf(recipe.heads));
        settings.put("width", String.valueOf(recipe.dim));
        settings.put("context", String.valueOf(recipe.context));
        settings.put("vocabulary", String.valueOf(recipe.vocabulary));
        settings.putAll(TrainingRun.settings(args, device));
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
