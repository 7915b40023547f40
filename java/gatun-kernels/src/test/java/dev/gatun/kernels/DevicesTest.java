package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.stream.IntStream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Several devices in one process: each keeps to its own, whoever calls whichever first. */
class DevicesTest {

    @ParameterizedTest
    @CsvSource({"cpu,cpu", "cpu,sim", "sim,sim", "sim,sim:1", "cuda:0,cuda:1"})
    void twoDevicesAtOnce(String firstName, String secondName) throws Exception {
        assumeTrue(there(firstName) && there(secondName), "no GPU");
        try (Device first = Device.open(firstName);
                Device second = Device.open(secondName)) {
            float[] wanted = trained(first);
            float[] there = trained(second);
            // one thread in turn
            try (Tensor a = Tensor.of(first, new float[] {1, 2}, 2);
                    Tensor b = Tensor.of(second, new float[] {3, 4}, 2);
                    Ops onFirst = first.ops();
                    Ops onSecond = second.ops()) {
                for (int i = 0; i < 3; i++) {
                    assertThat(onFirst.add(a, a).toFloats()).containsExactly(2, 4);
                    assertThat(onSecond.add(b, b).toFloats()).containsExactly(6, 8);
                }
                assertThatThrownBy(() -> onFirst.add(a, b))
                        .isInstanceOf(RuntimeException.class)
                        .hasMessageContaining("device");
                assertThat(onFirst.add(a, a).toFloats()).containsExactly(2, 4);
            }
            // two threads at once
            try (ExecutorService pool = Executors.newFixedThreadPool(2)) {
                for (int i = 0; i < 3; i++) {
                    var one = pool.submit((Callable<float[]>) () -> trained(first));
                    var other = pool.submit((Callable<float[]>) () -> trained(second));
                    assertThat(one.get()).containsExactly(wanted);
                    assertThat(other.get()).containsExactly(there);
                }
            }
            assertThat(first.memory().buffers()).isZero();
            assertThat(second.memory().buffers()).isZero();
        }
    }

    private static boolean there(String name) {
        try {
            Device.open(name).close();
            return true;
        } catch (GatunException e) {
            assertThat(e.status()).isEqualTo(GatunException.Status.UNAVAILABLE);
            return false;
        }
    }

    /** The gradient of a weight through a product, a GELU and a loss. */
    private static float[] trained(Device device) {
        float[] values = new float[24 * 32];
        IntStream.range(0, values.length).forEach(i -> values[i] = (float) Math.sin(0.7 * i));
        try (Tape tape = device.tape(Rng.of(3));
                Tensor weight = Tensor.of(device, values, 24, 32).requireGradient();
                Tensor x = Tensor.of(device, values, 32, 24)) {
            Tensor logits = tape.gelu(tape.matmul(x, weight), Gelu.TANH);
            Tensor targets = tape.ids(IntStream.range(0, 32).toArray(), 32, 32);
            tape.backward(tape.crossEntropy(logits, targets, CrossEntropy.Options.DEFAULT, null));
            return weight.gradient().orElseThrow().toFloats();
        }
    }
}
