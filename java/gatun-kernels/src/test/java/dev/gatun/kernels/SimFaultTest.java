package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

/**
 * What goes wrong inside a kernel becomes an exception, and the virtual machine and the device go
 * on. In a JVM of its own, with a plugin whose layer_norm breaks when eps is above 100
 * (native/test/kernel/broken_plugin.cpp).
 */
class SimFaultTest {
    @Test
    void aFaultInAKernelIsAnExceptionThatSaysWhere() throws Exception {
        Path library = Path.of(System.getProperty("gatun.library.path", ""));
        Path native_ = Files.isDirectory(library) ? library : library.getParent();
        Child.Result result =
                Child.run(
                        List.of(
                                "--enable-native-access=ALL-UNNAMED",
                                "-Dgatun.library.path=" + native_.resolve("test/broken")),
                        Map.of(),
                        Faults.class);
        assertThat(result.exit()).as(result.output()).isZero();
        assertThat(result.output().lines().filter(line -> line.startsWith("layer_norm")))
                .satisfiesExactly(
                        line ->
                                assertThat(line)
                                        .contains(
                                                "kernel broken, block (",
                                                "thread (3,0,0) (warp 0 lane 3)",
                                                "SIGSEGV at address 0x2000,"
                                                        + " after broken_plugin.cpp:"),
                        line ->
                                assertThat(line)
                                        .contains(
                                                "kernel broken, block (",
                                                "thread (37,0,0) (warp 1 lane 5)",
                                                "STACK OVERFLOW",
                                                "after broken_plugin.cpp:"),
                        line ->
                                assertThat(line)
                                        .contains(
                                                "thread (1,0,0)",
                                                "integer division by zero",
                                                "after broken_plugin.cpp:"),
                        line ->
                                assertThat(line)
                                        .contains(
                                                "thread (40,0,0)",
                                                "16-byte load at broken_plugin.cpp:",
                                                "byte 4096 of an allocation of"),
                        line ->
                                assertThat(line)
                                        .contains("kernel broken", "wrote byte", "allocation"),
                        line ->
                                assertThat(line)
                                        .contains(
                                                "DEADLOCK",
                                                "32 of 64 threads at barrier 1"
                                                        + " (broken_plugin.cpp:"),
                        line ->
                                assertThat(line)
                                        .contains(
                                                "CUDA refused to launch broken"
                                                        + " <<<(3, 1, 1), (64, 1, 1),"
                                                        + " 307200 bytes>>>: "));
    }

    /** Breaks the kernel in each way, and uses it in between. */
    static final class Faults {
        private Faults() {}

        private static Tensor filled(Ops ops, float value, long... shape) {
            Tensor tensor = ops.empty(DType.F32, shape);
            float[] values = new float[(int) tensor.elements()];
            Arrays.fill(values, value);
            tensor.write(values);
            return tensor;
        }

        public static void main(String[] args) {
            try (Device sim = Device.open("sim");
                    Ops ops = sim.ops()) {
                Tensor x = filled(ops, 1, 2, 1024);
                Tensor weight = filled(ops, 1, 1024);
                Tensor bias = filled(ops, 3, 1024);
                for (int fault = 0; fault < 7; fault++) {
                    try {
                        ops.layerNorm(x, weight, bias, 101 + fault);
                        ops.await();
                        throw new IllegalStateException("fault " + fault + " went unnoticed");
                    } catch (GatunException e) {
                        System.out.println("layer_norm: " + e.getMessage().replace('\n', ' '));
                    }
                    for (float y : ops.layerNorm(x, weight, bias, 1e-5).toFloats()) {
                        if (y != 3) {
                            throw new IllegalStateException("wrong after fault " + fault);
                        }
                    }
                }
            }
        }
    }
}
