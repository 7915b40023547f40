package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

/** The examples of the documentation, run. */
class ExamplesTest {

    @Test
    void useAKernel() {
        try (var device = Device.open("cpu");
                var ops = device.ops()) { // a stream and a scope: what it makes dies with it
            Tensor q = ops.randn(DType.BF16, 2, 4, 96, 64);
            Tensor k = ops.randn(DType.BF16, 2, 4, 96, 64);
            Tensor v = ops.randn(DType.BF16, 2, 4, 96, 64);
            Tensor gain = ops.full(DType.BF16, 1, 64);
            Tensor bias = ops.zeros(DType.BF16, 64);
            Tensor o = ops.attention(q, k, v, Mask.CAUSAL);
            Tensor n = ops.layerNorm(o, gain, bias, 1e-5f);
            float[] host = n.toFloats(); // the only place that waits
            assertThat(n).hasToString("bf16[2, 4, 96, 64] on cpu");
            assertThat(host).hasSize(2 * 4 * 96 * 64).doesNotContain(Float.NaN);
        }
    }

    @Test
    void trainSeeingEverything() {
        try (var device = Device.open("cpu");
                Tensor weight = Tensor.of(device, new float[] {0, 0, 0, 0, 0, 0}, 2, 3);
                Tensor m = Tensor.of(device, new float[6], 2, 3);
                Tensor v = Tensor.of(device, new float[6], 2, 3);
                Tensor step = Tensor.of(device, new long[] {0});
                Tensor rate = Tensor.of(device, new float[] {0.1f})) {
            weight.requireGradient();
            double first = 0;
            double last = 0;
            for (int i = 0; i < 60; i++) {
                try (var tape = device.tape()) { // a Tape is an Ops that remembers
                    Tensor x = tape.upload(new float[] {1, 0, 0, 1}, 2, 2);
                    Tensor loss =
                            tape.crossEntropy(
                                    tape.linear(x, weight),
                                    tape.labels(new int[] {2, 0}, 3, -100, 2),
                                    CrossEntropy.Options.DEFAULT,
                                    tape.full(DType.F32, 0.5));
                    tape.backward(loss); // gradients add up in the parameters
                    last = loss.item();
                }
                first = i == 0 ? last : first;
                try (var ops = device.ops()) {
                    Tensor gradient = weight.gradient().orElseThrow();
                    GlobalNorm.Norm norm = ops.globalNorm(List.of(gradient), 1);
                    ops.increment(step, 1);
                    AdamW.Entry entry = new AdamW.Entry(weight, gradient, m, v, null);
                    ops.adamw(
                            AdamW.Options.DEFAULT,
                            rate,
                            step,
                            norm.factor(),
                            new AdamW.Group(List.of(entry), 0.01));
                }
                weight.staleGradient();
            }
            assertThat(step.item()).isEqualTo(60);
            assertThat(first).isBetween(1.09, 1.10);
            assertThat(last).isLessThan(0.05);
        }
    }
}
