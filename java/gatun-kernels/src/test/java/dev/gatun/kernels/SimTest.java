package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** The GPU's kernels, executed on the host inside this JVM: the op cases that they cover. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class SimTest {
    private static final long SEED = 20_261_125;
    private static final Set<String> KERNELS =
            Set.of(
                    "layer_norm_forward",
                    "layer_norm_backward",
                    "adamw",
                    "global_norm",
                    "matmul",
                    "bias_backward");

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
        return OpCases.all().stream().filter(c -> KERNELS.containsAll(c.covers()));
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

    @Test
    void anOpWithoutAKernelIsNamed() {
        try (Ops ops = sim.ops()) {
            Tensor x = ops.empty(DType.F32, 4);
            assertThatThrownBy(() -> ops.gelu(x, Gelu.TANH))
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("gelu")
                    .hasMessageContaining("sim");
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
        OpCase c = cases().filter(each -> each.dtype() == DType.F32).skip(2).findFirst().get();
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
