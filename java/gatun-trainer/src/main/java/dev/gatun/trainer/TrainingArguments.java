package dev.gatun.trainer;

import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Consumer;

/**
 * How to train: immutable, with the names and defaults of the Hugging Face {@code
 * TrainingArguments}. Each setter returns a changed copy.
 *
 * <p>Differences, each on purpose: {@code maxMinutes} bounds a run by time; {@code minLrRate} makes
 * {@link Scheduler#COSINE_WITH_MIN_LR} end at a fraction of the peak.
 */
public final class TrainingArguments implements Cloneable {
    /** The schedules by name (features of {@link Schedule}). */
    public enum Scheduler {
        LINEAR,
        COSINE,
        COSINE_WITH_MIN_LR,
        CONSTANT,
        CONSTANT_WITH_WARMUP,
        INVERSE_SQRT
    }

    private Path outputDir;
    private int perDeviceTrainBatchSize = 8;
    private int perDeviceEvalBatchSize = 8;
    private int gradientAccumulationSteps = 1;
    private double numTrainEpochs = 3;
    private long maxSteps = -1;
    private double maxMinutes = 0;
    private double learningRate = 5e-5;
    private double weightDecay = 0;
    private double adamBeta1 = 0.9;
    private double adamBeta2 = 0.999;
    private double adamEpsilon = 1e-8;
    private double maxGradNorm = 1;
    private Scheduler lrSchedulerType = Scheduler.LINEAR;
    private double warmupSteps = 0;
    private double minLrRate = 0.1;
    private long seed = 42;
    private boolean bf16 = false;
    private double evalSteps = 0;
    private double saveSteps = 500;
    private int saveTotalLimit = 2;

    private TrainingArguments(Path outputDir) {
        this.outputDir = outputDir;
    }

    /** The defaults, writing to {@code outputDir}. */
    public static TrainingArguments of(String outputDir) {
        return of(Path.of(outputDir));
    }

    public static TrainingArguments of(Path outputDir) {
        return new TrainingArguments(outputDir);
    }

    public Path outputDir() {
        return outputDir;
    }

    /** Rows of a micro-batch. */
    public int perDeviceTrainBatchSize() {
        return perDeviceTrainBatchSize;
    }

    public TrainingArguments perDeviceTrainBatchSize(int rows) {
        return with(
                a -> a.perDeviceTrainBatchSize = (int) positive("perDeviceTrainBatchSize", rows));
    }

    /** Rows of a batch of an evaluation. */
    public int perDeviceEvalBatchSize() {
        return perDeviceEvalBatchSize;
    }

    public TrainingArguments perDeviceEvalBatchSize(int rows) {
        return with(a -> a.perDeviceEvalBatchSize = (int) positive("perDeviceEvalBatchSize", rows));
    }

    /** Micro-batches of one optimizer step. */
    public int gradientAccumulationSteps() {
        return gradientAccumulationSteps;
    }

    public TrainingArguments gradientAccumulationSteps(int batches) {
        return with(a ->
                a.gradientAccumulationSteps = (int) positive("gradientAccumulationSteps", batches));
    }

    /** How often all data is seen, where neither {@code maxSteps} nor {@code maxMinutes} is set. */
    public double numTrainEpochs() {
        return numTrainEpochs;
    }

    public TrainingArguments numTrainEpochs(double epochs) {
        return with(a -> a.numTrainEpochs = positive("numTrainEpochs", epochs));
    }

    /** Optimizer steps; -1: as the epochs or minutes give. */
    public long maxSteps() {
        return maxSteps;
    }

    public TrainingArguments maxSteps(long steps) {
        return with(a -> a.maxSteps = steps < 0 ? -1 : steps);
    }

    /**
     * Minutes from the first step, evaluations included; 0: no bound. The schedule then follows the
     * clock, so two such runs do not give the same bits; runs of {@code maxSteps} do.
     */
    public double maxMinutes() {
        return maxMinutes;
    }

    public TrainingArguments maxMinutes(double minutes) {
        return with(a -> a.maxMinutes = atLeastZero("maxMinutes", minutes));
    }

    /** The peak rate. */
    public double learningRate() {
        return learningRate;
    }

    public TrainingArguments learningRate(double rate) {
        return with(a -> a.learningRate = atLeastZero("learningRate", rate));
    }

    /** Decoupled weight decay of matrices and embeddings; biases and norms have none. */
    public double weightDecay() {
        return weightDecay;
    }

    public TrainingArguments weightDecay(double decay) {
        return with(a -> a.weightDecay = atLeastZero("weightDecay", decay));
    }

    public double adamBeta1() {
        return adamBeta1;
    }

    public double adamBeta2() {
        return adamBeta2;
    }

    public double adamEpsilon() {
        return adamEpsilon;
    }

    public TrainingArguments adam(double beta1, double beta2, double epsilon) {
        return with(a -> {
            a.adamBeta1 = fraction("adamBeta1", beta1);
            a.adamBeta2 = fraction("adamBeta2", beta2);
            a.adamEpsilon = positive("adamEpsilon", epsilon);
        });
    }

    /** The L2 norm that all gradients together are clipped to; 0: not at all. */
    public double maxGradNorm() {
        return maxGradNorm;
    }

