package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** A snapshot is what was there when it was taken, and asks for no more than that to have run. */
class SnapshotTest {
    @ParameterizedTest
    @ValueSource(strings = {"cpu", "sim"})
    void holdsWhatWasThere(String name) {
        try (Device device = Device.open(name)) {
            Tensor x = Tensor.of(device, new float[] {1, 2, 3, 4, 5, 6}, 2, 3);
            Tensor half = Tensor.empty(device, DType.BF16, Purpose.OTHER);
            try (Ops ops = device.ops();
                    Snapshot empty = ops.snapshot(ops.empty(DType.F32, 0))) {
                ops.fill(half, 0.5);
                Snapshot first = ops.snapshot(x.permute(1, 0));
                Snapshot scalar = ops.snapshot(half);
                ops.fill(x, 7);
                ops.fill(half, 8);
                Snapshot second = ops.snapshot(x);
                x.write(new float[6]);
                assertThat(second.toFloats()).containsExactly(7, 7, 7, 7, 7, 7);
                assertThat(first.toFloats()).containsExactly(1, 4, 2, 5, 3, 6);
                assertThat(first.toFloats()).as("again").containsExactly(1, 4, 2, 5, 3, 6);
                assertThat(scalar.toFloats()).containsExactly(0.5f);
                assertThat(empty.toFloats()).isEmpty();
                x.close();
                first.close();
                assertThatThrownBy(first::toFloats)
                        .isInstanceOf(IllegalStateException.class)
                        .hasMessageContaining("closed");
                assertThatThrownBy(first::close).isInstanceOf(IllegalStateException.class);
                assertThat(second.toFloats()).as("outlives x").hasSize(6);
                second.close();
                scalar.close();
            }
            half.close();
            assertThat(device.memory().buffers()).isZero();
            assertThat(device.leaks.count()).isZero();
        }
    }

    /** On cpu, where all streams share a queue; a GPU's streams are apart by nature. */
    @Test
    void waitsForNothingBehindIt() {
        try (Device device = Device.open("cpu")) {
            Tensor x = Tensor.of(device, new float[512 * 512], 512, 512);
            try (Ops ops = device.ops()) {
                ops.matmul(x, x);
                ops.await();
                long begin;
                long read;
                try (Snapshot snapshot = ops.snapshot(x)) {
                    begin = System.nanoTime();
                    for (int i = 0; i < 200; i++) { // as many as the queue holds
                        try (Ops scope = ops.scope()) {
                            scope.matmul(x, x);
                        }
                    }
                    float[] values = snapshot.toFloats();
                    read = System.nanoTime() - begin;
                    assertThat(values).containsOnly(0);
                }
                ops.await();
                assertThat(read).isLessThan((System.nanoTime() - begin) / 2);
            }
            x.close();
        }
    }
}
