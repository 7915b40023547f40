package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** One device under many threads: right results, and no thread of the system's for each. */
class ThreadsTest {
    private static final int PLATFORM = 32;
    private static final int VIRTUAL = 1000;

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "sim"})
    void threadsShareADevice(String name) throws Exception {
        try (Device device = Device.open(name);
                Tensor weight = Tensor.of(device, new float[] {1, -2, 3, 0.5f}, 4)) {
            List<float[]> wanted = new ArrayList<>();
            for (int i = 0; i < 7; i++) {
                wanted.add(normed(device, weight, i));
            }
            long before = threads();
            var peak = new AtomicLong();

            var together = new CountDownLatch(PLATFORM);
            try (ExecutorService pool = Executors.newFixedThreadPool(PLATFORM)) {
                List<Future<?>> all = new ArrayList<>();
                for (int i = 0; i < PLATFORM; i++) {
                    int seed = i % 7;
                    all.add(
                            pool.submit(() -> {
                                together.countDown();
                                together.await();
                                for (int round = 0; round < 20; round++) {
                                    assertThat(normed(device, weight, seed))
                                            .containsExactly(wanted.get(seed));
                                }
                                peak.accumulateAndGet(threads(), Math::max);
                                return null;
                            }));
                }
                for (Future<?> one : all) {
                    one.get();
                }
            }
            try (ExecutorService pool = Executors.newVirtualThreadPerTaskExecutor()) {
                List<Future<?>> all = new ArrayList<>();
                for (int i = 0; i < VIRTUAL; i++) {
                    int seed = i % 7;
                    boolean counts = i % 50 == 0;
                    all.add(
                            pool.submit(() -> {
                                assertThat(normed(device, weight, seed))
                                        .containsExactly(wanted.get(seed));
                                if (counts) {
                                    peak.accumulateAndGet(threads(), Math::max);
                                }
                                return null;
                            }));
                }
                for (Future<?> one : all) {
                    one.get();
                }
            }
            // the callers, the carriers of virtual threads (more where one is pinned in a call),
            // and
            // what the JVM starts for itself: compilers, timers
            int processors = Runtime.getRuntime().availableProcessors();
            assertThat(peak.get())
                    .as("threads of the system, %d before", before)
                    .isLessThanOrEqualTo(before + PLATFORM + 4L * processors + 16);
            assertThat(device.memory().buffers()).isOne();
        }
    }

    private static float[] normed(Device device, Tensor weight, int seed) {
        float[] values = new float[40];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) Math.sin(seed + 0.3 * i);
        }
        try (Ops ops = device.ops()) {
            Tensor x = ops.empty(DType.F32, 10, 4);
            x.write(values);
            return ops.layerNorm(x, weight, null, 1e-5).toFloats();
        }
    }

    private static long threads() throws IOException {
        try (var tasks = Files.list(Path.of("/proc/self/task"))) {
            return tasks.count();
        }
    }
}
