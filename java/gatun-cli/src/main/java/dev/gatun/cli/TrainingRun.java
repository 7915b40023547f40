package dev.gatun.cli;

import dev.gatun.kernels.Device;
import dev.gatun.trainer.Checkpoints;
import dev.gatun.trainer.Evaluation;
import dev.gatun.trainer.MetricsFile;
import dev.gatun.trainer.TrainResult;
import dev.gatun.trainer.Trainer;
import dev.gatun.trainer.TrainingArguments;
import dev.gatun.trainer.TrainingData;
import dev.gatun.trainer.TrainingListener;
import dev.gatun.transformers.CausalLm;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.OptionalLong;
import java.util.stream.Collectors;
import picocli.CommandLine;

/**
 * A training run at a console: progress, metrics.jsonl, and Ctrl-C, which saves a checkpoint and
 * says how to go on.
 */
record TrainingRun(TrainingArguments args, CausalLm model, CommandLine line) {
    /** What the JVM's exit code is after Ctrl-C, and so what a stopped run returns. */
    static final int STOPPED = 130;

    /**
     * Trains, from the newest checkpoint of {@code checkpointStep} steps or, where that is empty,
     * from the model as it is.
     */
    @SuppressWarnings("try") // the interrupt is there to be closed
    TrainResult run(OptionalLong checkpointStep, TrainingData data, Evaluation validation)
            throws IOException {
        var console = line.getOut();
        var trainer = new Trainer(model, args);
        TrainResult result;
        try (var metrics =
                        checkpointStep.isPresent()
                                ? MetricsFile.resume(args.outputDir(), checkpointStep.getAsLong())
                                : MetricsFile.create(args.outputDir());
                var progress = Progress.of(console);
                var interrupt = new Interrupt(trainer)) {
            TrainingListener both = both(progress, metrics);
            result =
                    checkpointStep.isPresent()
                            ? trainer.resume(data, validation, both)
                            : trainer.train(data, validation, both);
        }
        if (result.stopped()) {
            Path checkpoint = result.checkpoint().orElseThrow();
            console.printf(
                    "%nStopped after step %d and saved %s.%n"
                            + "To go on:        %s%n"
                            + "To let it write: ./gatun generate --model %s --prompt TEXT%n",
                    result.step(), checkpoint, resumeCommand(), quoted(checkpoint.toString()));
            console.flush();
        }
        return result;
    }

    /** The command that was given, with --resume. */
    private String resumeCommand() {
        CommandLine root = line.getCommandSpec().root().commandLine();
        var given = new ArrayList<>(root.getParseResult().originalArgs());
        if (!given.contains("--resume")) {
            given.add("--resume");
        }
        return "./gatun "
                + given.stream().map(TrainingRun::quoted).collect(Collectors.joining(" "));
    }

    /** As a shell reads it back. */
    static String quoted(String argument) {
        return argument.matches("[\\w./=,:+-]+")
                ? argument
                : "'" + argument.replace("'", "'\\''") + "'";
    }

    /**
     * Makes the output folder, and finds out before hours are spent that it cannot be written.
     *
     * @throws IllegalArgumentException if it cannot; the message names it and says why
     */
    static void prepare(Path out) {
        try {
            Files.createDirectories(out);
            Files.delete(Files.createTempFile(out, ".gatun", ".tmp"));
        } catch (IOException e) {
            String why = Main.sentence(e);
            String own = out + ": ";
            throw new IllegalArgumentException(
                    "--out %s: cannot be written: %s"
                            .formatted(
                                    out, why.startsWith(own) ? why.substring(own.length()) : why),
                    e);
        }
    }

    /**
     * The steps of the newest checkpoint, if the run goes on from it.
     *
     * @throws IllegalArgumentException if there is none to go on from, or one that a new run would
     *     mix with its own
     */
    static OptionalLong checkpoint(Path out, boolean resume) {
        OptionalLong newest = Checkpoints.newestStep(out);
        if (resume && newest.isEmpty()) {
            throw new IllegalArgumentException("%s: no checkpoint to resume from".formatted(out));
        }
        if (!resume && newest.isPresent()) {
            throw new IllegalArgumentException(
                    "%s: holds checkpoints of an earlier run: go on with it by --resume, or name another --out"
                            .formatted(out));
        }
        return newest;
    }

    /** Removes a checkpoint. */
    static void delete(Path checkpoint) throws IOException {
        try (var files = Files.walk(checkpoint)) {
            for (Path path : files.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(path);
            }
        }
    }

    static long parameters(CausalLm model) {
        return model.parameters().stream().mapToLong(p -> p.weight().elements()).sum();
    }

    /** What was done, and how fast. */
    static String summary(TrainResult result) {
        return "%,d %s in %s, %,.0f tokens/s"
                .formatted(
                        result.step(),
                        result.step() == 1 ? "step" : "steps",
                        Progress.time(result.seconds()),
                        result.tokensPerSecond());
    }

    /** How it is trained and by what, for the report; without the bounds that do not bound. */
    static Map<String, String> settings(TrainingArguments args, Device device) {
        var settings = new LinkedHashMap<String, String>();
        args.toMap().forEach((name, value) -> settings.put(name, String.valueOf(value)));
        if (args.maxSteps() < 0) {
            settings.remove("max_steps");
        }
        if (args.maxMinutes() == 0) {
            settings.remove("max_minutes");
        }
        if (args.maxSteps() >= 0 || args.maxMinutes() > 0) {
            settings.remove("num_train_epochs");
        }
        settings.put("device", device.name() + ": " + device.description());
        settings.put("gatun", Info.Version.of());
        return settings;
    }

    private static TrainingListener both(TrainingListener first, TrainingListener second) {
        return new TrainingListener() {
            @Override
            public void stepped(Step step) {
                first.stepped(step);
                second.stepped(step);
            }

            @Override
            public void evaluated(long step, Evaluation.Result result) {
                first.evaluated(step, result);
                second.evaluated(step, result);
            }

            @Override
            public void saved(long step, Path checkpoint) {
                first.saved(step, checkpoint);
                second.saved(step, checkpoint);
            }
        };
    }
}
