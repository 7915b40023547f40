/**
 * Training, with everything in sight: {@link dev.gatun.trainer.Trainer} is one visible loop over
 * {@link dev.gatun.trainer.TrainingData}, {@link dev.gatun.trainer.Optimizer} and {@link
 * dev.gatun.trainer.Schedule}, each of which can be used without it.
 */
@NullMarked
package dev.gatun.trainer;

import org.jspecify.annotations.NullMarked;
