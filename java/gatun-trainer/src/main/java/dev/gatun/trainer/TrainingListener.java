package dev.gatun.trainer;

import java.nio.file.Path;

/**
 * Hears what a training run does, in order, on the thread that trains. The device may be at the
 * next step by then, unless an evaluation or a checkpoint follows: weights that {@link #stepped}
 * reads can be of one step more.
 */
public interface TrainingListener {
    /**
     * One optimizer step.
     *
     * @param step the steps done, this one included
     * @param maxSteps the steps of the whole run (an estimate with {@code maxMinutes}), or -1
     * @param loss nats per target of this step
     * @param gradNorm L2 norm of all gradients before clipping
     * @param learningRate the rate that this step used
     * @param epoch how often the data has been seen, with a fraction
     * @param tokensPerSecond since the run began, evaluations and checkpoints left out
     * @param elapsedSeconds since the first step of this process
     */
    record Step(
            long step,
            long maxSteps,
            double loss,
            double gradNorm,
            double learningRate,
            double epoch,
            double tokensPerSecond,
            double elapsedSeconds) {}

    default void stepped(Step step) {}

    default void evaluated(long step, Evaluation.Result result) {}

    default void saved(long step, Path checkpoint) {}
}
