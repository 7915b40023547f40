package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** An op gives the same on a view as on a dense copy of it, forward and backward. */
class StridedTest {
    private static final long[] WHOLE = {4, 5, 9, 8};

    private interface Op {
        Tensor run(Ops ops, Tensor x);
    }

    interface View {
        Tensor of(Tensor whole);
    }

    /** Views of [4, 5, 9, 8] whose last dimension has 8 elements and stride 1. */
    static Stream<Arguments> views() {
        return Stream.of(
                Arguments.of("inner slice", (View) t -> t.slice(2, 1, 8)),
                Arguments.of("outer slice", (View) t -> t.slice(0, 1, 3)),
                Arguments.of("permuted", (View) t -> t.permute(1, 2, 0, 3)),
                Arguments.of("selected", (View) t -> t.select(1, 3)),
                Arguments.of("sliced, permuted", (View) t -> t.slice(1, 1, 5).permute(2, 0, 1, 3)));
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("views")
    void activationsAndNorms(String name, View view) {
        same(view, (ops, x) -> ops.gelu(x, Gelu.TANH));
        same(view, (ops, x) -> ops.gelu(x, Gelu.ERF));
        same(view, (ops, x) -> ops.add(x, x));
        same(view, (ops, x) -> ops.dropout(x, 0.4));
        same(view, (ops, x) -> ops.cast(x, DType.BF16));
        same(
                view,
                (ops, x) -> {
                    Tensor one = ops.full(DType.F32, 1, 8);
                    return ops.layerNorm(x, one, one, 1e-5);
                });
        same(
                view,
                (ops, x) -> {
                    Tensor one = ops.full(DType.F32, 1, 8);
                    return ops.layerNorm(x, x, one, null, 1e-5).normed();
                });
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("views")
    void products(String name, View view) {
        same(view, (ops, x) -> ops.linear(x, ops.randn(DType.F32, 8, 5)));
        same(
                view,
                (ops, x) ->
                        ops.linearTransposed(
                                x, ops.randn(DType.F32, 5, 8), ops.randn(DType.F32, 5)));
        same(
                view,
                (ops, x) ->
                        ops.linearGelu(
                                x, ops.randn(DType.F32, 8, 5), ops.randn(DType.F32, 5), Gelu.TANH));
        same(view, (ops, x) -> ops.matmul(x, ops.randn(DType.F32, 8, 3)));
        same(view, (ops, x) -> ops.matmul(x, x, MatMul.Options.TRANSPOSE_B));
        same(view, (ops, x) -> ops.matmul(x, x, MatMul.Options.TRANSPOSE_A));
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("views")
    void attention(String name, View view) {
        same(view, (ops, x) -> x.rank() == 4 ? ops.attention(x, x, x, Mask.CAUSAL) : ops.add(x, x));
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("views")
    void lossAndChoice(String name, View view) {
        same(
                view,
                (ops, x) -> {
                    int rows = (int) (x.elements() / 8);
                    int[] targets = new int[rows];
                    for (int i = 0; i < rows; i++) {
                        targets[i] = i % 8;
                    }
                    long[] shape = Arrays.copyOf(x.shape(), x.rank() - 1);
                    return ops.crossEntropy(
                            x,
                            ops.labels(targets, 8, -100, shape),
                            CrossEntropy.Options.DEFAULT,
                            null);
                });
    }

    private static void same(View view, Op op) {
        try (Device device = Cpu.open();
                Tensor whole = Tensor.empty(device, DType.F32, Purpose.OTHER, WHOLE)) {
            try (Ops ops = device.ops(Rng.of(3))) {
                ops.normal(whole, 0, 1);
            }
            List<float[]> strided = run(device, whole, view, op, false);
            List<float[]> dense = run(device, whole, view, op, true);
            for (int i = 0; i < dense.size(); i++) {
                float[] had = strided.get(i);
                float[] wanted = dense.get(i);
                assertThat(had).hasSize(wanted.length);
                for (int j = 0; j < wanted.length; j++) {
                    // the order of summation may differ between layouts
                    assertThat(Math.abs(had[j] - wanted[j]))
                            .as("%s[%d] %s", i == 0 ? "y" : "dx", j, wanted[j])
                            .isLessThanOrEqualTo(2e-5f * Math.max(1, Math.abs(wanted[j])));
                }
            }
        }
    }

    private static List<float[]> run(Device device, Tensor whole, View view, Op op, boolean dense) {
        whole.requireGradient();
        try (Tape tape = device.tape(Rng.of(5))) {
            Tensor x = view.of(whole);
            Tensor y = op.run(tape, dense ? tape.contiguous(x) : x);
            float[] values = y.toFloats();
            if (y.rank() == 0) {
                tape.backward(y);
            } else {
                // the same dout whatever drew before
                float[] dout = new float[(int) y.elements()];
                for (int i = 0; i < dout.length; i++) {
                    dout[i] = (i * 7919 % 101 - 50) / 64f;
                }
                Tensor gradient = tape.empty(y.dtype(), y.shape());
                gradient.write(dout);
                tape.backward(y, gradient);
            }
            return List.of(values, whole.gradient().orElseThrow().toFloats());
        } finally {
            whole.dropGradient();
        }
    }
}
