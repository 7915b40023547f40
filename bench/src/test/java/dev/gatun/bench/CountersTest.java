package dev.gatun.bench;

import static org.assertj.core.api.Assertions.assertThat;

import dev.gatun.kernels.CrossEntropy;
import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.MatMul;
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

    private static final double MOST_TRAFFIC = 1.05;

    /** Forward, where more or less than the ideal is right. */
    private static final Map<String, Double> FORWARD =
            Map.of(
                    // the case adds up its results: two reads and a write beside four
                    "layer_norm residual", 1.76,
                    // and this one copies its own out of the tape
                    "dropout", 2.01);

    /** Partial sums of dweight and dbias, f32 of some blocks, written and read again. */
    private static final Map<String, Double> BACKWARD =
            Map.of(
                    "layer_norm bf16",
                    1.09,
                    "layer_norm dropout bf16",
                    1.07,
                    // and a gradient that the case's own add gives to both is copied
                    "layer_norm residual f32",
                    1.54,
                    "layer_norm residual bf16",
                    1.57);

    /** Those that memory bounds, but for the ones that take seconds in f32 as well. */
    private static List<OpCase> memoryBound() {
        return OpCases.gpt2().stream()
                .filter(c -> !c.covers().contains("matmul") && !c.name().startsWith("attention"))
                .filter(c ->
                        c.dtype() == DType.BF16
                                || !List.of("cross_entropy", "embedding").contains(c.name()))
                .toList();
    }

    @Test
    void trafficIsTheIdeal() {
        List<OpCase> cases = memoryBound();
        assertThat(cases).hasSizeGreaterThanOrEqualTo(18);
        for (OpCase c : cases) {
            Counters.Counted counted = Counters.count(sim, c);
            // targets that are ignored, a fifth, and ids that come twice are not read
            double least =
                    c.name().equals("cross_entropy")
                            ? 0.8
                            : c.name().equals("embedding") ? 0.99 : 1;
            assertThat(counted.traffic())
                    .as("%s forward", c)
                    .isBetween(least, FORWARD.getOrDefault(c.name(), MOST_TRAFFIC));
            if (c.backwardBytes() == 0) {
                assertThat(counted.backward()).as("%s backward", c).isEmpty();
            } else if (!Double.isNaN(c.backwardBytes())) {
                assertThat(bytes(counted.backward()) / c.backwardBytes())
                        .as("%s backward", c)
                        .isBetween(1.0, BACKWARD.getOrDefault(c.toString(), MOST_TRAFFIC));
            }
            wholeSectorsWithoutConflicts(c, counted.forward());
            wholeSectorsWithoutConflicts(c, counted.backward());
        }
    }

    private static double bytes(List<SimCounters.Kernel> kernels) {
        return kernels.stream().mapToDouble(k -> k.distinctRead() + k.distinctWritten()).sum();
    }

    private static void wholeSectorsWithoutConflicts(OpCase c, List<SimCounters.Kernel> kernels) {
        for (SimCounters.Kernel k : kernels) {
            if (k.read() + k.written() > 1024) { // not of one number
                assertThat((double) (k.read() + k.written()) / (32 * k.sectors()))
                        .as("whole sectors in %s of %s", k.name(), c)
                        .isGreaterThan(0.9);
            }
            assertThat(k.wavefronts())
                    .as("bank conflicts in %s of %s", k.name(), c)
                    .isEqualTo(k.phases());
        }
    }

    /** One instruction for each 16 x 8 x 16 of the products, whose sizes are multiples of tiles. */
    @Test
    void productsMultiplyWhatTheyMust() {
        multiplies(named("linear qkv bf16"), 1);
        // as many products of bf16 parts (docs/numerics.md)
        multiplies(OpCases.linear("linear", DType.F32, 256, 128, 384, false, false), 6);
        multiplies(OpCases.bf16x3("bf16x3", 0, false, 256, 384, 128, MatMul.Options.PLAIN), 3);
    }

    private void multiplies(OpCase c, int products) {
        Counters.Counted counted = Counters.count(sim, c);
        assertThat(counted.traffic()).as("%s", c).isBetween(1.0, 1.001);
        long once = products * (long) c.flops() / 4096;
        assertThat(mma(counted.forward())).as("%s", c).isEqualTo(once);
        assertThat(mma(counted.backward())).as("%s backward", c).isEqualTo(2 * once);
        wholeSectorsWithoutConflicts(c, counted.forward());
        wholeSectorsWithoutConflicts(c, counted.backward());
    }

    /** Nothing is multiplied for a padding but the rest of a tile. */
    @Test
    void headsOfOddVocabulariesMultiplyNoMore() {
        int vocabulary = 1031;
        double most = 1088.0 / vocabulary; // the next multiple of 64
        OpCase c = OpCases.logits("head", DType.BF16, 128, 64, vocabulary);
        Counters.Counted counted = Counters.count(sim, c);
        double once = c.flops() / 4096;
        assertThat(mma(counted.forward()) / once).isBetween(1.0, most);
        assertThat(mma(counted.backward()) / (2 * once)).isBetween(1.0, most);
    }

    private static long mma(List<SimCounters.Kernel> kernels) {
        return kernels.stream().mapToLong(SimCounters.Kernel::mma).sum();
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
