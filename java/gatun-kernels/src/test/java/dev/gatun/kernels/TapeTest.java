package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** What a tape remembers, where gradients go, and when memory goes. */
class TapeTest {
    private Device device;

    @BeforeEach
    void open() {
        device = Cpu.open();
    }

    @AfterEach
    void close() {
        assertThat(device.memory().buffers()).as("buffers left").isZero();
        device.close();
    }

    private Tensor leaf(double value, long... shape) {
        Tensor t = Tensor.empty(device, DType.F32, Purpose.WEIGHTS, shape);
        float[] values = new float[(int) t.elements()];
        Arrays.fill(values, (float) value);
        t.write(values);
        return t.requireGradient();
    }

    private Tensor normalLeaf(long seed, long... shape) {
        Tensor t = Tensor.empty(device, DType.F32, Purpose.WEIGHTS, shape);
        SplittableRandom random = new SplittableRandom(seed);
        float[] values = new float[(int) t.elements()];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) random.nextGaussian();
        }
        t.write(values);
        return t.requireGradient();
    }

    @Test
    void gradientsAddUpUntilTheyAreStale() {
        try (Tensor w = leaf(2, 3)) {
            assertThat(w.gradient().orElseThrow().toFloats()).as("untouched").containsOnly(0);
            for (int pass = 1; pass <= 3; pass++) {
                try (Tape tape = device.tape()) {
                    Tensor y = tape.add(w, w);
                    tape.backward(y, tape.full(DType.F32, 1, 3));
                }
                assertThat(w.gradient().orElseThrow().toFloats()).containsOnly(2 * pass);
            }
            w.staleGradient();
            assertThat(w.gradient().orElseThrow().toFloats()).containsOnly(0);
            try (Tape tape = device.tape()) {
                tape.backward(tape.add(w, w), tape.full(DType.F32, 1, 3));
            }
            assertThat(w.gradient().orElseThrow().toFloats()).containsOnly(2);
            w.dropGradient();
            assertThat(w.gradient()).isEmpty();
        }
    }

    @Test
    void backwardRunsOnce() {
        try (Tensor w = leaf(1, 1);
                Tape tape = device.tape()) {
            Tensor y = tape.add(w, w);
            tape.backward(y);
            assertThatIllegalStateException().isThrownBy(() -> tape.backward(y));
            assertThatIllegalStateException()
                    .isThrownBy(() -> tape.add(w, w))
                    .withMessageContaining("walked back already");
            tape.reset();
            tape.backward(tape.add(w, w));
            assertThat(w.gradient().orElseThrow().item()).isEqualTo(4);
        }
    }

    @Test
    void whatLeadsNowhereIsRefused() {
        try (Tape tape = device.tape()) {
            Tensor x = tape.zeros(DType.F32, 1);
            assertThatIllegalStateException()
                    .isThrownBy(() -> tape.backward(tape.add(x, x)))
                    .withMessageContaining("depends on no leaf");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> tape.backward(tape.zeros(DType.F32, 2)));
            assertThatIllegalStateException().isThrownBy(x::requireGradient);
        }
    }

    @Test
    void frozenBranchesCostNothing() {
        try (Tensor frozen = Tensor.of(device, new float[64], 8, 8);
                Tensor w = leaf(1, 8, 8);
                Tape tape = device.tape()) {
            Tensor x = tape.zeros(DType.F32, 4, 8);
            device.profile(true);
            Tensor y = tape.linear(tape.linear(x, frozen), w);
            tape.backward(y, tape.full(DType.F32, 1, 4, 8));
            // two forward products and dw; no dx, since nothing before needs one
            assertThat(device.profile())
                    .filteredOn(p -> p.op().equals("matmul"))
                    .singleElement()
                    .satisfies(p -> assertThat(p.calls()).isEqualTo(3));
            device.profile(false);
            assertThat(frozen.gradient()).isEmpty();
        }
    }

    @Test
    void savedTensorsOutliveTheirScopeAndGoWhenPassed() {
        try (Tensor w = leaf(1, 16, 16);
                Tape tape = device.tape()) {
            Tensor x = tape.watch(tape.full(DType.F32, 1, 4, 16));
            Tensor hidden = x;
            for (int layer = 0; layer < 5; layer++) {
                try (Ops scope = tape.scope()) {
                    assertThat(scope.recording()).isTrue();
                    Tensor inner = scope.gelu(scope.linear(hidden, w), Gelu.TANH);
                    hidden = scope.keep(scope.add(inner, hidden));
                }
            }
            long before = device.memory().buffers();
            tape.backward(hidden, tape.full(DType.F32, 1, 4, 16));
            // left: w and its gradient, x, five outputs, the seed, and the watched gradient
            assertThat(device.memory().buffers()).isLessThan(before).isEqualTo(10);
            assertThat(tape.gradient(x).orElseThrow().toFloats()).doesNotContain(0);
            assertThat(tape.gradient(w)).isPresent();
            assertThat(tape.gradient(hidden)).isEmpty();
        }
    }

    @Test
    void aTapeThatIsNotWalkedLeavesNothing() {
        try (Tensor w = leaf(1, 4, 4)) {
            try (Tape tape = device.tape()) {
                try (Ops scope = tape.scope()) {
                    scope.gelu(scope.linear(scope.zeros(DType.F32, 2, 4), w), Gelu.ERF);
                }
            }
            assertThat(device.memory().buffers()).isEqualTo(2);
        }
    }

    /** q, k, v of a packed tensor: written where they tile it, zeroed where one is missing. */
    @Test
    void viewsThatTileATensorAreWritten() {
        for (int used = 1; used <= 3; used++) {
            try (Tensor w = leaf(3, 2, 6);
                    Tape tape = device.tape()) {
                Tensor packed = tape.add(w, tape.zeros(DType.F32, 2, 6));
                Tensor sum = null;
                for (int i = 0; i < used; i++) {
                    Tensor part = tape.contiguous(packed.slice(1, 2L * i, 2L * i + 2));
                    sum = sum == null ? part : tape.add(sum, part);
                }
                device.profile(true);
                tape.backward(sum, tape.full(DType.F32, 1, 2, 2));
                float[] wanted = new float[12];
                for (int i = 0; i < 12; i++) {
                    wanted[i] = i % 6 < 2 * used ? 1 : 0;
                }
                assertThat(w.gradient().orElseThrow().toFloats()).containsExactly(wanted);
                long fills =
                        device.profile().stream()
                                .filter(p -> p.op().equals("fill"))
                                .mapToLong(Device.OpProfile::calls)
                                .sum();
                // one for the test's own seed
                assertThat(fills).as("%d parts used", used).isEqualTo(used == 3 ? 1 : 2);
                device.profile(false);
            }
        }
    }

    @Test
    void aTileThatNoGradientReachesIsZero() {
        try (Tensor w = leaf(3, 2, 4);
                Tape tape = device.tape()) {
            Tensor packed = tape.add(w, tape.zeros(DType.F32, 2, 4));
            Tensor left = tape.contiguous(packed.slice(1, 0, 2));
            tape.contiguous(packed.slice(1, 2, 4));
            tape.backward(left, tape.full(DType.F32, 1, 2, 2));
            assertThat(w.gradient().orElseThrow().toFloats())
                    .containsExactly(1, 1, 0, 0, 1, 1, 0, 0);
        }
    }

    @Test
    void overlappingViewsAddUp() {
        try (Tensor w = leaf(3, 6);
                Tape tape = device.tape()) {
            Tensor x = tape.add(w, tape.zeros(DType.F32, 6));
            Tensor y =
                    tape.add(
                            tape.add(x.slice(0, 0, 4), x.slice(0, 2, 6)),
                            tape.add(x.slice(0, 0, 4), x.slice(0, 1, 5)));
            tape.backward(y, tape.upload(new float[] {1, 10, 100, 1000}, 4));
            assertThat(w.gradient().orElseThrow().toFloats())
                    .containsExactly(2, 21, 211, 2110, 1100, 1000);
        }
    }

    @Test
    void wholeAndPartAddUp() {
        try (Tensor w = leaf(3, 4);
                Tape tape = device.tape()) {
            Tensor x = tape.add(w, tape.zeros(DType.F32, 4));
            Tensor part = tape.contiguous(x.slice(0, 0, 2));
            Tensor whole = tape.add(x, x);
            Tensor y = tape.add(tape.add(part, whole.slice(0, 2, 4)), x.slice(0, 1, 3));
            tape.backward(y, tape.full(DType.F32, 1, 2));
            assertThat(w.gradient().orElseThrow().toFloats()).containsExactly(1, 2, 3, 2);
        }
    }

    @Test
    void viewsOfALeafAddUpInIt() {
        try (Tensor w = leaf(3, 2, 3);
                Tape tape = device.tape()) {
            Tensor row = w.select(0, 1);
            tape.backward(tape.add(row, row), tape.full(DType.F32, 1, 3));
            assertThat(w.gradient().orElseThrow().toFloats()).containsExactly(0, 0, 0, 2, 2, 2);
        }
    }

    /** A shared gradient must not change for one holder when the other's grows. */
    @Test
    void sharedGradientsPartWhenOneChanges() {
        try (Tensor a = leaf(1, 3);
                Tensor b = leaf(1, 3);
                Tape tape = device.tape()) {
            Tensor x = tape.watch(tape.full(DType.F32, 2, 3));
            Tensor u = tape.add(a, x);
            Tensor v = tape.add(b, x);
            // du = dy + dz, dv = dy: both start as the same tensor
            Tensor y = tape.add(u, v);
            Tensor z = tape.add(y, u);
            tape.backward(z, tape.full(DType.F32, 1, 3));
            assertThat(a.gradient().orElseThrow().toFloats()).containsOnly(2);
            assertThat(b.gradient().orElseThrow().toFloats()).containsOnly(1);
            assertThat(tape.gradient(x).orElseThrow().toFloats()).containsOnly(3);
        }
    }

    /** A linear layer alone behind a GELU gives the gradient before it; else a pass of its own. */
    @ParameterizedTest
    @ValueSource(strings = {"alone", "of a view", "twice", "watched", "read by another"})
    void theDerivativeOfAGeluIsTakenOnce(String reader) {
        float[][] gradients = new float[2][];
        for (int separate = 0; separate < 2; separate++) {
            try (Tensor up = normalLeaf(1, 8, 24);
                    Tensor bias = normalLeaf(2, 24);
                    Tensor down = normalLeaf(3, 24, 8);
                    Tape tape = device.tape()) {
                Tensor x = tape.watch(tape.randn(DType.F32, 2, 5, 8));
                Tensor inner =
                        separate == 1
                                ? tape.gelu(tape.linear(x, up, bias), Gelu.TANH)
                                : tape.linearGelu(x, up, bias, Gelu.TANH);
                if (reader.equals("watched")) {
                    tape.watch(inner);
                }
                Tensor y =
                        reader.equals("of a view")
                                ? tape.linear(inner.view(10, 24), down).view(2, 5, 8)
                                : tape.linear(inner, down);
                if (reader.equals("twice")) {
                    y = tape.add(y, tape.linear(inner, down));
                } else if (reader.equals("read by another")) {
                    y = tape.add(y, tape.linear(tape.gelu(inner, Gelu.ERF), down));
                }
                device.profile(true);
                tape.backward(y, tape.full(DType.F32, 1, 2, 5, 8));
                long passes =
                        device.profile().stream()
                                .filter(p -> p.op().equals("gelu_backward"))
                                .mapToLong(Device.OpProfile::calls)
                                .sum();
                device.profile(false);
                boolean alone = reader.equals("alone") || reader.equals("of a view");
                if (separate == 0) {
                    assertThat(passes == 0).isEqualTo(alone);
                }
                gradients[separate] = tape.gradient(x).orElseThrow().toFloats();
            }
        }
        assertThat(gradients[0]).containsExactly(gradients[1], within(1e-4f));
    }

    /** Padded rows are consumed in place, all the way through the head's backward pass. */
    @Test
    void logitsBecomeTheirGradientWhereTheyLie() {
        List<float[]> gradients = new ArrayList<>();
        List<Double> losses = new ArrayList<>();
        for (boolean padded : new boolean[] {true, false}) {
            try (Tensor head = normalLeaf(1, 67, 8);
                    Tape tape = device.tape()) {
                Tensor x = tape.watch(tape.randn(DType.F32, 2, 3, 8));
                Tensor targets = tape.empty(DType.I32, 2, 3);
                targets.write(new int[] {0, 66, 5, -100, 31, 64});
                Tensor logits = padded ? tape.logits(x, head) : tape.linearTransposed(x, head);
                assertThat(logits.contiguous()).isNotEqualTo(padded);
                assertThat(logits.shape()).containsExactly(2, 3, 67);
                long before = device.memory().buffers();
                Tensor loss =
                        tape.crossEntropy(logits, targets, CrossEntropy.Options.DEFAULT, null);
                assertThat(device.memory().buffers()).as("no copy").isEqualTo(before + 1);
                losses.add(loss.item());
                device.profile(true);
                tape.backward(loss);
                assertThat(device.profile())
                        .extracting(Device.OpProfile::op)
                        .containsExactlyInAnyOrder("fill", "matmul");
                device.profile(false);
                gradients.add(tape.gradient(x).orElseThrow().toFloats());
                gradients.add(head.gradient().orElseThrow().toFloats());
            }
        }
        assertThat(losses.get(0)).isCloseTo(losses.get(1), within(1e-5));
        assertThat(gradients.get(0)).containsExactly(gradients.get(2), within(1e-5f));
        assertThat(gradients.get(1)).containsExactly(gradients.get(3), within(1e-5f));
    }

    @Test
    void paddedRowsAreRowsToEveryReader() {
        try (Tensor head = normalLeaf(1, 67, 8);
                Tape tape = device.tape()) {
            Tensor x = tape.randn(DType.F32, 5, 8);
            Tensor logits = tape.logits(x, head);
            Tensor dense = tape.linearTransposed(x, head);
            assertThat(logits.toFloats()).containsExactly(dense.toFloats(), within(1e-5f));
            assertThat(tape.argmax(logits).toInts()).containsExactly(tape.argmax(dense).toInts());
            // two readers: a gradient of its own, padded too, that both add to
            Tensor sum = tape.add(tape.add(logits, tape.gelu(logits, Gelu.ERF)), dense);
            tape.backward(sum, tape.full(DType.F32, 1, 5, 67));
            float[] both = head.gradient().orElseThrow().toFloats();
            head.dropGradient();
            head.requireGradient();
            try (Tape again = device.tape()) {
                Tensor y = again.linearTransposed(x, head);
                again.backward(
                        again.add(again.add(y, again.gelu(y, Gelu.ERF)), y),
                        again.full(DType.F32, 1, 5, 67));
            }
            assertThat(both)
                    .containsExactly(head.gradient().orElseThrow().toFloats(), within(1e-4f));
        }
    }

    @Test
    void aResidualIsShapedAsTheResult() {
        try (Ops ops = device.ops()) {
            Tensor x = ops.zeros(DType.F32, 2, 3, 4);
            Tensor w = ops.zeros(DType.F32, 4, 4);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> ops.linear(x, w, null, ops.zeros(DType.F32, 3, 2, 4)))
                    .withMessageContaining("wanted a residual of [2, 3, 4], had f32[3, 2, 4]");
            // rows that no view joins
            Tensor apart = ops.full(DType.F32, 1, 3, 2, 4).permute(1, 0, 2);
            assertThat(ops.linear(x, w, null, apart).toFloats()).containsOnly(1);
        }
    }

    @Test
    void residualGradientsAreSharedNotCopied() {
        try (Tensor w = leaf(1, 8);
                Tensor bias = leaf(0, 8);
                Tape tape = device.tape()) {
            Tensor x = tape.watch(tape.randn(DType.F32, 4, 8));
            Tensor residual = tape.watch(tape.randn(DType.F32, 4, 8));
            LayerNorm.Residual out = tape.layerNorm(x, residual, w, bias, 1e-5);
            Tensor y = tape.add(out.sum(), out.normed());
            device.profile(true);
            tape.backward(y, tape.randn(DType.F32, 4, 8));
            assertThat(device.profile())
                    .extracting(Device.OpProfile::op)
                    // one copy parts the gradient of sum from that of normed
                    .containsExactlyInAnyOrder("random_normal", "copy", "layer_norm_backward");
            device.profile(false);
            assertThat(tape.gradient(x).orElseThrow().toFloats())
                    .containsExactly(tape.gradient(residual).orElseThrow().toFloats());
        }
    }

    /** Fused dropout gives the bits of dropout before the norm, whichever results are used. */
    @ParameterizedTest
    @CsvSource({"true, true", "true, false", "false, true"})
    void fusedDropoutIsDropoutBeforeTheNorm(boolean usesNormed, boolean usesSum) {
        for (DType dtype : List.of(DType.F32, DType.BF16, DType.F16)) {
            List<float[]> fused = dropoutAndNorm(dtype, true, usesNormed, usesSum);
            List<float[]> apart = dropoutAndNorm(dtype, false, usesNormed, usesSum);
            assertThat(fused).as(dtype.toString()).hasSize(6);
            for (int i = 0; i < fused.size(); i++) {
                assertThat(fused.get(i)).as("%s, value %d", dtype, i).containsExactly(apart.get(i));
            }
        }
    }

    /** sum, normed, and the gradients of x, residual, weight and of x's own source. */
    private List<float[]> dropoutAndNorm(
            DType dtype, boolean fused, boolean usesNormed, boolean usesSum) {
        double p = 0.3;
        try (Tensor step = Tensor.of(device, new long[] {5});
                Tape tape = device.tape(new Rng(77, step, 2))) {
            Tensor w = tape.watch(tape.randn(dtype, 96));
            Tensor source = tape.watch(tape.randn(dtype, 2, 7, 96));
            Tensor x = tape.watch(tape.add(source, source));
            Tensor residual = tape.watch(tape.randn(dtype, 2, 7, 96));
            var out =
                    fused
                            ? tape.layerNorm(x, residual, w, null, 1e-5, p)
                            : tape.layerNorm(tape.dropout(x, p), residual, w, null, 1e-5);
            Tensor again = tape.dropout(tape.add(out.normed(), out.sum()), p); // the site after
            Tensor y =
                    usesNormed && usesSum
                            ? again
                            : usesNormed ? out.normed() : tape.add(out.sum(), out.sum());
            tape.backward(y, tape.randn(dtype, 2, 7, 96));
            List<float[]> values = new ArrayList<>();
            values.add(out.sum().toFloats());
            values.add(again.toFloats());
            for (Tensor t : List.of(x, residual, w, source)) {
                values.add(tape.gradient(t).map(Tensor::toFloats).orElse(new float[0]));
            }
            return values;
        }
    }

    @Test
    void oneTensorAsQueryKeyAndValue() {
        try (Tape tape = device.tape();
                Tensor x = Tensor.of(device, new float[] {1, 2, 3, 4, 5, 6}, 1, 1, 3, 2)) {
            x.requireGradient();
            Tensor dout = tape.upload(new float[] {1, -1, 2, 0.5f, -3, 1}, 1, 1, 3, 2);
            tape.backward(tape.attention(x, x, x, Mask.CAUSAL), dout);
            double[] wanted = new double[6];
            double[] values = {1, 2, 3, 4, 5, 6};
            double[] weights = {1, -1, 2, 0.5, -3, 1};
            for (int i = 0; i < 6; i++) {
                double[] sums = new double[2];
                for (int s = 0; s < 2; s++) {
                    double[] moved = values.clone();
                    moved[i] += s == 0 ? 1e-5 : -1e-5;
                    double[] out =
                            Oracle.attention(
                                    Oracle.EXACT,
                                    moved,
                                    moved,
                                    moved,
                                    1,
                                    1,
                                    1,
                                    3,
                                    3,
                                    2,
                                    true,
                                    new int[1],
                                    new int[] {3},
                                    Math.sqrt(0.5));
                    for (int j = 0; j < 6; j++) {
                        sums[s] += out[j] * weights[j];
                    }
                }
                wanted[i] = (sums[0] - sums[1]) / 2e-5;
                assertThat((double) x.gradient().orElseThrow().toFloats()[i])
                        .as("dx[%d]", i)
                        .isCloseTo(wanted[i], within(1e-4));
            }
        }
    }

    @Test
    void tiedWeightsGetBothGradients() {
        try (Tensor table = leaf(0.5, 5, 4);
                Tape tape = device.tape()) {
            Tensor ids = tape.ids(new int[] {1, 3, 1}, 5, 1, 3);
            Tensor logits = tape.linearTransposed(tape.embedding(ids, table), table).view(3, 5);
            Tensor loss =
                    tape.crossEntropy(
                            logits,
                            tape.labels(new int[] {3, -100, 2}, 5, -100, 3),
                            CrossEntropy.Options.DEFAULT,
                            null);
            assertThat(loss.item()).isCloseTo(2 * Math.log(5), within(1e-5));
            assertThatIllegalStateException()
                    .isThrownBy(logits::toFloats)
                    .withMessageContaining("cross_entropy overwrote them");
            tape.backward(loss);
            float[] g = table.gradient().orElseThrow().toFloats();
            // All rows of the table are equal, so p = 1/5. The head gives row v the sum over the
            // counted positions of (p - y) h; the embedding gives the sum over v of (p - y) w = 0.
            for (int v = 0; v < 5; v++) {
                float wanted = v == 2 || v == 3 ? 0.5f * (2 * 0.2f - 1) : 0.5f * 2 * 0.2f;
                assertThat(g[v * 4]).as("row %d", v).isCloseTo(wanted, within(1e-6f));
            }
        }
    }

    @Test
    void lossesAddButAreWeighedByTheirFactor() {
        try (Tensor w = leaf(0, 4, 3);
                Tape tape = device.tape()) {
            Tensor half = tape.full(DType.F32, 0.5);
            Tensor x = tape.full(DType.F32, 1, 2, 4);
            Tensor targets = tape.labels(new int[] {0, 2}, 3, -100, 2);
            Tensor first =
                    tape.crossEntropy(
                            tape.linear(x, w), targets, CrossEntropy.Options.DEFAULT, half);
            Tensor second =
                    tape.crossEntropy(
                            tape.linear(x, w), targets, CrossEntropy.Options.DEFAULT, half);
            Tensor sum = tape.add(first, second);
            assertThat(sum.item()).isCloseTo(2 * Math.log(3), within(1e-5));
            tape.backward(sum);
            float third = 1 / 3f;
            assertThat(w.gradient().orElseThrow().toFloats()[0])
                    .isCloseTo(2 * third - 1, within(1e-6f));
        }
        try (Tensor w = leaf(0, 4, 3);
                Tape tape = device.tape()) {
            Tensor loss =
                    tape.crossEntropy(
                            tape.linear(tape.full(DType.F32, 1, 2, 4), w),
                            tape.labels(new int[] {0, 2}, 3, -100, 2),
                            CrossEntropy.Options.DEFAULT,
                            null);
            Tensor twice = tape.add(loss, loss);
            assertThatThrownBy(() -> tape.backward(twice))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("weigh losses by their factor");
        }
    }

    @Test
    void dropoutIsTheIdentityUnlessRecording() {
        try (Tensor w = leaf(1, 1000)) {
            try (Ops ops = device.ops()) {
                assertThat(ops.dropout(w, 0.5)).isSameAs(w);
            }
            try (Tape tape = device.tape(Rng.of(9))) {
                assertThat(tape.dropout(w, 0)).isSameAs(w);
                Tensor a = tape.dropout(w, 0.25);
                Tensor b = tape.dropout(w, 0.25);
                float[] first = a.toFloats();
                assertThat(b.toFloats()).as("another site").isNotEqualTo(first);
                tape.backward(a, tape.full(DType.F32, 1, 1000));
                assertThat(w.gradient().orElseThrow().toFloats()).containsExactly(first);
                int kept = 0;
                for (float x : first) {
                    assertThat(x).isIn(0f, 1 / 0.75f);
                    kept += x > 0 ? 1 : 0;
                }
                // five standard deviations of a binomial
                assertThat(kept).isBetween(750 - 69, 750 + 69);
            }
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> {
                        try (Tape tape = device.tape()) {
                            tape.dropout(w, 1);
                        }
                    });
        }
    }

    @Test
    void aFailureInTheMiddleLeavesNothing() {
        try (Tensor w = leaf(1, 4);
                Tape tape = device.tape()) {
            Tensor y = tape.add(tape.gelu(w, Gelu.TANH), w);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> tape.backward(y, tape.zeros(DType.F32, 5)));
            assertThatThrownBy(() -> tape.layerNorm(w, tape.zeros(DType.F32, 5), null, 1e-5))
                    .isInstanceOf(GatunException.class);
            tape.backward(y, tape.full(DType.F32, 1, 4));
            assertThat(w.gradient()).isPresent();
        }
    }
}
