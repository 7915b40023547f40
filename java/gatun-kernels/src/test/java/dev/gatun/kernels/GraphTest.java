package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** A captured step does what the same calls do. */
class GraphTest {
    private static final int ROWS = 5;
    private static final int COLUMNS = 24;

    private static float[] values(int seed, int count) {
        Random random = new Random(seed);
        float[] values = new float[count];
        for (int i = 0; i < count; i++) {
            values[i] = (float) random.nextGaussian();
        }
        return values;
    }

    /** Two products and two norms, so that memory within the capture is used again. */
    private static Tensor chain(Ops ops, Tensor x, Tensor w, Tensor gain, Tensor bias) {
        Tensor y = x;
        for (int i = 0; i < 2; i++) {
            try (Ops layer = ops.scope()) {
                Tensor product = layer.matmul(y, w);
                y = layer.keep(layer.layerNorm(product, gain, bias, 1e-5f));
            }
        }
        return y;
    }

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "sim"})
    void launchesGiveWhatTheCallsGive(String name) {
        try (Device device = Device.open(name)) {
            long before = device.memory().usedBytes();
            Tensor x = Tensor.of(device, values(1, ROWS * COLUMNS), ROWS, COLUMNS);
            Tensor w = Tensor.of(device, values(2, COLUMNS * COLUMNS), COLUMNS, COLUMNS);
            Tensor gain = Tensor.of(device, values(3, COLUMNS), COLUMNS);
            Tensor bias = Tensor.of(device, values(4, COLUMNS), COLUMNS);
            Tensor[] kept = new Tensor[1];
            Graph graph =
                    Graph.capture(
                            device,
                            Rng.of(0),
                            ops -> kept[0] = ops.keep(chain(ops, x, w, gain, bias)));
            for (int seed = 10; seed < 15; seed++) {
                x.write(values(seed, ROWS * COLUMNS));
                graph.launch();
                float[] had = kept[0].toFloats();
                try (Ops ops = device.ops()) {
                    assertThat(had).containsExactly(chain(ops, x, w, gain, bias).toFloats());
                }
            }
            graph.close();
            assertThat(kept[0].toFloats()).doesNotContain(Float.NaN); // outlives the graph
            List.of(kept[0], x, w, gain, bias).forEach(Tensor::close);
            device.trim();
            assertThat(device.memory().buffers()).isZero();
            if (name.equals("cpu")) { // a gpu's stream keeps its workspace
                assertThat(device.memory().usedBytes()).isEqualTo(before);
            }
        }
    }

    private record Training(
            Tensor weight, Tensor m, Tensor v, Tensor step, Tensor rate, Tensor labels, Tensor x) {
        static Training on(Device device) {
            return new Training(
                    Tensor.of(device, values(5, 3 * 4), 3, 4),
                    Tensor.of(device, new float[12], 3, 4),
                    Tensor.of(device, new float[12], 3, 4),
                    Tensor.of(device, new long[] {0}),
                    Tensor.of(device, new float[] {0.1f}),
                    Tensor.of(device, new int[] {2, 0}, 2),
                    Tensor.of(device, values(6, 2 * 3), 2, 3));
        }

        void step(Tape tape) {
            weight.staleGradient();
            Tensor dropped = tape.dropout(tape.matmul(x, weight), 0.25);
            Tensor loss =
                    tape.crossEntropy(
                            dropped,
                            labels,
                            CrossEntropy.Options.DEFAULT,
                            tape.full(DType.F32, 0.5));
            tape.backward(loss);
            Tensor gradient = weight.gradient().orElseThrow();
            tape.increment(step, 1);
            tape.adamw(
                    AdamW.Options.DEFAULT,
                    rate,
                    step,
                    tape.globalNorm(List.of(gradient), 1).factor(),
                    new AdamW.Group(List.of(new AdamW.Entry(weight, gradient, m, v, null)), 0.01));
        }

        float[] end() {
            float[] weights = weight.toFloats();
            weight.dropGradient();
            List.of(weight, m, v, step, rate, labels, x).forEach(Tensor::close);
            return weights;
        }
    }

    /** The counter of steps, which dropout draws by, lies on the device: each launch differs. */
    @Test
    void aTrainingStepIsReplayed() {
        try (Device device = Device.open("cpu")) {
            Training plain = Training.on(device);
            plain.weight.requireGradient();
            for (int i = 0; i < 8; i++) {
                try (Tape tape = device.tape(new Rng(7, plain.step, 0))) {
                    plain.step(tape);
                }
            }
            Training captured = Training.on(device);
            captured.weight.requireGradient();
            try (Graph graph =
                    Graph.capture(
                            device,
                            Rng.of(0),
                            ops -> {
                                try (Tape tape = ops.tape(new Rng(7, captured.step, 0))) {
                                    captured.step(tape);
                                }
                            })) {
                for (int i = 0; i < 8; i++) {
                    graph.launch();
                }
                assertThat(captured.end()).containsExactly(plain.end());
            }
            assertThat(device.memory().buffers()).isZero();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "sim"})
    void whatCannotBeCapturedIsRefused(String name) {
        try (Device device = Device.open(name)) {
            float[] ones = new float[COLUMNS];
            Arrays.fill(ones, 1);
            Tensor gain = Tensor.of(device, ones, COLUMNS);
            Tensor x = Tensor.of(device, values(1, COLUMNS), 1, COLUMNS);
            assertThatThrownBy(() ->
                            Graph.capture(device, Rng.of(0), ops -> ops.upload(ones, COLUMNS)))
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("buffer_write")
                    .hasMessageContaining("captured");
            assertThatThrownBy(() ->
                            Graph.capture(
                                    device,
                                    Rng.of(0),
                                    ops -> ops.layerNorm(x, gain, gain, 1e-5f).toFloats()))
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("captured");

            Tensor[] kept = new Tensor[1];
            Graph graph =
                    Graph.capture(
                            device,
                            Rng.of(0),
                            ops -> kept[0] = ops.keep(ops.layerNorm(x, gain, gain, 1e-5f)));
            graph.launch();
            assertThat(kept[0].toFloats()).hasSize(COLUMNS).doesNotContain(Float.NaN);
            x.close();
            assertThatThrownBy(graph::launch)
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("which ops of the graph use, was freed");
            graph.close();
            assertThatThrownBy(graph::launch).isInstanceOf(IllegalStateException.class);
            assertThatThrownBy(graph::close).isInstanceOf(IllegalStateException.class);
            kept[0].close();
            gain.close();
            assertThat(device.memory().buffers()).isZero();
        }
    }
}
