package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.util.List;

/**
 * Undoes the loss scale that kept the 16-bit gradients of a backward pass from vanishing, as
 * torch.amp's gradient scaler does: every tensor *= 1 / scale, in place, and whether any element
 * was infinite or NaN, which is where the scale was too large and the step is to be left out.
 *
 * <p>Any shapes, float dtypes. Elements are multiplied whatever is found.
 */
public final class Unscale {
    private Unscale() {}

    /**
     * Multiplies in place.
     *
     * @param inverseScale f32 scalar on the device
     * @return f32 scalar: 1 where an element was infinite or NaN, else 0
     */
    public static Tensor run(Ops ops, List<Tensor> tensors, Tensor inverseScale) {
        Tensor foundInf = ops.make(DType.F32);
        Native.check(
                GatunH.gatun_unscale(
                        ops.handle(),
                        foundInf.raw(),
                        ops.stream.pointers(tensors),
                        tensors.size(),
                        inverseScale.pointer()),
                "unscale");
        return foundInf;
    }
}
