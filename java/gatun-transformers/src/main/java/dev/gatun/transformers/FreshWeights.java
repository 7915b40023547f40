package dev.gatun.transformers;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Rng;
import dev.gatun.kernels.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.function.ToDoubleFunction;

/**
 * The initial weights of a new model: matrices N(0, std²), biases 0, gains 1 (a vector that is not
 * a bias is a gain). Weights that were taken and not handed over are closed with it.
 */
final class FreshWeights implements WeightSource, AutoCloseable {
    private final Device device;
    private final Ops ops;
    private final ToDoubleFunction<String> std;
    private final List<Tensor> taken = new ArrayList<>();

    /**
     * @param std of the matrix of a name
     */
    FreshWeights(Device device, long seed, ToDoubleFunction<String> std) {
        this.device = device;
        this.ops = device.ops(Rng.of(seed));
        this.std = std;
    }

    @Override
    public Tensor take(String name, long... shape) {
        Tensor weight = Tensor.empty(device, DType.F32, Purpose.WEIGHTS, shape);
        taken.add(weight);
        if (shape.length > 1) {
            ops.normal(weight, 0, std.applyAsDouble(name));
        } else {
            ops.fill(weight, name.endsWith(".bias") ? 0 : 1);
        }
        return weight;
    }

    /** Leaves the weights to the model that has taken them. */
    <M extends Model> M handOver(M model) {
        taken.clear();
        return model;
    }

    @Override
    public void close() {
        ops.close();
        taken.forEach(Tensor::close);
    }
}
