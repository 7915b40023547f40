package dev.gatun.trainer;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Rng;
import dev.gatun.kernels.Tape;
import dev.gatun.kernels.Tensor;
import dev.gatun.transformers.CausalLm;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/**
 * Trains a causal language model. The loop stands in {@link #loop} from its first line to its last;
 * the order of its operations is that of the Hugging Face Trainer: forward and backward of each
 * micro-batch, clip, optimizer step, log, evaluate, save.
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

    /** Makes the run save a checkpoint after its current step and return. From any thread. */
    public void requestStop() {
        stopRequested = true;
    }

    /**
     * Trains from the model's present weights.
     *
     * @param validation null: none
     * @throws TrainingDiverged if the loss or a gradient is not finite
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
                Optimizer optimizer = new Optimizer(ops, model.parameters(), args)) {
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
            return loop(run, ops, optimizer, data, validation, listener);
        }
    }

    /** What changes during a run. */
    private static final class Run {
        private final long begin = System.nanoTime();
        private long step;
        private long maxSteps;
        private double secondsBefore; // of the processes that this one resumes
        private double loss = Double.NaN;
        private long tokens;
        private double trainSeconds;
        private double stepSeconds; // a moving mean
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

        void timed(double seconds, long newTokens) {
            stepSeconds =
                    stepSeconds == 0 ? seconds : stepSeconds + NEWEST * (seconds - stepSeconds);
            trainSeconds += seconds;
            tokens += newTokens;
        }
    }

    private TrainResult loop(
            Run run,
            Ops ops,
            Optimizer optimizer,
            TrainingData data,
            @Nullable Evaluation validation,
            TrainingListener listener)
            throws IOException {
        while (run.maxSteps < 0 || run.step < run.maxSteps) {
            long stepBegin = System.nanoTime();
            List<Batch> window = data.window(run.step);
            long targets = window.stream().mapToLong(Batch::targets).sum();
            double rate = args.learningRate() * schedule(run).factor(run.step);

            double loss = 0;
            double norm;
            try (Ops scope = ops.scope()) {
                Tensor factor = scope.upload(new float[] {1f / Math.max(1, targets)}, 1);
                var losses = new ArrayList<Tensor>();
                for (int i = 0; i < window.size(); i++) {
                    Batch batch = window.get(i);
                    try (Tape tape = ops.device().tape(new Rng(args.seed(), optimizer.step(), i))) {
                        Tensor loss_1 = loss(tape, batch, factor);
                        tape.backward(loss_1);
                        losses.add(tape.keep(loss_1));
                    }
                }
                var clipped = optimizer.clip(scope, args.maxGradNorm());
                optimizer.step(scope, rate, clipped.factor());
                for (Tensor loss_1 : losses) {
                    loss += loss_1.item();
                    loss_1.close();
                }
                norm = clipped.norm().item();
            }
            run.step++;
            if (!Double.isFinite(loss) || !Double.isFinite(norm)) {
                throw new TrainingDiverged(divergence(run, loss, norm, rate));
            }

            run.loss = loss;
            run.timed(
                    seconds(stepBegin),
                    window.stream().mapToLong(batch -> batch.ids().length).sum());
            double doneBefore = done(run, run.step - 1, stepBegin);
            planByTheClock(run);
            listener.stepped(
                    new TrainingListener.Step(
                            run.step,
                            run.maxSteps,
                            loss,
                            norm,
                            rate,
                            epoch(run, data),
                            run.tokensPerSecond(),
                            run.elapsed()));
            boolean last = run.step == run.maxSteps;
            if (validation != null && (last || due(args.evalSteps(), run, doneBefore))) {
                long evaluationBegin = System.nanoTime();
                run.evaluation = Optional.of(validation.of(model));
                run.evaluations++;
                run.evaluationSeconds += seconds(evaluationBegin);
                listener.evaluated(run.step, run.evaluation.get());
            }
            if (last || stopRequested || due(args.saveSteps(), run, doneBefore)) {
                save(run, optimizer, data, listener);
            }
            if (stopRequested && !last) {
                return result(run, true);
            }
        }
        model.save(args.outputDir());
        return result(run, false);
    }

    private Tensor loss(Tape tape, Batch batch, Tensor factor) {
        Tensor ids_BT = tape.ids(batch.ids(), model.vocabulary(), batch.rows(), batch.time());
        Tensor targets_BT =
                tape.labels(
                        batch.labels(),
                        model.vocabulary(),
                        Batch.IGNORED,
                        batch.rows(),
                        batch.time());
        return model.loss(tape, ids_BT, targets_BT, factor);
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
    private void planByTheClock(Run run) {
        if (!byTheClock() || run.maxSteps < 0 && run.step < MEASURED_STEPS) {
            return;
        }
        double left = args.maxMinutes() * 60 - run.elapsed();
        if (run.evaluations > 0 && args.evalSteps() > 0 && args.evalSteps() < 1) {
            double each = run.evaluationSeconds / run.evaluations;
            left -= each * Math.max(0, 1 / args.evalSteps() - run.evaluations);
        }
        run.maxSteps = run.step + Math.max(0, Math.round(left / run.stepSeconds));
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
                        epoch(run, data),
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

    private String divergence(Run run, double loss, double norm, double rate) {
        return ("training diverged at step %d: loss %s, gradient norm %s, learning rate %.3g; "
                        + "%s. Try a lower learning rate, a longer warm-up, or look for damaged data")
                .formatted(
                        run.step,
                        loss,
                        norm,
                        rate,
                        run.checkpoint
                                .map(c -> "the last good checkpoint is " + c)
                                .orElse("no checkpoint had been written"));
    }

    private static double epoch(Run run, TrainingData data) {
        return (double) run.step / data.stepsPerEpoch();
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
