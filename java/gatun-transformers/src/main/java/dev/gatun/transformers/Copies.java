package dev.gatun.transformers;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Parameter;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import java.util.ArrayList;
import java.util.List;

/**
 * 16-bit copies of a model's f32 weights, for its forward pass to read: of the matrices only, since
 * biases and norms are small and every op takes them as f32 beside 16-bit activations.
 */
final class Copies {
    private Copies() {}

    /**
     * The model's parameters, with copies of the matrices' present values.
     *
     * @param dtype F32: without copies
     * @throws IllegalStateException if the weights are not f32
     */
    static List<Parameter> of(Model model, DType dtype) {
        var parameters = new ArrayList<Parameter>();
        try (Ops ops = model.device().ops()) {
            for (Parameter p : model.parameters()) {
                Tensor weight = p.weight();
                if (weight.dtype() != DType.F32) {
                    throw new IllegalStateException(
                            "%s: %s is %s: open the model as f32 to train it or to copy it to %s"
                                    .formatted(model.name(), p.name(), weight, dtype));
                }
                Tensor copy =
                        dtype == DType.F32 || weight.rank() < 2
                                ? null
                                : Tensor.empty(
                                        weight.device(), dtype, Purpose.WEIGHTS, weight.shape());
                parameters.add(new Parameter(p.name(), weight, copy, p.decayed(), p.trained()));
                parameters.getLast().refresh(ops);
            }
            ops.await(); // for those who read them on another stream
        } catch (RuntimeException e) {
            close(parameters);
            throw e;
        }
        return parameters;
    }

    /** Frees the copies, not the weights. */
    static void close(List<Parameter> parameters) {
        for (Parameter p : parameters) {
            Tensor copy = p.copy();
            if (copy != null) {
                copy.close();
            }
        }
    }
}
