package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** NaN, infinity, nothing at all, and values that lie: what comes out is said, never a signal. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class ExtremesTest {
    private static final float INF = Float.POSITIVE_INFINITY;
    private static final float NAN = Float.NaN;

    private final Device device = Cpu.open();

    @AfterAll
    void close() {
        assertThat(device.memory().buffers()).isZero();
        device.close();
    }

    static Stream<DeviceOptions.Simd> levels() {
        return Cpu.levels().stream();
    }

    private static Device at(DeviceOptions.Simd simd) {
        return Cpu.open(DeviceOptions.defaults().withSimd(simd).withThreads(2));
    }

    @ParameterizedTest
    @MethodSource("levels")
    void notANumberSpreads(DeviceOptions.Simd simd) {
        try (Device cpu = at(simd);
                Ops ops = cpu.ops()) {
            // more than a vector, so that the last lanes are reached both ways
            float[] values = new float[37];
            for (int i = 0; i < values.length; i++) {
                values[i] = i - 18;
            }
            values[2] = NAN;
            values[35] = NAN;
            Tensor x = ops.upload(values, 37);
            for (Gelu form : Gelu.values()) {
                float[] y = ops.gelu(x, form).toFloats();
                for (int i = 0; i < y.length; i++) {
                    assertThat(Float.isNaN(y[i]))
                            .as("%s[%d]", form, i)
                            .isEqualTo(i == 2 || i == 35);
                }
            }
            Tensor ones = ops.full(DType.F32, 1, 37);
            assertThat(ops.layerNorm(x.view(1, 37), ones, null, 1e-5).toFloats())
                    .usingComparatorWithPrecision(0f)
                    .containsOnly(NAN);
            assertThat(ops.cast(ops.cast(x, DType.BF16), DType.F32).toFloats()[35]).isNaN();
            assertThat(ops.cast(ops.cast(x, DType.F16), DType.F32).toFloats()[2]).isNaN();
            assertThat(ops.linear(x.view(1, 37), ops.full(DType.F32, 0, 37, 3)).toFloats())
                    .as("NaN times 0 is NaN")
                    .hasSize(3)
                    .satisfies(y -> assertThat(y[1]).isNaN());
        }
    }

    @ParameterizedTest
    @MethodSource("levels")
    void infinityIsKept(DeviceOptions.Simd simd) {
        try (Device cpu = at(simd);
                Ops ops = cpu.ops()) {
            Tensor x =
                    ops.upload(
                            new float[] {
                                INF,
                                -INF,
                                Float.MAX_VALUE,
                                -Float.MAX_VALUE,
                                Float.MIN_VALUE,
                                60,
                                -60
                            },
                            7);
            for (Gelu form : Gelu.values()) {
                float[] y = ops.gelu(x, form).toFloats();
                assertThat(y[0]).as("%s(inf)", form).isEqualTo(INF);
                assertThat(y[2]).isEqualTo(Float.MAX_VALUE);
                assertThat(Math.abs(y[3])).isLessThan(1e-6f);
                assertThat(y[5]).isEqualTo(60);
                assertThat(Math.abs(y[6])).isLessThan(1e-6f);
            }
            float[] halves = ops.cast(ops.cast(x, DType.F16), DType.F32).toFloats();
            assertThat(halves).startsWith(INF, -INF, INF, -INF, 0);
            assertThat(ops.add(x, x).toFloats()).startsWith(INF, -INF, INF, -INF);
        }
    }

    @ParameterizedTest
    @MethodSource("levels")
    void rowsThatSeeNothingAreZero(DeviceOptions.Simd simd) {
        try (Device cpu = at(simd);
                Tape tape = cpu.tape()) {
            Tensor q = tape.watch(tape.randn(DType.F32, 2, 2, 3, 8));
            Tensor k = tape.watch(tape.randn(DType.F32, 2, 2, 5, 8));
            Tensor v = tape.watch(tape.full(DType.F32, 1, 2, 2, 5, 8));
            Tensor lengths = tape.upload(new int[] {0, 5}, 2);
            Tensor out = tape.attention(q, k, v, Mask.lengths(lengths));
            float[] values = out.toFloats();
            for (int i = 0; i < values.length; i++) {
                assertThat(values[i])
                        .as("[%d]", i)
                        .isCloseTo(i < values.length / 2 ? 0 : 1, within(1e-6f));
            }
            tape.backward(out, tape.randn(DType.F32, 2, 2, 3, 8));
            for (Tensor operand : new Tensor[] {q, k, v}) {
                float[] gradient = tape.gradient(operand).orElseThrow().toFloats();
                for (int i = 0; i < gradient.length / 2; i++) {
                    assertThat(gradient[i]).isZero();
                }
                assertThat(gradient).doesNotContain(NAN);
            }
        }
    }

    @Test
    void hugeScoresDoNotOverflow() {
        try (Ops ops = device.ops()) {
            Tensor q = ops.full(DType.F32, 1e18, 1, 1, 2, 4);
            Tensor k = ops.full(DType.F32, 1e18, 1, 1, 2, 4);
            Tensor v = ops.full(DType.F32, 3, 1, 1, 2, 4);
            assertThat(ops.attention(q, k, v, Mask.CAUSAL).toFloats()).containsOnly(3);
            Tensor logits = ops.upload(new float[] {1e30f, -1e30f, 0, 0, 0, 0}, 2, 3);
            Tensor targets = ops.upload(new int[] {0, 1}, 2);
            assertThat(
                            CrossEntropy.rows(ops, logits, targets, CrossEntropy.Options.DEFAULT)
                                    .toFloats())
                    .satisfies(l -> {
                        assertThat(l[0]).isZero();
                        assertThat(l[1]).isCloseTo((float) Math.log(3), within(1e-6f));
                    });
        }
    }

    @Test
    void allIgnoredTargetsGiveZero() {
        try (Tape tape = device.tape()) {
            Tensor logits = tape.watch(tape.randn(DType.F32, 3, 7));
            Tensor targets = tape.labels(new int[] {-100, -100, -100}, 7, -100, 3);
            Tensor loss = tape.crossEntropy(logits, targets, CrossEntropy.Options.DEFAULT, null);
            assertThat(loss.item()).isZero();
            tape.backward(loss);
            assertThat(tape.gradient(logits).orElseThrow().toFloats()).containsOnly(0);
        }
    }

    @Test
    void notANumberInTheLogitsReachesTheLoss() {
        try (Ops ops = device.ops()) {
            Tensor logits = ops.upload(new float[] {0, NAN, 1}, 1, 3);
            Tensor targets = ops.upload(new int[] {0}, 1);
            assertThat(ops.crossEntropy(logits, targets, CrossEntropy.Options.DEFAULT, null).item())
                    .isNaN();
        }
    }

    @Test
    void aBrokenGradientCannotPassUnnoticed() {
        for (float broken : new float[] {NAN, INF}) {
            try (Ops ops = device.ops()) {
                Tensor g = ops.upload(new float[] {1, broken, 2}, 3);
                GlobalNorm.Norm norm = ops.globalNorm(List.of(g), 1);
                assertThat(norm.norm().item()).isNotEqualTo(1);
                assertThat(norm.factor().item()).isNaN();
            }
        }
    }

    /** Ids of the device are not checked by the host: the wait says which one was wrong. */
    @Test
    void wrongIdsOnTheDeviceAreReportedOnceByTheNextWait() {
        try (Ops ops = device.ops()) {
            Tensor table = ops.full(DType.F32, 1, 5, 3);
            Tensor ids = ops.upload(new int[] {0, 7, 2}, 3);
            Tensor out = ops.embedding(ids, table);
            assertThatThrownBy(out::toFloats)
                    .isInstanceOfSatisfying(
                            GatunException.class,
                            e -> {
                                assertThat(e.status())
                                        .isEqualTo(GatunException.Status.OUT_OF_RANGE);
                                assertThat(e).hasMessageContaining("7").hasMessageContaining("5");
                            });
            assertThat(out.toFloats()).as("clamped, and reported once").containsOnly(1);
            Tensor loss =
                    ops.crossEntropy(
                            ops.zeros(DType.F32, 2, 4),
                            ops.upload(new int[] {1, 4}, 2),
                            CrossEntropy.Options.DEFAULT,
                            null);
            assertThatThrownBy(loss::item)
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("4");
            ops.await();
        }
    }

    @Test
    void aFullCacheIsReported() {
        try (Ops ops = device.ops()) {
            Tensor k = ops.zeros(DType.F32, 1, 2, 4, 8);
            Tensor v = ops.zeros(DType.F32, 1, 2, 4, 8);
            Tensor lengths = ops.upload(new int[] {3}, 1);
            Tensor two = ops.full(DType.F32, 1, 1, 2, 2, 8);
            ops.kvAppend(k, v, two, two, null, lengths);
            assertThatThrownBy(ops::await)
                    .isInstanceOf(GatunException.class)
                    .hasMessageStartingWith("kv_append");
            ops.await();
        }
    }

    @Test
    void argmaxSkipsNotANumber() {
        try (Ops ops = device.ops()) {
            Tensor logits =
                    ops.upload(new float[] {NAN, 1, 3, 3, -INF, NAN, -INF, -INF, NAN}, 3, 3);
            assertThat(ops.argmax(logits).toInts()).containsExactly(2, 0, 0);
            Tensor nothing = ops.argmax(ops.full(DType.F32, Double.NaN, 1, 4));
            assertThatThrownBy(nothing::toInts).isInstanceOf(GatunException.class);
        }
    }

    @Test
    void emptyTensorsAreFine() {
        try (Ops ops = device.ops()) {
            Tensor none = ops.zeros(DType.F32, 0, 4);
            assertThat(ops.linear(none, ops.zeros(DType.F32, 4, 3)).toFloats()).isEmpty();
            assertThat(
                            ops.matmul(ops.zeros(DType.F32, 2, 0), ops.zeros(DType.F32, 0, 3))
                                    .toFloats())
                    .as("an empty sum is 0")
                    .hasSize(6)
                    .containsOnly(0);
            assertThat(ops.argmax(none).toInts()).isEmpty();
            assertThat(ops.globalNorm(List.of(), 1).norm().item()).isZero();
            Tensor q = ops.zeros(DType.F32, 1, 2, 0, 8);
            Tensor k = ops.zeros(DType.F32, 1, 2, 3, 8);
            assertThat(ops.attention(q, k, k, Mask.NONE).elements()).isZero();
            Tensor none2 = ops.zeros(DType.F32, 1, 2, 0, 8);
            assertThat(ops.attention(k, none2, none2, Mask.NONE).toFloats()).containsOnly(0);
        }
    }

    @Test
    void wrongShapesGetASentence() {
        try (Ops ops = device.ops()) {
            Tensor x = ops.zeros(DType.F32, 4, 8);
            assertThatThrownBy(() -> ops.layerNorm(x, ops.zeros(DType.F32, 7), null, 1e-5))
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("layer_norm")
                    .hasMessageContaining("7")
                    .hasMessageContaining("8");
            assertThatThrownBy(() -> ops.linear(x, ops.zeros(DType.F32, 7, 2)))
                    .hasMessageContaining("7")
                    .hasMessageContaining("8");
            assertThatThrownBy(() -> ops.linear(x, ops.zeros(DType.F16, 8, 2)))
                    .hasMessageContaining("f16");
            assertThatThrownBy(() ->
                            ops.attention(
                                    ops.zeros(DType.F32, 1, 16, 2, 8),
                                    ops.zeros(DType.F32, 1, 7, 2, 8),
                                    ops.zeros(DType.F32, 1, 7, 2, 8),
                                    Mask.NONE))
                    .hasMessageContaining("16")
                    .hasMessageContaining("7");
            assertThatThrownBy(() -> ops.linear(x, x.view(32)))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("[in, out]");
        }
    }
}
