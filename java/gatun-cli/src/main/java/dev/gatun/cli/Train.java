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
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.OptionalLong;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;
import picocli.CommandLine.TypeConversionException;

/**
 * {@code gatun train --data FILE|DIR --out DIR}: trains a GPT-2 from nothing, or goes on with one.
 */
@Command(
        name = "train",
        sortOptions = false,
        customSynopsis = "gatun train --data FILE|DIR --out DIR [OPTION...]",
        description = {
            "Trains a GPT-2 on text, from nothing or from a model that is there.",
            "Ctrl-C saves a checkpoint; the same command with --resume goes on exactly where it stopped."
        },
        optionListHeading = "%nText and results:%n",
        footer = {
            "",
            "Of --eval-steps, --save-steps and --warmup-steps, a number below 1 is a share of all steps.",
            "",
            "Examples:",
            "  ./gatun train --data books/ --out my-gpt2 --minutes 30",
            "  ./gatun train --data books/ --out my-gpt2 --n-layer 6 --n-embd 512 --steps 20000 --resume",
            "  ./gatun train --data letters.txt --out tuned --init-from my-gpt2 --learning-rate 1e-4"
        })
final class Train implements Callable<Integer> {
    private static final int EVALUATION_ROWS = 8;
    private static final long QUICK_TARGETS = 20_000;
    private static final long MANY = 1_000_000_000;

    @Spec private CommandSpec spec = CommandSpec.create();

    @Option(
            names = "--data",
            required = true,
            paramLabel = "FILE|DIR",
            description = "UTF-8 text to learn from")
    private Path data = Path.of("");

    @Option(
            names = "--out",
            required = true,
            paramLabel = "DIR",
            description = "where model, checkpoints, metrics and report are written")
    private Path out = Path.of("");

    @Option(
            names = "--resume",
            description = "go on from the newest checkpoint in --out, with the same options")
    private boolean resume;

    @Option(
            names = "--validation-share",
            paramLabel = "F",
            description = "share of the text, by file, to measure on (default: ${DEFAULT-VALUE})")
    private double validationShare = 0.01;

    @Option(
            names = "--eval-steps",
            paramLabel = "N",
            description =
                    "steps between measurements; 0: only at the end"
                            + " (default: ${DEFAULT-VALUE})")
    private double evalSteps = 0.05;

    @Option(
            names = "--save-steps",
            paramLabel = "N",
            defaultValue = "500",
            description =
                    "steps between checkpoints; 0: only at the end"
                            + " (default: ${DEFAULT-VALUE})")
    private double saveSteps = 500;

    @Option(
            names = "--save-total-limit",
            paramLabel = "N",
            description = "newest checkpoints that are kept (default: ${DEFAULT-VALUE})")
    private int saveTotalLimit = 2;

    @ArgGroup(validate = false, order = 1, heading = "%nModel:%n")
    private Sizes sizes = new Sizes();

    @ArgGroup(validate = false, order = 2, heading = "%nHow long:%n")
    private Length length = new Length();

    @ArgGroup(validate = false, order = 3, heading = "%nRecipe:%n")
    private Recipe recipe = new Recipe();

    @ArgGroup(validate = false, order = 4, heading = "%nOther:%n")
    private RunOptions options = new RunOptions();

    private static final class Sizes {
        @Option(
                names = "--init-from",
                paramLabel = "DIR|ID",
                description = "a model to go on with; its sizes and tokenizer stay")
        private @Nullable String initFrom;

        @Option(
                names = "--tokenizer",
                paramLabel = "PATH",
                description = "tokenizer.json, or its folder (default: trained on the text)")
        private @Nullable Path tokenizer;

        @Option(
                names = "--vocab-size",
                paramLabel = "N",
                description = "tokens of a new tokenizer (default: ${DEFAULT-VALUE})")
        private int vocabSize = 4096;

        @Option(
                names = "--n-layer",
                paramLabel = "N",
                description = "transformer blocks (default: ${DEFAULT-VALUE})")
        private int layers = 4;

        @Option(
                names = "--n-head",
                paramLabel = "N",
                description = "attention heads (default: ${DEFAULT-VALUE})")
        private int heads = 8;

        @Option(
                names = "--n-embd",
                paramLabel = "N",
                description = "width, a multiple of the heads (default: ${DEFAULT-VALUE})")
        private int width = 256;

        @Option(
                names = {"--context", "--block-size"},
                paramLabel = "N",
                description = "tokens seen at once (default: ${DEFAULT-VALUE})")
        private int context = 256;

        @Option(
                names = "--dropout",
                paramLabel = "P",
                defaultValue = "0",
                description = "of embeddings and each block's output (default: ${DEFAULT-VALUE})")
        private double dropout;
    }

    private static final class Length {
        @Option(
                names = {"--steps", "--max-steps"},
                paramLabel = "N",
                description = "so many optimizer steps")
        private @Nullable Long steps;

        @Option(
                names = "--minutes",
                paramLabel = "M",
                description = "so many minutes from the first step on")
        private @Nullable Double minutes;

