package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Every allocation, op and copy of a training step fails once: with a sentence, with nothing left
 * behind, and with the next step as if nothing had been.
 */
class FaultTest {

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "sim"})
    void aFailureAnywhereLeavesNothing(String device) throws Exception {
        List<String> options =
                List.of(
                        "--enable-native-access=ALL-UNNAMED",
                        "-Dgatun.library.path=" + System.getProperty("gatun.library.path"));
        Child.Result result = Child.run(options, Map.of(), Injections.class, device);
        assertThat(result.exit()).as(result.output()).isZero();
        // as many of each kind as a step has, not one that never fails
        assertThat(result.output())
                .containsPattern("alloc: [1-9][0-9]+ failures")
                .containsPattern("launch: [5-9] failures")
                .containsPattern("copy: [1-9][0-9]+ failures");
    }

    /** A process of its own, since GATUN_FAULT belongs to the process. */
    public static final class Injections {
        private Injections() {}

        public static void main(String[] args) throws Throwable {
            float[] wanted;
            long workspace; // a stream keeps it
            try (Device device = Device.open(args[0])) {
                wanted = step(device);
                device.trim();
                workspace = device.memory().usedBytes();
            }
            for (String kind : List.of("alloc", "launch", "copy")) {
                int failures = 0;
                while (failsAndRecovers(args[0], kind, failures + 1, wanted, workspace)) {
                    failures++;
                }
                System.out.println(kind + ": " + failures + " failures");
            }
        }

        /** Whether the k-th call of this kind was part of a step. */
        private static boolean failsAndRecovers(
                String name, String kind, int k, float[] wanted, long workspace) throws Throwable {
            setFault(kind + ":" + k);
            boolean failed = false;
            try (Device device = Device.open(name)) {
                try {
                    assertThat(step(device)).containsExactly(wanted);
                } catch (GatunException e) {
                    failed = true;
                    assertThat(e.getMessage()).as("%s:%d", kind, k).isNotBlank();
                }
                Device.Memory memory = device.memory();
                assertThat(memory.buffers()).as("buffers after %s:%d", kind, k).isZero();
                device.trim();
                assertThat(device.memory().usedBytes())
                        .as("bytes after %s:%d", kind, k)
                        .isLessThanOrEqualTo(workspace);
                if (failed) {
                    assertThat(step(device))
                            .as("the step after %s:%d", kind, k)
                            .containsExactly(wanted);
                }
            }
            return failed;
        }

        /** Weights, norm, projection, gradients, AdamW; gives the new weight. */
        private static float[] step(Device device) {
            List<Tensor> own = new ArrayList<>();
            try (Tape tape = device.tape(Rng.of(3))) {
                Tensor gain = upload(own, device, 1, 32).requireGradient();
                Tensor weight = upload(own, device, 2, 32, 16).requireGradient();
                Tensor bias = upload(own, device, 3, 16).requireGradient();
                Tensor x = upload(own, device, 4, 8, 32);
                Tensor residual = upload(own, device, 5, 8, 32);
                Tensor normed = tape.layerNorm(x, residual, gain, null, 1e-5, 0.1).normed();
                Tensor y = tape.linear(normed, weight, bias);
                tape.backward(y, upload(own, device, 6, 8, 16));
                List<AdamW.Entry> entries = new ArrayList<>();
                for (Tensor leaf : List.of(gain, weight, bias)) {
                    entries.add(
                            new AdamW.Entry(
                                    leaf,
                                    leaf.gradient().orElseThrow(),
                                    upload(own, device, 0, leaf.shape()),
                                    upload(own, device, 0, leaf.shape()),
                                    null));
                }
                Tensor rate = keep(own, Tensor.of(device, new float[] {0.1f}));
                Tensor number = keep(own, Tensor.of(device, new long[] {1}));
                tape.adamw(AdamW.Options.DEFAULT, rate, number, null, new AdamW.Group(entries, 0));
                return weight.toFloats();
            } finally {
                own.reversed().forEach(Tensor::close);
            }
        }

        private static Tensor upload(List<Tensor> own, Device device, int seed, long... shape) {
            float[] values = new float[(int) Shapes.elements(shape)];
            for (int i = 0; i < values.length; i++) {
                values[i] = seed == 0 ? 0 : (float) Math.sin(seed + 0.7 * i);
            }
            return keep(own, Tensor.of(device, values, shape));
        }

        private static Tensor keep(List<Tensor> own, Tensor tensor) {
            own.add(tensor);
            return tensor;
        }

        private static void setFault(String plan) throws Throwable {
            Linker linker = Linker.nativeLinker();
            var setenv =
                    linker.downcallHandle(
                            linker.defaultLookup().find("setenv").orElseThrow(),
                            FunctionDescriptor.of(
                                    ValueLayout.JAVA_INT,
                                    ValueLayout.ADDRESS,
                                    ValueLayout.ADDRESS,
                                    ValueLayout.JAVA_INT));
            try (Arena arena = Arena.ofConfined()) {
                int status =
                        (int)
                                setenv.invokeExact(
                                        arena.allocateFrom("GATUN_FAULT"),
                                        arena.allocateFrom(plan),
                                        1);
                assertThat(status).isZero();
            }
        }
    }
}
