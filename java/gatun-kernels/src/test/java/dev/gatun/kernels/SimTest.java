package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

/** The GPU's kernels, executed on the host inside this JVM: every op case. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class SimTest {
    private static final long SEED = 20_261_125;
    private Device sim;
    private Device cpu;

    @BeforeAll
    void open() {
        sim = Device.open("sim");
        cpu = Cpu.open();
    }

    @AfterAll
    void close() {
        sim.close();
        cpu.close();
    }

    static Stream<OpCase> cases() {
        return OpCases.all().stream();
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void agreesWithTheOracle(OpCase c) {
        OpCheck.againstOracle(sim, c, SEED + c.toString().hashCode());
    }

    /** The cpu device's gradients were compared with differences of the oracle. */
    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void gradientsAgreeWithTheCpu(OpCase c) {
        OpCheck.gradientsAgainst(cpu, sim, c, SEED + c.toString().hashCode());
    }

    /** Nothing hangs on which block or thread comes first, and an edit's check stays short. */
    @Test
    void agreesInEveryOrder() {
        List<OpCase> cases = OpCases.all();
        assertThat(cases).hasSizeGreaterThanOrEqualTo(300);
        long seed = Long.getLong("gatun.seed", SEED);
        long start = System.nanoTime();
        try {
            for (SimPlugin.Order order : SimPlugin.Order.values()) {
                SimPlugin.order(order, seed);
                for (OpCase c : cases) {
                    try {
                        OpCheck.againstOracle(sim, c, seed + c.toString().hashCode());
                        OpCheck.gradientsAgainst(cpu, sim, c, seed + c.toString().hashCode());
                    } catch (AssertionError | GatunException e) {
                        throw new AssertionError(
                                "%s, order %s of seed %d".formatted(c, order, seed), e);
                    }
                }
            }
        } finally {
            SimPlugin.order(SimPlugin.Order.FORWARD, 1);
        }
        double seconds = (System.nanoTime() - start) / 1e9;
        System.out.printf(
                "sim: %d op cases in three orders in %.1f s, seed %d%n",
                cases.size(), seconds, seed);
        assertThat(seconds).isLessThan(60);
    }

    /** Whom a fault is of shows who came first. */
    @Test
    void theOrderIsTheOneAskedFor() {
        try (Ops ops = sim.ops()) {
            Tensor table = ops.full(DType.F32, 1, 5, 64);
            int[] values = new int[4096]; // of many blocks
            values[0] = 7;
            values[4095] = -1;
            Tensor ids = ops.upload(values, 4096);
            for (SimPlugin.Order order :
                    List.of(SimPlugin.Order.FORWARD, SimPlugin.Order.REVERSE)) {
                SimPlugin.order(order, 1);
                Tensor out = ops.embedding(ids, table);
                assertThatThrownBy(out::toFloats)
                        .as("%s", order)
                        .hasMessageContaining(
                                order == SimPlugin.Order.FORWARD ? "id 7 at" : "id -1 at");
            }
        } finally {
            SimPlugin.order(SimPlugin.Order.FORWARD, 1);
        }
    }

    @ParameterizedTest
    @EnumSource(
            value = DType.class,
            names = {"F32", "F16", "BF16"})
    void drawsTheTokensOfTheCpu(DType dtype) {
        int rows = 24;
        int columns = 1031;
        SplittableRandom random = new SplittableRandom(SEED);
        float[] values = new float[rows * columns];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) (3 * random.nextGaussian());
        }
        for (Sampling sampling :
                List.of(
                        Sampling.temperature(0.8),
                        new Sampling(1, 50, 1, 0),
                        new Sampling(1, 600, 0.9, 0),
                        new Sampling(0.7, 0, 0.9, 0),
                        new Sampling(1.3, 40, 0.5, 0.05))) {
            List<int[]> tokens = new ArrayList<>();
            List<float[]> logs = new ArrayList<>();
            for (Device device : List.of(cpu, sim)) {
                try (Ops ops = device.ops()) {
                    Tensor logits = ops.empty(dtype, rows, columns);
                    logits.write(values);
                    Tensor chosen = ops.empty(DType.I32, rows);
                    Tensor logProbabilities = ops.empty(DType.F32, rows);
                    sampling.drawInto(ops, chosen, logProbabilities, logits, Rng.of(SEED));
                    tokens.add(chosen.toInts());
                    logs.add(logProbabilities.toFloats());
                }
            }
            assertThat(tokens.get(1)).as("%s", sampling).containsExactly(tokens.get(0));
            assertThat(logs.get(1)).containsExactly(logs.get(0), within(1e-5f));
        }
    }

    /** What a kernel finds wrong in its data is the sentence of the next wait, as on the cpu. */
    @Test
    void kernelsReportWhatIsOutOfRange() {
        try (Ops ops = sim.ops()) {
            Tensor logits = ops.empty(DType.F32, 2, 3);
            logits.write(new float[] {1, 2, 3, Float.NaN, Float.NaN, Float.NaN});
            Tensor targets = ops.empty(DType.I32, 2);
            targets.write(new int[] {1, 7});
            Tensor loss = ops.crossEntropy(logits, targets, CrossEntropy.Options.DEFAULT, null);
            assertThatThrownBy(loss::toFloats)
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("target 7 of row 1 is not in [0, 3)");
            Tensor largest = ops.argmax(logits);
            assertThatThrownBy(largest::toInts)
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("all 3 logits of row 1 are NaN");
            assertThat(largest.toInts()).containsExactly(2, 0);
            Tensor drawn = ops.sample(logits, Sampling.temperature(1), Rng.of(1));
            assertThatThrownBy(drawn::toInts)
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("row 1 has no logit above -infinity");
        }
    }

    /** Starts out of order are put right, and reported in the cpu's words. */
    @Test
    void startsOutOfOrderAreReportedAsOnTheCpu() {
        List<float[]> results = new ArrayList<>();
        for (Device device : List.of(cpu, sim)) {
            try (Ops ops = device.ops()) {
                Tensor x = ops.empty(DType.F32, 1, 2, 6, 8);
                float[] values = new float[96];
                for (int i = 0; i < values.length; i++) {
                    values[i] = i % 7 - 3;
                }
                x.write(values);
                Tensor starts = ops.upload(new int[] {0, 4, 2, 9}, 4);
                Tensor out = ops.attention(x, x, x, Mask.causalPacked(starts, starts));
                assertThatThrownBy(out::toFloats)
                        .isInstanceOf(GatunException.class)
                        .hasMessageMatching(
                                "attention: [qk]_starts\\[2] is 2, wanted 4 to 6: starts ascend from"
                                        + " 0 and end within the rows");
                results.add(out.toFloats());
            }
        }
        assertThat(results.get(1)).containsExactly(results.get(0), within(1e-6f));
    }

    @Test
    void aWrongIdIsReportedOnceByTheNextWait() {
        try (Ops ops = sim.ops()) {
            Tensor table = ops.full(DType.F32, 1, 5, 3);
            Tensor out = ops.embedding(ops.upload(new int[] {0, 7, 2, -1}, 2, 2), table);
            assertThatThrownBy(out::toFloats)
                    .isInstanceOfSatisfying(
                            GatunException.class,
                            e ->
                                    assertThat(e.status())
                                            .isEqualTo(GatunException.Status.OUT_OF_RANGE))
                    // the one of the two that was seen first
                    .hasMessageMatching(
                            "embedding: id (7 at \\[0,1]|-1 at \\[1,1]) is not in \\[0, 5\\)");
            assertThat(out.toFloats()).as("clamped, and reported once").containsOnly(1);
            Tensor again = ops.embedding(ops.upload(new int[] {5}, 1), table);
            assertThatThrownBy(again::toFloats).hasMessageContaining("id 5 at [0,0]");
            ops.await();
        }
    }

    /** Faults of Java's own go on as ever, beside the simulator's signal handlers. */
    @Test
    void theVirtualMachineKeepsItsFaults() {
        List<OpCase> cases = cases().toList();
        for (int i = 0; i < 1000; i++) {
            Object nothing = i % 2 == 0 ? null : "";
            if (nothing == null) {
                assertThatThrownBy(() -> nothing.hashCode())
                        .isInstanceOf(NullPointerException.class);
            }
        }
        assertThatThrownBy(() -> endless(0)).isInstanceOf(StackOverflowError.class);
        agreesWithTheOracle(cases.getFirst());
    }

    private static int endless(int depth) {
        return depth < 0 ? 0 : endless(depth + 1) + 1;
    }

    @Test
    void manyThreadsUseOneDevice() throws Exception {
        OpCase c =
                cases().filter(each -> each.covers().contains("layer_norm_forward"))
                        .findFirst()
                        .get();
        double[][] values = c.values(SEED);
        double[] wanted = c.oracle().compute(Oracle.EXACT, values)[0];
        List<Tensor> operands = OpCheck.upload(sim, c, values);
        try (ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            List<Future<double[]>> results = new ArrayList<>();
            for (int i = 0; i < 100; i++) {
                results.add(
                        threads.submit(() -> {
                            try (Ops ops = sim.ops()) {
                                return OpCheck.floats(c.forward().run(ops, operands).getFirst());
                            }
                        }));
            }
            for (Future<double[]> result : results) {
                assertThat(result.get()).containsExactly(wanted, within(1e-4));
            }
        } finally {
            operands.forEach(Tensor::close);
        }
    }
}
