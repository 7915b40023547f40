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
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import dev.gatun.transformers.Models;
import dev.gatun.transformers.Tokenizer;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.OptionalLong;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code gatun train}: trains a GPT-2 from nothing, or goes on with one. */
@Command(
        name = "train",
        mixinStandardHelpOptions = true,
        sortOptions = false,
        description = {
            "Trains a GPT-2 on text: from nothing, or (--init-from) from a model that is there.",
            "Ctrl-C saves a checkpoint; the same command with --resume goes on exactly where it stopped."
        },
        footer = {
            "",
            "Example:",
            "  gatun train --data books/ --out my-gpt2 --n-layer 6 --n-head 8 --n-embd 512 --max-steps 20000"
        })
final class Train implements Callable<Integer> {
    private static final int EVALUATION_ROWS = 8;
    private static final long QUICK_TARGETS = 20_000;

    @Spec private CommandSpec spec;
    @Mixin private RunOptions options = new RunOptions();

    @Option(names = "--data", required = true, paramLabel = "FILE|DIR", description = "UTF-8 text to learn from")
    private Path data = Path.of("");

    @Option(names = "--out", required = true, paramLabel = "DIR", description = "where model, checkpoints and metrics go")
    private Path out = Path.of("");

    @Option(names = "--resume", description = "go on from the newest checkpoint in --out, with the same options")
    private boolean resume;

    @Option(names = "--validation-share", paramLabel = "F", defaultValue = "0.01", description = "share of the text, by file, that is kept apart to measure on (default: ${DEFAULT-VALUE})")
    private double validationShare;

    @Option(names = "--init-from", paramLabel = "DIR|ID", description = "a model to go on with; the sizes and the tokenizer below are then its own")
    private @Nullable String initFrom;

    @Option(names = "--tokenizer", paramLabel = "PATH", description = "tokenizer.json, or a folder with one (default: one is trained on the data)")
    private @Nullable Path tokenizer;

    @Option(names = "--vocab-size", paramLabel = "N", defaultValue = "4096", description = "tokens of a new tokenizer (default: ${DEFAULT-VALUE})")
    private int vocabSize;

    @Option(names = "--n-layer", paramLabel = "N", defaultValue = "4", description = "transformer blocks (default: ${DEFAULT-VALUE})")
    private int layers;

    @Option(names = "--n-head", paramLabel = "N", defaultValue = "8", description = "attention heads (default: ${DEFAULT-VALUE})")
    private int heads;

    @Option(names = "--n-embd", paramLabel = "N", defaultValue = "256", description = "width (default: ${DEFAULT-VALUE})")
    private int width;

    @Option(names = "--block-size", paramLabel = "N", defaultValue = "256", description = "tokens of context (default: ${DEFAULT-VALUE})")
    private int context;

    @Option(names = "--dropout", paramLabel = "P", defaultValue = "0", description = "of embeddings and of each block's output (default: ${DEFAULT-VALUE})")
    private double dropout;

    @Option(names = "--batch-size", paramLabel = "N", defaultValue = "4", description = "rows of a micro-batch (default: ${DEFAULT-VALUE})")
    private int batchSize;

    @Option(names = "--gradient-accumulation-steps", paramLabel = "N", defaultValue = "1", description = "micro-batches of an optimizer step (default: ${DEFAULT-VALUE})")
    private int accumulation;

    @Option(names = "--learning-rate", paramLabel = "R", defaultValue = "1e-3", description = "the peak (default: ${DEFAULT-VALUE})")
    private double learningRate;

    @Option(names = "--lr-scheduler", paramLabel = "NAME", defaultValue = "cosine_with_min_lr", description = "${COMPLETION-CANDIDATES} (default: ${DEFAULT-VALUE})")
    private TrainingArguments.Scheduler scheduler = TrainingArguments.Scheduler.COSINE_WITH_MIN_LR;

    @Option(names = "--warmup-steps", paramLabel = "N", defaultValue = "100", description = "steps, or below 1 a share of all (default: ${DEFAULT-VALUE})")
    private double warmupSteps;

    @Option(names = "--weight-decay", paramLabel = "W", defaultValue = "0.1", description = "of matrices and embeddings (default: ${DEFAULT-VALUE})")
    private double weightDecay;

    @Option(names = "--adam-beta1", paramLabel = "B", defaultValue = "0.9", description = "(default: ${DEFAULT-VALUE})")
    private double beta1;

    @Option(names = "--adam-beta2", paramLabel = "B", defaultValue = "0.95", description = "(default: ${DEFAULT-VALUE})")
    private double beta2;

    @Option(names = "--max-grad-norm", paramLabel = "X", defaultValue = "1", description = "clip gradients to this norm; 0: not (default: ${DEFAULT-VALUE})")
    private double maxGradNorm;

    @Option(names = "--epochs", paramLabel = "N", defaultValue = "1", description = "times through the data, without --max-steps or --minutes (default: ${DEFAULT-VALUE})")
    private double epochs;

    @Option(names = "--max-steps", paramLabel = "N", description = "optimizer steps")
    private @Nullable Long maxSteps;

    @Option(names = "--minutes", paramLabel = "M", description = "minutes to train, from the first step")
    private @Nullable Double minutes;

    @Option(names = "--eval-steps", paramLabel = "N", defaultValue = "0.05", description = "steps between measurements, or below 1 their share of all steps (default: ${DEFAULT-VALUE})")
    private double evalSteps;

    @Option(names = "--save-steps", paramLabel = "N", defaultValue = "500", description = "steps between checkpoints, or below 1 their share of all steps (default: ${DEFAULT-VALUE})")
    private double saveSteps;

