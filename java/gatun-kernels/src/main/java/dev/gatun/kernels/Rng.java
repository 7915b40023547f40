package dev.gatun.kernels;

import org.jspecify.annotations.Nullable;

/**
 * Where random numbers come from: Philox4x32-10 (Salmon et al., SC11) with {@code seed} as key and
 * (step, micro-batch, site, element) as counter. Sites are numbered by the {@link Ops} in forward
 * order, so that every device, a resumed run and a recomputed layer draw the same numbers.
 *
 * @param seed the key
 * @param step i64 scalar on the device, so that a captured step may be replayed; null means 0
 * @param microBatch which part of the accumulation window this is; from 0
 */
public record Rng(long seed, @Nullable Tensor step, int microBatch) {

    /** Numbers of this seed at step 0. */
    public static Rng of(long seed) {
        return new Rng(seed, null, 0);
    }
}
