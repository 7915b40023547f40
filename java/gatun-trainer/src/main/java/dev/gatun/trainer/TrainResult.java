package dev.gatun.trainer;

import java.nio.file.Path;
import java.util.Optional;

/**
 * How a run ended.
 *
 * @param step optimizer steps done, over all resumed runs
 * @param maxSteps the steps of the whole run
 * @param stopped whether {@link Trainer#requestStop} ended it early
 * @param loss nats per target of the last step
 * @param evaluation the last measurement on validation data, if there is some
 * @param tokensPerSecond of training, evaluations and checkpoints left out
 * @param seconds from the first step to the end
 * @param checkpoint the newest checkpoint, if one was written
 */
public record TrainResult(
        long step,
        long maxSteps,
        boolean stopped,
        double loss,
        Optional<Evaluation.Result> evaluation,
        double tokensPerSecond,
        double seconds,
        Optional<Path> checkpoint) {}
