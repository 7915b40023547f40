package dev.gatun.trainer;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.transformers.CausalLm;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/**
 * Trains a causal language model. The loop stands in {@link #loop} from its first line to its last;
 * the order of its operations is that of the Hugging Face Trainer: forward and backward of each
 * micro-batch, clip, optimizer step, log, evaluate, save.
 *
 * <p>The figures of a step are read while the device works on the next one, so that it never waits
 * for the host: what a listener hears is one step late, unless an evaluation, a checkpoint or the
 * end comes first, for which the host waits. A step whose figures are not finite ends the run; by
 * then it and the one after it have changed the weights, which are of no more use: the newest
 * checkpoint is.
 *
 * <p>The loss of a step is one mean over all targets of its accumulation window, however the window
 * is cut into micro-batches. Same device, library, thread count, data and arguments give the same
 * bits, with or without interruptions in between; only {@code maxMinutes} follows the clock.
 *
 * <p>With {@code bf16} the model is left computing in bf16, as it was trained and measured; {@link
 * CausalLm#computeIn} changes that. Checkpoints hold the f32 weights.
 */
public final class Trainer {
    /** With {@code maxMinutes}: steps until the speed is known well enough to plan by. */
    private static final int MEASURED_STEPS = 10;

    /** With {@code maxMinutes}: how much the newest step counts in the mean duration of a step. */
    private static final double NEWEST = 0.05;

    private final CausalLm model;
    private final TrainingArguments args;
    private volatile boolean stopRequested;

    public Trainer(CausalLm model, TrainingArguments args) {
        this.model = model;
        this.args = args;
    }

    /** Makes the run save a checkpoint after the step that it is at and return. From any thread. */
    public void requestStop() {
        stopRequested = true;
    }

    /**
     * Trains from the model's present weights.
     *
     * @param validation null: none
     * @throws TrainingDiverged if the loss or a gradient of a step is not finite
     * @throws IOException if a checkpoint cannot be written
     */
    public TrainResult train(
            TrainingData data, @Nullable Evaluation validation, TrainingListener listener)
            throws IOException {
        return start(null, data, validation, listener);
    }

    /**
     * Goes on from the newest whole checkpoint in the output folder, exactly as if the run had not
     * been interrupted.
     *
     * @throws IllegalArgumentException if there is no checkpoint, or its arguments differ
     */
    public TrainResult resume(
            TrainingData data, @Nullable Evaluation validation, TrainingListener listener)
            throws IOException {
        Path checkpoint =
                TrainState.newest(args.outputDir())
                        .orElseThrow(() ->
                                new IllegalArgumentException(
                                        "%s: no checkpoint to resume from"
                                                .formatted(args.outputDir())));
        return start(checkpoint, data, validation, listener);
    }

    private TrainResult start(
            @Nullable Path checkpoint,
            TrainingData data,
            @Nullable Evaluation validation,
            TrainingListener listener)
            throws IOException {
        Files.createDirectories(args.outputDir());
        model.computeIn(args.bf16() ? DType.BF16 : DType.F32);
        Device device = model.device();
        try (Ops ops = device.ops();
                Optimizer optimizer = new Optimizer(ops, model.parameters(), args);
                TrainingStep training = new TrainingStep(model, ops, optimizer, args)) {
            var run = new Run(maxSteps(data));
            if (checkpoint != null) {
                TrainState state = TrainState.read(checkpoint);
                refuseOtherArguments(checkpoint, state);
                state.restore(checkpoint, model, optimizer);
                run.step = state.step();
                run.maxSteps = state.maxSteps();
                run.secondsBefore = state.elapsedSeconds();
                run.checkpoint = Optional.of(checkpoint);
            }
            return loop(run, training, optimizer, data, validation, listener);
        }
    }