    @Option(names = "--save-total-limit", paramLabel = "N", defaultValue = "2", description = "checkpoints that are kept (default: ${DEFAULT-VALUE})")
    private int saveTotalLimit;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "42", description = "of weights, data order and dropout (default: ${DEFAULT-VALUE})")
    private long seed;

    Train() {
        spec = CommandSpec.create();
    }

    @Override
    public Integer call() throws IOException {
        TrainingArguments args = arguments();
        PrintWriter console = spec.commandLine().getOut();
        OptionalLong resumed = Checkpoints.newestStep(out);
        if (resume && resumed.isEmpty()) {
            throw new IllegalArgumentException("%s: no checkpoint to resume from".formatted(out));
        }
        if (!resume && resumed.isPresent()) {
            throw new IllegalArgumentException(
                    "%s: holds checkpoints of an earlier run: --resume goes on with it, or name another --out"
                            .formatted(out));
        }
        TextFiles text = TextFiles.split(TextFiles.read(data), validationShare, 0);
        Files.createDirectories(out);
        try (Device device = options.open();
                CausalLm model = model(device, text)) {
            Tokenizer tokens =
                    model.tokenizer()
                            .orElseThrow(
                                    () ->
                                            new IllegalArgumentException(
                                                    "%s: has no tokenizer.json beside its weights"
                                                            .formatted(initFrom)));
            int time = Math.min(context, model.context());
            var train = TokenDataset.of(texts(text.train()), tokens);
            var held = TokenDataset.of(texts(text.validation()), tokens);
            var batches = new Batches(train, batchSize, accumulation, time, seed);
            var evaluation = new Evaluation(held, tokens, EVALUATION_ROWS, time);
            console.printf(
                    Locale.ROOT,
                    "%s: %,d tokens to learn from, %,d of other text to measure on; %.1f M parameters on %s%n",
                    data,
                    train.size(),
                    held.size(),
                    model.parameters().stream().mapToLong(p -> p.weight().elements()).sum() / 1e6,
                    device.name());
            console.flush();
            var run = new TrainingRun(
                            args, model, console, "the same command with --resume goes on");
            Evaluation quick = evaluation.sample(QUICK_TARGETS, tokens);
            TrainResult result =
                    resume
                            ? run.resume(resumed.orElseThrow(), batches, quick)
                            : run.train(batches, quick);
            if (result.stopped()) {
                return 0;
            }
            Evaluation.Result measured = evaluation.of(model);
            double gzip = Report.gzipBitsPerByte(texts(text.validation()));
            Report.write(
                    out,
                    new Report(
                            "Training of " + out.toAbsolutePath().getFileName(),
                            MetricsFile.read(out),
                            settings(args, device),
                            Info.machine(),
                            Map.of(),
                            gzip,
                            measured));
            console.printf(
                    Locale.ROOT,
                    "%,d steps in %s, %,.0f tokens/s; validation %.3f bits per byte (gzip -9: %.3f); written to %s%n",
                    result.step(),
                    Progress.time(result.seconds()),
                    result.tokensPerSecond(),
                    measured.bitsPerByte(),
                    gzip,
                    out);
            console.flush();
            options.printProfile(device, console);
        }
        return 0;
    }

    private CausalLm model(Device device, TextFiles text) {
        if (resume) {
            return Models.open(Checkpoints.newest(out).orElseThrow(), device);
        }
        if (initFrom != null) {
            return Models.open(initFrom, device);
        }
        Tokenizer tokens =
                tokenizer == null
                        ? BpeTrainer.of(vocabSize).train(texts(text.train()))
                        : Tokenizer.open(tokenizer);
        Gpt2Config config;
        try {
            config =
                    Gpt2Config.of(tokens.vocabSize(), context, layers, heads, width)
                            .dropout(dropout);
        } catch (IllegalArgumentException e) {
            throw new ParameterException(spec.commandLine(), String.valueOf(e.getMessage()), e);
        }
        if (tokens.endOfText().isPresent()) {
            config = config.endId(tokens.endOfText().getAsInt());
        }
        return Gpt2.create(config, device, seed, tokens);
    }

    private TrainingArguments arguments() {
        try {
            TrainingArguments args =
                    TrainingArguments.of(out)
                            .perDeviceTrainBatchSize(batchSize)
                            .gradientAccumulationSteps(accumulation)
                            .learningRate(learningRate)
                            .lrSchedulerType(scheduler)
                            .warmupSteps(warmupSteps)
                            .weightDecay(weightDecay)
                            .adam(beta1, beta2, 1e-8)
                            .maxGradNorm(maxGradNorm)
                            .numTrainEpochs(epochs)
                            .evalSteps(evalSteps)
                            .saveSteps(saveSteps)
                            .saveTotalLimit(saveTotalLimit)
                            .seed(seed);
            if (maxSteps != null) {
                args = args.maxSteps(maxSteps);
            }
            if (minutes != null) {
                args = args.maxMinutes(minutes);
            }
            return args;
        } catch (IllegalArgumentException e) {
            throw new ParameterException(spec.commandLine(), String.valueOf(e.getMessage()), e);
        }
    }

    private static Map<String, String> settings(TrainingArguments args, Device device) {
        var settings = new LinkedHashMap<String, String>();
        args.toMap().forEach((name, value) -> settings.put(name, String.valueOf(value)));
        settings.put("device", device.name() + ": " + device.description());
        settings.put("gatun", Info.Version.of());
        return settings;
    }

    private static List<String> texts(List<Document> documents) {
        return documents.stream().map(Document::text).toList();
    }
}
