package dev.gatun.transformers;

import dev.gatun.kernels.Tensor;

/** Where a model's weights come from, by name: a {@link Checkpoint}, or {@link FreshWeights}. */
@FunctionalInterface
interface WeightSource {
    /** The weight of that name and shape, owned by the caller. */
    Tensor take(String name, long... shape);
}