    /** What changes during a run. */
    private static final class Run {
        private final long begin = System.nanoTime();
        private long step; // the newest that was enqueued
        private long maxSteps;
        private double secondsBefore; // of the processes that this one resumes
        private double loss = Double.NaN;
        private long tokens;
        private double trainSeconds;
        private double stepSeconds; // a moving mean
        private long figuresAt = begin; // when those of a step last came
        private double evaluationSeconds;
        private int evaluations;
        private Optional<Path> checkpoint = Optional.empty();
        private Optional<Evaluation.Result> evaluation = Optional.empty();

        Run(long maxSteps) {
            this.maxSteps = maxSteps;
        }

        double elapsed() {
            return secondsBefore + seconds(begin);
        }

        double tokensPerSecond() {
            return tokens / Math.max(1e-9, trainSeconds);
        }

        /** The figures of a step have come: the device was at it since those of the one before. */
        void timed(Step step) {
            double seconds = seconds(Math.max(step.begin, figuresAt));
            figuresAt = System.nanoTime();
            stepSeconds =
                    stepSeconds == 0 ? seconds : stepSeconds + NEWEST * (seconds - stepSeconds);
            trainSeconds += seconds;
            tokens += step.tokens;
        }
    }

    /**
     * A step that was enqueued.
     *
     * @param number from 1
     * @param rate its learning rate
     * @param tokens that its window holds
     * @param begin when it was begun, {@link System#nanoTime}
     */
    private record Step(long number, double rate, long tokens, long begin) {}

    private TrainResult loop(
            Run run,
            TrainingStep training,
            Optimizer optimizer,
            TrainingData data,
            @Nullable Evaluation validation,
            TrainingListener listener)
            throws IOException {
        Step before = null; // whose figures are still to be read
        while (run.maxSteps < 0 || run.step < run.maxSteps) {
            long begin = System.nanoTime();
            double doneBefore = done(run, run.step, begin);
            List<Batch> window = data.window(run.step);
            double rate = args.learningRate() * schedule(run).factor(run.step);
            training.enqueue(window, rate);
            long tokens = window.stream().mapToLong(batch -> batch.ids().length).sum();
            var step = new Step(++run.step, rate, tokens, begin);
            if (before != null) {
                finish(run, before, training, data, listener);
            }

            boolean evaluate = validation != null && due(args.evalSteps(), run, doneBefore);
            boolean stop = stopRequested;
            boolean save = stop || due(args.saveSteps(), run, doneBefore);
            if (!evaluate && !save && run.step != run.maxSteps) {
                before = step;
                continue;
            }
            finish(run, step, training, data, listener);
            before = null;
            boolean last = run.step == run.maxSteps;
            if (validation != null && (last || evaluate)) {
                training.release();
                long evaluationBegin = System.nanoTime();
                run.evaluation = Optional.of(validation.of(model));
                run.evaluations++;
                run.evaluationSeconds += seconds(evaluationBegin);
                listener.evaluated(run.step, run.evaluation.get());
            }
            if (last || save) {
                save(run, optimizer, data, listener);
            }
            if (stop && !last) {
                return result(run, true);
            }
        }
        model.save(args.outputDir());
        return result(run, false);
    }

    /** Waits for the figures of a step, checks, counts and reports them. */
    private void finish(
            Run run,
            Step step,
            TrainingStep training,
            TrainingData data,
            TrainingListener listener) {
        TrainingStep.Figures figures = training.await();
        if (!figures.finite()) {
            throw new TrainingDiverged(divergence(run, step, figures));
        }
        run.loss = figures.loss();
        run.timed(step);
        planByTheClock(run, step);
        listener.stepped(
                new TrainingListener.Step(
                        step.number,
                        run.maxSteps,
                        figures.loss(),
                        figures.gradNorm(),
                        step.rate,
                        epoch(step.number, data),
                        run.tokensPerSecond(),
                        run.elapsed()));
    }

    /** While the number of steps is not known yet, the peak rate stands after the warm-up. */
    private Schedule schedule(Run run) {
        return run.maxSteps < 0
                ? Schedule.constantWithWarmup((long) args.warmupSteps())
                : args.schedule(run.maxSteps);
    }

