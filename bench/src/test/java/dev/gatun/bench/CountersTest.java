package dev.gatun.bench;

import static org.assertj.core.api.Assertions.assertThat;

import dev.gatun.kernels.CrossEntropy;
import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.OpCase;
import dev.gatun.kernels.OpCases;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tape;
import dev.gatun.kernels.Tensor;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;

/** The kernels' traffic against the ideal of their op cases. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CountersTest {
    private Device sim;

    @BeforeAll
    void open() {
        sim = Device.open("sim");
    }

    @AfterAll
    void close() {
        sim.close();
    }

    private static OpCase named(String name) {
        return OpCases.gpt2().stream()
                .filter(c -> c.toString().equals(name))
                .findFirst()
                .orElseThrow();
    }

    /** At most this much more than every operand and result once, forward. */
    private static final Map<String, Double> MOST_TRAFFIC =
            // weight and bias are not in the bytes of layer_norm: 2 rows of 1024
            Map.of("layer_norm f32", 1.003, "layer_norm bf16", 1.003, "linear proj bf16", 1.001);

    @Test
    void trafficIsTheIdeal() {
        MOST_TRAFFIC.forEach((name, most) -> {
            Counters.Counted counted = Counters.count(sim, named(name));
            assertThat(counted.traffic()).as(name).isBetween(1.0, most);
            for (SimCounters.Kernel k : counted.forward()) {
                assertThat(32 * k.sectors())
                        .as("whole sectors in %s of %s", k.name(), name)
                        .isEqualTo(k.read() + k.written());
                assertThat(k.wavefronts())
                        .as("bank conflicts in %s of %s", k.name(), name)
                        .isEqualTo(k.phases());
            }
        });
    }

    /** Rows of logits are padded, so neither product of a head goes element by element. */
    @Test
    void headsOfOddVocabulariesAreReadInWholeWords() {
        assertThat(bytesOfARequest(true)).isGreaterThan(200);
        assertThat(bytesOfARequest(false)).as("rows without padding").isLessThan(150);
    }

    private double bytesOfARequest(boolean padded) {
        SimCounters counters = new SimCounters(sim);
        List<SimCounters.Kernel> kernels;
        try (Tensor head = Tensor.empty(sim, DType.BF16, Purpose.WEIGHTS, 1031, 64);
                Tape tape = sim.tape()) {
            head.write(new float[1031 * 64]);
            head.requireGradient();
            Tensor x = tape.watch(tape.full(DType.BF16, 1, 72, 64));
            Tensor targets = tape.zeros(DType.I32, 72);
            Tensor logits = padded ? tape.logits(x, head) : tape.linearTransposed(x, head);
            Tensor loss = tape.crossEntropy(logits, targets, CrossEntropy.Options.DEFAULT, null);
            loss.item();
            counters.start();
            tape.backward(loss);
            tape.gradient(x).orElseThrow().toFloats();
            kernels = counters.read();
            counters.stop();
        }
        long bytes = 0;
        long requests = 0;
        for (SimCounters.Kernel k : kernels) {
            if (k.name().equals("matmul_tiles")) {
                bytes += k.read() + k.written();
                requests += k.requests();
            }
        }
        assertThat(requests).isPositive();
        return (double) bytes / requests;
    }

    @Test
    void theTableNamesCasesKernelsAndWhatHasNone() {
        ByteArrayOutputStream text = new ByteArrayOutputStream();
        try (PrintStream out = new PrintStream(text, true, StandardCharsets.UTF_8)) {
            Counters.table(sim, List.of(named("layer_norm bf16")), out);
        }
        assertThat(text.toString(StandardCharsets.UTF_8))
                .contains(
                        "layer_norm bf16, forward",
                        "  layer_norm_forward_rows",
                        "layer_norm bf16, backward",
                        "  layer_norm_backward_rows",
                        "  layer_norm_backward_finish");
    }
}
