package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.atomic.AtomicReferenceArray;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** One device under many threads: right results, and no thread of the system's for each. */
class ThreadsTest {
    private static final int PLATFORM = 32;
    private static final int VIRTUAL = 1000;
    private static final int ALL = PLATFORM + VIRTUAL;
    private static final int SEEDS = 7;
    private static final int ROUNDS = 3;

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "sim"})
    void threadsShareADevice(String name) throws Exception {
        try (Device device = Device.open(name);
                Tensor weight = Tensor.of(device, new float[] {1, -2, 3, 0.5f}, 4)) {
            List<float[]> wanted = new ArrayList<>();
            for (int seed = 0; seed < SEEDS; seed++) {
                try (Ops ops = device.ops()) {
                    wanted.add(normed(ops, weight, seed).toFloats());
                }
            }
            var together = new Together(device, weight, wanted);
            long before = threads();
            try (ExecutorService platform = Executors.newFixedThreadPool(PLATFORM);
                    ExecutorService virtual = Executors.newVirtualThreadPerTaskExecutor()) {
                for (int i = 0; i < ALL; i++) {
                    int number = i;
                    (i < PLATFORM ? platform : virtual).execute(() -> together.run(number));
                }
            }
            assertThat(together.failure).hasNullValue();
            // the callers, the carriers of virtual threads (more where one is pinned in a call),
            // and what the JVM starts for itself: compilers, timers
            int processors = Runtime.getRuntime().availableProcessors();
            assertThat(together.peak.get())
                    .as("threads of the system, %d before", before)
                    .isBetween((long) PLATFORM, before + PLATFORM + 4L * processors + 16);
            assertThat(device.memory().buffers()).isOne();
        }
    }

    /** What each thread does: none goes on before all have come as far. */
    private static final class Together {
        private final Device device;
        private final Tensor weight;
        private final List<float[]> wanted;
        private final AtomicReferenceArray<Ops> scopes = new AtomicReferenceArray<>(ALL);
        private final CyclicBarrier barrier = new CyclicBarrier(ALL);
        private final AtomicLong peak = new AtomicLong();
        private final AtomicReference<Throwable> failure = new AtomicReference<>();

        Together(Device device, Tensor weight, List<float[]> wanted) {
            this.device = device;
            this.weight = weight;
            this.wanted = wanted;
        }

        void run(int number) {
            try (Ops ops = device.ops()) {
                share(number, ops);
            } catch (Throwable e) {
                failure.compareAndSet(null, e);
                barrier.reset();
            }
        }

        private void share(int number, Ops ops) throws Exception {
            scopes.set(number, ops);
            int seed = number % SEEDS;
            Tensor early = normed(ops, weight, seed);
            all();
            if (number % 50 == 0) {
                peak.accumulateAndGet(threads(), Math::max);
            }
            for (int round = 0; round < ROUNDS; round++) {
                try (Ops each = ops.scope()) { // few buffers: sim looks after all of them
                    assertThat(normed(each, weight, seed).toFloats())
                            .containsExactly(wanted.get(seed));
                }
            }
            assertThat(early.toFloats()).containsExactly(wanted.get(seed));
            Ops another = scopes.get((number + PLATFORM) % ALL);
            assertThatThrownBy(() -> another.zeros(DType.F32, 4))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("an Ops belongs to one thread");
            all(); // or the other scope may be closed, which is another mistake
        }

        // a minute: where one fails, no other waits for it for ever
        private void all() throws Exception {
            barrier.await(1, TimeUnit.MINUTES);
        }
    }

    private static Tensor normed(Ops ops, Tensor weight, int seed) {
        float[] values = new float[40];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) Math.sin(seed + 0.3 * i);
        }
        Tensor x = ops.empty(DType.F32, 10, 4);
        x.write(values);
        return ops.layerNorm(x, weight, null, 1e-5);
    }

    private static long threads() throws IOException {
        try (var tasks = Files.list(Path.of("/proc/self/task"))) {
            return tasks.count();
        }
    }
}
