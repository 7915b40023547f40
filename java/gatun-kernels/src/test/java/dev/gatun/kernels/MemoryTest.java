package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** Memory is bounded, stays flat, and what is left open is said. */
class MemoryTest {

    private static long openFiles() throws IOException {
        try (Stream<Path> files = Files.list(Path.of("/proc/self/fd"))) {
            return files.count();
        }
    }

    private static double step(Device device, Tensor w, Tensor v, Tensor head, int seed) {
        try (Tape tape = device.tape(Rng.of(seed))) {
            Tensor x = tape.randn(DType.F32, 8, 32);
            Tensor hidden;
            try (Ops layer = tape.scope()) {
                Tensor h = layer.linearGelu(x, w, v, Gelu.TANH);
                hidden = layer.keep(layer.add(layer.dropout(h, 0.1), x));
            }
            Tensor logits = tape.linear(hidden, head);
            int[] targets = {1, 2, 3, 4, 5, 6, 7, 8};
            Tensor loss =
                    tape.crossEntropy(
                            logits,
                            tape.labels(targets, 16, -100, 8),
                            CrossEntropy.Options.DEFAULT,
                            tape.full(DType.F32, 1 / 8.));
            tape.backward(loss);
            return loss.item();
        } finally {
            for (Tensor weight : new Tensor[] {w, v, head}) {
                weight.staleGradient();
            }
        }
    }

    @Test
    void stepsLeaveEverythingFlat() throws IOException {
        try (Device device = Device.open("cpu", DeviceOptions.defaults().withThreads(2));
                Tensor w = weight(device, 32, 32);
                Tensor v = weight(device, 32);
                Tensor head = weight(device, 32, 16)) {
            for (int i = 0; i < 20; i++) {
                step(device, w, v, head, i);
            }
            device.await();
            Device.Memory before = device.memory();
            long files = openFiles();
            for (int i = 0; i < 200; i++) {
                assertThat(step(device, w, v, head, i)).isFinite();
            }
            device.await();
            Device.Memory after = device.memory();
            assertThat(after.buffers()).isEqualTo(before.buffers()).isEqualTo(6);
            assertThat(after.usedBytes()).isEqualTo(before.usedBytes());
            assertThat(after.reservedBytes()).isEqualTo(before.reservedBytes());
            assertThat(openFiles()).isLessThanOrEqualTo(files + 2);
        }
    }

    private static Tensor weight(Device device, long... shape) {
        Tensor t = Tensor.empty(device, DType.F32, Purpose.WEIGHTS, shape);
        try (Ops ops = device.ops()) {
            ops.normal(t, 0, 0.1);
        }
        return t.requireGradient();
    }

    @Test
    void theBudgetIsASentence() {
        DeviceOptions small = DeviceOptions.defaults().withMemoryBudget(64L << 20).withThreads(1);
        try (Device device = Device.open("cpu", small)) {
            assertThat(device.memory().budgetBytes()).isEqualTo(64L << 20);
            try (Tensor weights = Tensor.empty(device, DType.F32, Purpose.WEIGHTS, 5 << 20);
                    Ops ops = device.ops()) {
                ops.zeros(DType.F32, 5 << 20);
                assertThatThrownBy(() -> ops.empty(DType.F32, 16 << 20))
                        .isInstanceOfSatisfying(
                                OutOfDeviceMemory.class,
                                e ->
                                        assertThat(e.status())
                                                .isEqualTo(GatunException.Status.OUT_OF_MEMORY))
                        .hasMessageContaining("out of device memory")
                        .hasMessageContaining("67")
                        .hasMessageContaining("weights")
                        .hasMessageContaining("activations");
                ops.reset();
                // what was refused left nothing behind, and what was freed can be had again
                assertThat(ops.full(DType.F32, 2, 9 << 20).slice(0, 0, 3).toFloats())
                        .containsOnly(2);
                assertThat(weights.elements()).isEqualTo(5 << 20);
            }
            assertThat(device.memory().buffers()).isZero();
        }
    }

    /** A process of its own: leaves things open and closes the device. */
    public static final class Leaky {
        private Leaky() {}

        public static void main(String[] args) {
            Device device = Device.open("cpu");
            Tensor forgotten = Tensor.of(device, new float[3], 3);
            Ops open = device.ops();
            open.keep(open.zeros(DType.F32, 5));
            Tensor closed = Tensor.of(device, new float[1], 1);
            closed.close();
            System.out.println("holding " + forgotten + " and " + open);
            device.close();
        }
    }

    @Test
    void leaksAreReportedWithTheirSites() throws Exception {
        String library = System.getProperty("gatun.library.path");
        List<String> options = new ArrayList<>();
        options.add("--enable-native-access=ALL-UNNAMED");
        options.add("-Dgatun.library.path=" + library);
        Child.Result quiet = Child.run(options, Map.of(), Leaky.class);
        assertThat(quiet.output())
                .contains("3 tensors or Ops were not closed; -Dgatun.leaks=on says where");
        options.add("-Dgatun.leaks=on");
        Child.Result loud = Child.run(options, Map.of(), Leaky.class);
        assertThat(loud.output())
                .contains("not closed: a tensor of 12 bytes")
                .contains("not closed: a tensor of 20 bytes")
                .contains("not closed: ops 1 on cpu")
                .contains("MemoryTest$Leaky.main(MemoryTest.java:")
                .doesNotContain("a tensor of 4 bytes");
        assertThat(loud.exit()).isZero();
    }
}
