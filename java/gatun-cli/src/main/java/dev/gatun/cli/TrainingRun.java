package dev.gatun.cli;

import dev.gatun.trainer.Evaluation;
import dev.gatun.trainer.MetricsFile;
import dev.gatun.trainer.TrainResult;
import dev.gatun.trainer.Trainer;
import dev.gatun.trainer.TrainingArguments;
import dev.gatun.trainer.TrainingData;
import dev.gatun.trainer.TrainingListener;
import dev.gatun.transformers.CausalLm;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * A training run at a console: progress, metrics.jsonl, and Ctrl-C, which saves a checkpoint and
 * says how to go on.
 *
 * @param afterStop how to go on, said after a stop
 */
record TrainingRun(
        TrainingArguments args, CausalLm model, PrintWriter console, String afterStop) {
    /** How long Ctrl-C waits for the step in progress and its checkpoint. */
    private static final long STOP_SECONDS = 120;

    TrainResult train(TrainingData data, Evaluation validation) throws IOException {
        try (var metrics = MetricsFile.create(args.outputDir())) {
            return run(
                    metrics,
                    (trainer, listener) -> trainer.train(data, validation, listener));
        }
    }

    /** Goes on from the newest checkpoint, which has done {@code step} steps. */
    TrainResult resume(long step, TrainingData data, Evaluation validation) throws IOException {
        try (var metrics = MetricsFile.resume(args.outputDir(), step)) {
            return run(
                    metrics,
                    (trainer, listener) -> trainer.resume(data, validation, listener));
        }
    }

    @FunctionalInterface
    private interface Start {
        TrainResult run(Trainer trainer, TrainingListener listener) throws IOException;
    }

    private TrainResult run(MetricsFile metrics, Start start) throws IOException {
        var progress = new Progress(console, System.console() != null && System.console().isTerminal());
        var trainer = new Trainer(model, args);
        var finished = new CountDownLatch(1);
        var hook =
                new Thread(
                        () -> {
                            trainer.requestStop();
                            try {
                                if (!finished.await(STOP_SECONDS, TimeUnit.SECONDS)) {
                                    System.err.println("gatun: stopped without a checkpoint");
                                }
                            } catch (InterruptedException e) {
                                Thread.currentThread().interrupt();
                            }
                        },
                        "save on Ctrl-C");
        Runtime.getRuntime().addShutdownHook(hook);
        try {
            TrainResult result = start.run(trainer, both(progress, metrics));
            progress.endLine();
            if (result.stopped()) {
                console.printf(
                        "%nstopped after step %d, saved %s; %s%n",
                        result.step(), result.checkpoint().orElseThrow(), afterStop);
                console.flush();
            }
            return result;
        } finally {
            finished.countDown();
            try {
                Runtime.getRuntime().removeShutdownHook(hook);
            } catch (IllegalStateException _) {
                // the JVM is going down: the hook is what brought us here
            }
        }
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
