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
            Set.of("layer_norm_forward", "layer_norm_backward", "adamw", "global_norm");

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
        long seed = SEED + c.toString().hashCode();
        double[][] values = c.values(seed);
        double[][] truth = c.oracle().compute(Oracle.EXACT, values);
        double[][] plain = c.oracle().compute(Oracle.FLOAT, values);
        List<Tensor> operands = OpCaseTest.upload(sim, c, values);
        try (Ops ops = sim.ops()) {
            List<Tensor> results = c.forward().run(ops, operands);
            for (int i = 0; i < truth.length; i++) {
                OpCaseTest.compare(
                        c + " result " + i,
                        seed,
                        results.get(i),
                        truth[i],
                        plain[i],
                        c.approximation());
            }
        } finally {
            operands.forEach(Tensor::close);
        }
        assertThat(sim.memory().buffers()).as("buffers that %s left", c).isZero();
    }

    /** The cpu device's gradients were compared with differences of the oracle. */
    @ParameterizedTest(name = "{0}")
    @MethodSource("cases")
    void gradientsAgreeWithTheCpu(OpCase c) {
        double[][] values = c.values(SEED + c.toString().hashCode());
        List<double[]> had = gradients(sim, c, values);
        List<double[]> wanted = gradients(cpu, c, values);
        double epsilon =
                switch (c.dtype()) {
                    case F32 -> 3e-5;
                    case F16 -> 4e-3;
                    default -> 3e-2;
                };
        assertThat(had).hasSameSizeAs(wanted);
        for (int i = 0; i < had.size(); i++) {
            double largest = c.cancelled();
            for (double x : wanted.get(i)) {
                largest = Math.max(largest, Math.abs(x));
            }
            assertThat(had.get(i))
                    .as("%s, gradient %d (seed %d)", c, i, SEED)
                    .containsExactly(wanted.get(i), within(1e-7 + epsilon * largest));
        }
        assertThat(sim.memory().buffers()).as("buffers that %s left", c).isZero();
    }

    private static List<double[]> gradients(Device device, OpCase c, double[][] values) {
        List<Tensor> operands = OpCaseTest.upload(device, c, values);
        List<double[]> out = new ArrayList<>();
        try (Tape tape = device.tape()) {
            // as intermediates: gradients of their own dtype, which need no op but these
            operands.forEach(tape::watch);
            Tensor y = c.forward().run(tape, operands).getFirst();
            Tensor dy = tape.empty(y.dtype(), y.shape());
            float[] upstream = new float[(int) y.elements()];
            for (int i = 0; i < upstream.length; i++) {
                upstream[i] = (float) ((i * 37 % 64) / 32.0 - 1);
            }
            dy.write(upstream);
            tape.backward(y, dy);
            operands.forEach(t -> out.add(tape.gradient(t).map(OpCaseTest::floats).orElseThrow()));
        } finally {
            operands.forEach(Tensor::close);
        }
        return out;
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
        List<Tensor> operands = OpCaseTest.upload(sim, c, values);
        try (ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor()) {
            List<Future<double[]>> results = new ArrayList<>();
            for (int i = 0; i < 100; i++) {
                results.add(
                        threads.submit(() -> {
                            try (Ops ops = sim.ops()) {
                                return OpCaseTest.floats(c.forward().run(ops, operands).getFirst());
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