        @Option(
                names = "--epochs",
                paramLabel = "N",
                defaultValue = "1",
                description =
                        "without the two above: times through the text (default: ${DEFAULT-VALUE})")
        private double epochs = 1;
    }

    private static final class Recipe {
        @Option(
                names = "--batch-size",
                paramLabel = "N",
                description = "rows of a micro-batch (default: ${DEFAULT-VALUE})")
        private int batchSize = 4;

        @Option(
                names = "--gradient-accumulation-steps",
                paramLabel = "N",
                description = "micro-batches of an optimizer step (default: ${DEFAULT-VALUE})")
        private int accumulation = 1;

        @Option(
                names = "--learning-rate",
                paramLabel = "R",
                defaultValue = "1e-3",
                description = "the peak (default: ${DEFAULT-VALUE})")
        private double learningRate = 1e-3;

        @Option(
                names = "--lr-scheduler",
                paramLabel = "NAME",
                defaultValue = "cosine_with_min_lr",
                converter = SchedulerName.class,
                description =
                        "linear, cosine, cosine_with_min_lr (to a tenth of the peak), constant,"
                                + " constant_with_warmup or inverse_sqrt (default: ${DEFAULT-VALUE})")
        private TrainingArguments.Scheduler scheduler =
                TrainingArguments.Scheduler.COSINE_WITH_MIN_LR;

        @Option(
                names = "--warmup-steps",
                paramLabel = "N",
                defaultValue = "100",
                description = "steps in which the rate rises (default: ${DEFAULT-VALUE})")
        private double warmupSteps = 100;

        @Option(
                names = "--weight-decay",
                paramLabel = "W",
                description = "of matrices and embeddings (default: ${DEFAULT-VALUE})")
        private double weightDecay = 0.1;

        @Option(
                names = "--adam-beta1",
                paramLabel = "B",
                description = "decay of the gradients' mean (default: ${DEFAULT-VALUE})")
        private double beta1 = 0.9;

        @Option(
                names = "--adam-beta2",
                paramLabel = "B",
                description = "decay of their squares' mean (default: ${DEFAULT-VALUE})")
        private double beta2 = 0.95;

        @Option(
                names = "--max-grad-norm",
                paramLabel = "X",
                defaultValue = "1",
                description = "clip gradients to this norm; 0: not (default: ${DEFAULT-VALUE})")
        private double maxGradNorm = 1;

        @Option(
                names = "--bf16",
                description = "matrices and activations in bf16; weights stay f32")
        private boolean bf16;

        @Option(
                names = "--seed",
                paramLabel = "N",
                description = "of weights, data order and dropout (default: ${DEFAULT-VALUE})")
        private long seed = 42;
    }

    /** The schedulers by the field's names, in small letters. */
    private static final class SchedulerName
            implements ITypeConverter<TrainingArguments.Scheduler> {
        @Override
        public TrainingArguments.Scheduler convert(String name) {
            try {
                return TrainingArguments.Scheduler.valueOf(name.toUpperCase(Locale.ROOT));
            } catch (IllegalArgumentException e) {
                throw new TypeConversionException("there is no scheduler '" + name + "'");
            }
        }
    }

    @Override
    public Integer call() throws IOException {
        TrainingArguments args = arguments();
        checkSizes();
        PrintWriter console = spec.commandLine().getOut();
        TextFiles split = TextFiles.split(TextFiles.read(data), validationShare, 0);
        TrainingRun.prepare(out);
        OptionalLong checkpoint = TrainingRun.checkpoint(out, resume);
        try (Device device = options.open();
                CausalLm model = model(device, split)) {
            Tokenizer tokenizer =
                    model.tokenizer()
                            .orElseThrow(() ->
                                    new IllegalArgumentException(
                                            "%s: has no tokenizer.json beside its weights"
                                                    .formatted(model.name())));
            int time = Math.min(sizes.context, model.context());
            var train = TokenDataset.of(texts(split.train()), tokenizer);
            var held = TokenDataset.of(texts(split.validation()), tokenizer);
            var batches =
                    new Batches(train, recipe.batchSize, recipe.accumulation, time, recipe.seed);
            var evaluation = new Evaluation(held, tokenizer, EVALUATION_ROWS, time);
            console.printf(
                    "Data       %s: %,d tokens to learn from, %,d of other text to be measured on%n"
                            + "Device     %s%n"
                            + "Model      %s of %.1f M parameters, context %d tokens%n%n",
                    data,
                    train.size(),
                    held.size(),
                    options.line(device),
                    checkpoint.isPresent()
                            ? "checkpoint after step %d".formatted(checkpoint.getAsLong())
                            : sizes.initFrom == null ? "new GPT-2" : sizes.initFrom,
                    TrainingRun.parameters(model) / 1e6,
                    time);
            console.flush();
            TrainResult result =
                    new TrainingRun(args, model, spec.commandLine())
                            .run(checkpoint, batches, evaluation.sample(QUICK_TARGETS, tokenizer));
            if (result.stopped()) {
                return TrainingRun.STOPPED;
            }
            Evaluation.Result measured = evaluation.of(model);
            double gzip = Report.gzipBitsPerByte(texts(split.validation()));
            Report.write(
                    out,
                    new Report(
                            "Training of " + out.toAbsolutePath().normalize().getFileName(),
                            MetricsFile.read(out),
                            TrainingRun.settings(args, device),
                            Info.machine(),
                            Map.of(),
                            gzip,
                            measured));
            console.printf(
                    "%nTrained    %s%n"
                            + "Measured   %.3f bits per byte on text that it never saw (gzip -9 needs %.3f)%n"
                            + "Written    %s: config.json, model.safetensors, tokenizer.json, metrics.jsonl, report.html%n"
                            + "Try        ./gatun generate --model %s --prompt TEXT%n",
                    TrainingRun.summary(result),
                    measured.bitsPerByte(),
                    gzip,
                    out,
                    TrainingRun.quoted(out.toString()));
            console.flush();
            options.printProfile(device, console);
        }
        return 0;
    }

