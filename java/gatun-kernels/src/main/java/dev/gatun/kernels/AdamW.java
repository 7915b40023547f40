package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import dev.gatun.kernels.internal.gatun_adamw_args;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * AdamW (Loshchilov &amp; Hutter 2019, arXiv:1711.05101) in the order of torch.optim.AdamW, all
 * weights in one call: w −= lr · decay · w; m = β₁ m + (1 − β₁) g; v = β₂ v + (1 − β₂) g²; w −= lr
 * · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps), with g = gradient · clip.
 *
 * <p>Weights, m and v are f32; gradients any float dtype; a 16-bit copy of a weight is written in
 * the same pass. Learning rate (f32), step t (i64, 1 for the first) and clip (f32) are scalars on
 * the device.
 */
public final class AdamW {
    private AdamW() {}

    /** β₁, β₂ and eps. */
    public record Options(double beta1, double beta2, double eps) {
        /** 0.9, 0.999, 1e-8. */
        public static final Options DEFAULT = new Options(0.9, 0.999, 1e-8);
    }

    /** One weight and what belongs to it. */
    public record Entry(
            Tensor weight, Tensor gradient, Tensor m, Tensor v, @Nullable Tensor copy) {}

    /** Weights with one decay. */
    public record Group(List<Entry> entries, double decay) {
        public Group {
            entries = List.copyOf(entries);
        }
    }

    /** One step of all groups; a null clip means 1. */
    public static void step(
            Ops ops,
            Options options,
            Tensor learningRate,
            Tensor step,
            @Nullable Tensor clip,
            List<Group> groups) {
        List<Entry> entries = new ArrayList<>();
        List<Double> decays = new ArrayList<>();
        for (Group group : groups) {
            for (Entry entry : group.entries) {
                entries.add(entry);
                decays.add(group.decay);
            }
        }
        int n = entries.size();
        // five arrays of pointers, then the decays
        MemorySegment arrays = ops.stream.scratch(44L * Math.max(1, n));
        boolean copies = false;
        for (int i = 0; i < n; i++) {
            Entry e = entries.get(i);
            arrays.setAtIndex(ValueLayout.ADDRESS, i, e.weight.pointer());
            arrays.setAtIndex(ValueLayout.ADDRESS, n + i, e.gradient.pointer());
            arrays.setAtIndex(ValueLayout.ADDRESS, 2L * n + i, e.m.pointer());
            arrays.setAtIndex(ValueLayout.ADDRESS, 3L * n + i, e.v.pointer());
            arrays.setAtIndex(ValueLayout.ADDRESS, 4L * n + i, Tensor.pointer(e.copy));
            arrays.setAtIndex(ValueLayout.JAVA_FLOAT, 10L * n + i, decays.get(i).floatValue());
            copies |= e.copy != null;
        }
        MemorySegment args = ops.stream.adamwArgs;
        gatun_adamw_args.count(args, n);
        gatun_adamw_args.weights(args, arrays);
        gatun_adamw_args.gradients(args, arrays.asSlice(8L * n));
        gatun_adamw_args.m(args, arrays.asSlice(16L * n));
        gatun_adamw_args.v(args, arrays.asSlice(24L * n));
        gatun_adamw_args.copies(args, copies ? arrays.asSlice(32L * n) : MemorySegment.NULL);
        gatun_adamw_args.decay(args, arrays.asSlice(40L * n));
        gatun_adamw_args.learning_rate(args, learningRate.pointer());
        gatun_adamw_args.step(args, step.pointer());
        gatun_adamw_args.clip(args, Tensor.pointer(clip));
        gatun_adamw_args.beta1(args, options.beta1);
        gatun_adamw_args.beta2(args, options.beta2);
        gatun_adamw_args.eps(args, options.eps);
        Native.check(GatunH.gatun_adamw(ops.handle(), args), "adamw");
    }
}