    private boolean byTheClock() {
        return args.maxSteps() < 0 && args.maxMinutes() > 0;
    }

    private long maxSteps(TrainingData data) {
        if (args.maxSteps() >= 0) {
            return args.maxSteps();
        }
        if (args.maxMinutes() == 0) {
            return (long) Math.ceil(args.numTrainEpochs() * data.stepsPerEpoch());
        }
        if (args.warmupSteps() > 0 && args.warmupSteps() < 1) {
            throw new IllegalArgumentException(
                    "warmupSteps is %s of a number of steps that maxMinutes leaves open: give whole steps"
                            .formatted(args.warmupSteps()));
        }
        return -1;
    }

    /**
     * With {@code maxMinutes}: how many steps there will be, as far as the speed up to now tells.
     */
    private void planByTheClock(Run run, Step step) {
        if (!byTheClock() || run.maxSteps < 0 && step.number < MEASURED_STEPS) {
            return;
        }
        double left = args.maxMinutes() * 60 - run.elapsed();
        if (run.evaluations > 0 && args.evalSteps() > 0 && args.evalSteps() < 1) {
            double each = run.evaluationSeconds / run.evaluations;
            left -= each * Math.max(0, 1 / args.evalSteps() - run.evaluations);
        }
        // a step that is under way will be done
        run.maxSteps = Math.max(run.step, step.number + Math.round(left / run.stepSeconds));
    }

    /** The share of the whole run that is done. */
    private double done(Run run, long step, long nanoTime) {
        if (byTheClock()) {
            double elapsed = run.secondsBefore + (nanoTime - run.begin) / 1e9;
            return elapsed / (args.maxMinutes() * 60);
        }
        return (double) step / Math.max(1, run.maxSteps);
    }

    private boolean due(double setting, Run run, double doneBefore) {
        if (setting == 0) {
            return false;
        }
        if (setting < 1 && byTheClock()) {
            double done = done(run, run.step, System.nanoTime());
            return Math.floor(done / setting) > Math.floor(doneBefore / setting);
        }
        return run.step % TrainingArguments.steps(setting, run.maxSteps) == 0;
    }

    private void save(Run run, Optimizer optimizer, TrainingData data, TrainingListener listener)
            throws IOException {
        var state = new TrainState(run.step, run.maxSteps, run.elapsed(), args.toMap());
        Path folder =
                state.save(
                        args.outputDir(),
                        model,
                        optimizer,
                        epoch(run.step, data),
                        args.saveTotalLimit());
        run.checkpoint = Optional.of(folder);
        listener.saved(run.step, folder);
    }

    private void refuseOtherArguments(Path checkpoint, TrainState state) {
        args.toMap()
                .forEach((name, wanted) -> {
                    Object had = state.arguments().get(name);
                    if (!String.valueOf(wanted).equals(String.valueOf(had))) {
                        throw new IllegalArgumentException(
                                "%s was trained with %s %s, now it is %s: the same arguments resume a run"
                                        .formatted(checkpoint, name, had, wanted));
                    }
                });
    }

    private String divergence(Run run, Step step, TrainingStep.Figures figures) {
        return ("training diverged at step %d: loss %s, gradient norm %s, learning rate %.3g; "
                        + "%s. Try a lower learning rate, a longer warm-up, or look for damaged data")
                .formatted(
                        step.number,
                        figures.loss(),
                        figures.gradNorm(),
                        step.rate,
                        run.checkpoint
                                .map(c -> "the last good checkpoint is " + c)
                                .orElse("no checkpoint had been written"));
    }

    private static double epoch(long step, TrainingData data) {
        return (double) step / data.stepsPerEpoch();
    }

    private static double seconds(long sinceNanos) {
        return (System.nanoTime() - sinceNanos) / 1e9;
    }

    private static TrainResult result(Run run, boolean stopped) {
        return new TrainResult(
                run.step,
                run.maxSteps,
                stopped,
                run.loss,
                run.evaluation,
                run.tokensPerSecond(),
                run.elapsed(),
                run.checkpoint);
    }
}