    public TrainingArguments maxGradNorm(double norm) {
        return with(a -> a.maxGradNorm = atLeastZero("maxGradNorm", norm));
    }

    public Scheduler lrSchedulerType() {
        return lrSchedulerType;
    }

    public TrainingArguments lrSchedulerType(Scheduler type) {
        return with(a -> a.lrSchedulerType = type);
    }

    /** Steps of warm-up, or their fraction of all steps if below 1. */
    public double warmupSteps() {
        return warmupSteps;
    }

    public TrainingArguments warmupSteps(double steps) {
        return with(a -> a.warmupSteps = atLeastZero("warmupSteps", steps));
    }

    /** What {@link Scheduler#COSINE_WITH_MIN_LR} ends at, as a fraction of the peak. */
    public double minLrRate() {
        return minLrRate;
    }

    public TrainingArguments minLrRate(double fraction) {
        return with(a -> a.minLrRate = fraction("minLrRate", fraction));
    }

    /** Seed of the data's order and of dropout. */
    public long seed() {
        return seed;
    }

    public TrainingArguments seed(long value) {
        return with(a -> a.seed = value);
    }

    /**
     * Whether matrices and activations are bf16 in forward and backward passes, and in evaluations
     * in between; weights, their gradients, the optimizer's moments, norms, softmax and losses stay
     * f32.
     */
    public boolean bf16() {
        return bf16;
    }

    public TrainingArguments bf16(boolean on) {
        return with(a -> a.bf16 = on);
    }

    /** Steps between evaluations, or their fraction of all steps if below 1; 0: only at the end. */
    public double evalSteps() {
        return evalSteps;
    }

    public TrainingArguments evalSteps(double steps) {
        return with(a -> a.evalSteps = atLeastZero("evalSteps", steps));
    }

    /** Steps between checkpoints, or their fraction of all steps if below 1; 0: only at the end. */
    public double saveSteps() {
        return saveSteps;
    }

    public TrainingArguments saveSteps(double steps) {
        return with(a -> a.saveSteps = atLeastZero("saveSteps", steps));
    }

    /** How many checkpoints are kept, the newest ones; at least 1. */
    public int saveTotalLimit() {
        return saveTotalLimit;
    }

    public TrainingArguments saveTotalLimit(int checkpoints) {
        return with(a -> a.saveTotalLimit = (int) positive("saveTotalLimit", checkpoints));
    }

    /**
     * All settings that change what is computed, by name: what a checkpoint stores and compares.
     */
    public Map<String, Object> toMap() {
        var map = new LinkedHashMap<String, Object>();
        map.put("per_device_train_batch_size", perDeviceTrainBatchSize);
        map.put("gradient_accumulation_steps", gradientAccumulationSteps);
        map.put("num_train_epochs", numTrainEpochs);
        map.put("max_steps", maxSteps);
        map.put("max_minutes", maxMinutes);
        map.put("learning_rate", learningRate);
        map.put("weight_decay", weightDecay);
        map.put("adam_beta1", adamBeta1);
        map.put("adam_beta2", adamBeta2);
        map.put("adam_epsilon", adamEpsilon);
        map.put("max_grad_norm", maxGradNorm);
        map.put("lr_scheduler_type", lrSchedulerType.name().toLowerCase(java.util.Locale.ROOT));
        map.put("warmup_steps", warmupSteps);
        map.put("min_lr_rate", minLrRate);
        map.put("seed", seed);
        map.put("bf16", bf16);
        return map;
    }

    /** A setting that below 1 means a fraction of all steps, in steps. */
    static long steps(double setting, long total) {
        return setting >= 1 ? (long) setting : (long) Math.ceil(total * setting);
    }

    /** The schedule of a run of {@code total} steps. */
    Schedule schedule(long total) {
        long warmup = steps(warmupSteps, total);
        return switch (lrSchedulerType) {
            case LINEAR -> Schedule.linear(warmup, total);
            case COSINE -> Schedule.cosine(warmup, total);
            case COSINE_WITH_MIN_LR -> Schedule.cosineWithMinimum(warmup, total, minLrRate);
            case CONSTANT -> Schedule.constant();
            case CONSTANT_WITH_WARMUP -> Schedule.constantWithWarmup(warmup);
            case INVERSE_SQRT -> Schedule.inverseSqrt(warmup, 0);
        };
    }

    private TrainingArguments with(Consumer<TrainingArguments> change) {
        try {
            var copy = (TrainingArguments) clone();
            change.accept(copy);
            return copy;
        } catch (CloneNotSupportedException e) {
            throw new AssertionError(e);
        }
    }

    private static double positive(String name, double value) {
        if (!(value > 0)) {
            throw new IllegalArgumentException("%s is %s, wanted above 0".formatted(name, value));
        }
        return value;
    }

    private static double atLeastZero(String name, double value) {
        if (!(value >= 0) || Double.isInfinite(value)) {
            throw new IllegalArgumentException("%s is %s, wanted 0 or more".formatted(name, value));
        }
        return value;
    }

    private static double fraction(String name, double value) {
        if (!(value >= 0 && value < 1)) {
            throw new IllegalArgumentException(
                    "%s is %s, wanted at least 0 and below 1".formatted(name, value));
        }
        return value;
    }
}
