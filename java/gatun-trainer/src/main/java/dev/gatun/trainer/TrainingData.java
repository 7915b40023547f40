package dev.gatun.trainer;

import java.util.List;

/**
 * What to learn from, as a function of the step: asking twice gives the same batches, so that a
 * resumed run needs no more than its step number to go on exactly where it was.
 */
public interface TrainingData {
    /**
     * The micro-batches of optimizer step {@code step}, counted from 0: their gradients are added
     * up, and their loss is one mean over all their targets.
     */
    List<Batch> window(long step);

    /** Optimizer steps that see all data once; at least 1. */
    long stepsPerEpoch();
}
