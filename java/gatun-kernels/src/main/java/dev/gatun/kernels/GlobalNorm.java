package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.util.List;

/**
 * The norm of many tensors together, and the factor that clips it: norm = √(Σ of all squares),
 * factor = min(1, maxNorm / (norm + 1e-6)). Both stay on the device, so that nothing waits. A norm
 * that is not finite gives a factor of NaN: a broken step cannot pass unnoticed.
 */
public final class GlobalNorm {
    private GlobalNorm() {}

    /**
     * What clipping needs.
     *
     * @param norm f32 scalar
     * @param factor f32 scalar, 1 where nothing is clipped
     */
    public record Norm(Tensor norm, Tensor factor) {}

    /**
     * The norm over tensors of float dtypes.
     *
     * @param maxNorm what to clip to; 0 or less: the factor is 1
     */
    public static Norm of(Ops ops, List<Tensor> tensors, double maxNorm) {
        Norm result = new Norm(ops.make(DType.F32), ops.make(DType.F32));
        Native.check(
                GatunH.gatun_global_norm(
                        ops.handle(),
                        result.norm.raw(),
                        result.factor.raw(),
                        ops.stream.pointers(tensors),
                        tensors.size(),
                        maxNorm),
                "global_norm");
        return result;
    }
}