    private CausalLm model(Device device, TextFiles split) {
        if (resume) {
            return Models.open(Checkpoints.newest(out).orElseThrow(), device);
        }
        if (sizes.initFrom != null) {
            return Models.open(sizes.initFrom, device);
        }
        Tokenizer tokenizer =
                sizes.tokenizer == null
                        ? BpeTrainer.of(sizes.vocabSize).train(texts(split.train()))
                        : Tokenizer.open(sizes.tokenizer);
        Gpt2Config config =
                Gpt2Config.of(
                                tokenizer.vocabSize(),
                                sizes.context,
                                sizes.layers,
                                sizes.heads,
                                sizes.width)
                        .dropout(sizes.dropout);
        if (tokenizer.endOfText().isPresent()) {
            config = config.endId(tokenizer.endOfText().getAsInt());
        }
        return Gpt2.create(config, device, recipe.seed, tokenizer);
    }

    private void checkSizes() {
        var limits = new Limits(spec.commandLine());
        limits.above("--validation-share", validationShare, 0, 0.2);
        limits.whole("--vocab-size", sizes.vocabSize, 257, 1 << 20);
        limits.whole("--n-layer", sizes.layers, 1, 1_000);
        limits.whole("--n-head", sizes.heads, 1, 1 << 16);
        limits.whole("--n-embd", sizes.width, 1, 1 << 16);
        limits.whole("--context", sizes.context, 1, 1 << 20);
        limits.below("--dropout", sizes.dropout, 0, 1);
        if (sizes.width % sizes.heads != 0) {
            throw new ParameterException(
                    spec.commandLine(),
                    "--n-embd is %d; it must be a multiple of --n-head, which is %d"
                            .formatted(sizes.width, sizes.heads));
        }
    }

    private TrainingArguments arguments() {
        var limits = new Limits(spec.commandLine());
        TrainingArguments args =
                TrainingArguments.of(out)
                        .perDeviceTrainBatchSize(
                                limits.whole("--batch-size", recipe.batchSize, 1, 1 << 16))
                        .gradientAccumulationSteps(
                                limits.whole(
                                        "--gradient-accumulation-steps",
                                        recipe.accumulation,
                                        1,
                                        1 << 16))
                        .learningRate(limits.above("--learning-rate", recipe.learningRate, 0, 100))
                        .lrSchedulerType(recipe.scheduler)
                        .warmupSteps(limits.number("--warmup-steps", recipe.warmupSteps, 0, MANY))
                        .weightDecay(limits.number("--weight-decay", recipe.weightDecay, 0, 100))
                        .adam(
                                limits.below("--adam-beta1", recipe.beta1, 0, 1),
                                limits.below("--adam-beta2", recipe.beta2, 0, 1),
                                1e-8)
                        .maxGradNorm(limits.number("--max-grad-norm", recipe.maxGradNorm, 0, MANY))
                        .numTrainEpochs(limits.above("--epochs", length.epochs, 0, MANY))
                        .evalSteps(limits.number("--eval-steps", evalSteps, 0, MANY))
                        .saveSteps(limits.number("--save-steps", saveSteps, 0, MANY))
                        .saveTotalLimit(
                                limits.whole("--save-total-limit", saveTotalLimit, 1, 1_000_000))
                        .seed(recipe.seed)
                        .bf16(recipe.bf16);
        if (length.steps != null) {
            return args.maxSteps(limits.whole("--steps", length.steps, 1, MANY));
        }
        if (length.minutes != null) {
            if (recipe.warmupSteps > 0 && recipe.warmupSteps < 1) {
                throw new ParameterException(
                        spec.commandLine(),
                        "--warmup-steps is %s, a share of a number of steps that --minutes leaves open; give whole steps"
                                .formatted(recipe.warmupSteps));
            }
            return args.maxMinutes(limits.above("--minutes", length.minutes, 0, 100_000));
        }
        return args;
    }

    private static List<String> texts(List<Document> documents) {
        return documents.stream().map(Document::text).toList();
    }
}
