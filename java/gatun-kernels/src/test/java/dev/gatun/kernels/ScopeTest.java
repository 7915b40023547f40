package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Who owns what, for how long, and on which thread. */
class ScopeTest {
    private Device device;

    @BeforeEach
    void open() {
        device = Cpu.open();
    }

    @AfterEach
    void close() {
        if (device.isOpen()) {
            assertThat(device.memory().buffers()).as("buffers left").isZero();
            device.close();
        }
    }

    private static float[] counting(int n) {
        float[] out = new float[n];
        for (int i = 0; i < n; i++) {
            out[i] = i;
        }
        return out;
    }

    @Test
    void aTensorDiesWithItsScope() {
        Tensor dead;
        try (Ops ops = device.ops()) {
            dead = ops.zeros(DType.F32, 2, 3);
            assertThat(dead).hasToString("f32[2, 3] on cpu");
            assertThat(device.memory().buffers()).isOne();
        }
        assertThat(device.memory().buffers()).isZero();
        assertThatIllegalStateException()
                .isThrownBy(dead::toFloats)
                .withMessageMatching(
                        "f32\\[2, 3] on cpu can no longer be used: its scope \\(ops \\d+\\) is"
                                + " closed");
        try (Ops ops = device.ops()) {
            assertThatIllegalStateException()
                    .isThrownBy(() -> ops.add(dead, dead))
                    .withMessageContaining("can no longer be used");
            assertThatIllegalStateException().isThrownBy(() -> dead.view(6));
        }
    }

    @Test
    void nestedScopesDropWhatIsNotKept() {
        try (Ops ops = device.ops()) {
            Tensor x = ops.full(DType.F32, 1, 4);
            Tensor kept;
            Tensor dropped;
            try (Ops layer = ops.scope()) {
                dropped = layer.add(x, x);
                kept = layer.keep(layer.add(dropped, x));
                assertThat(layer.keep(x)).as("what lives longer stays").isSameAs(x);
            }
            assertThat(kept.toFloats()).containsOnly(3);
            assertThatIllegalStateException()
                    .isThrownBy(dropped::toFloats)
                    .withMessageContaining("a scope of ops");
            assertThat(device.memory().buffers()).isEqualTo(2);
        }
    }

    @Test
    void keepFromTheRootGoesToTheCaller() {
        Tensor kept;
        try (Ops ops = device.ops()) {
            kept = ops.keep(ops.full(DType.F32, 7, 3));
            assertThatIllegalStateException()
                    .isThrownBy(() -> ops.keep(ops.zeros(DType.F32, 4).slice(0, 1, 2)))
                    .withMessageContaining("is a view");
        }
        assertThat(kept.toFloats()).containsExactly(7, 7, 7);
        kept.close();
        assertThatIllegalStateException().isThrownBy(kept::close);
    }

    @Test
    void keepRefusesWhatIsAnotherScopes() {
        try (Ops a = device.ops();
                Ops b = device.ops()) {
            Tensor x = a.zeros(DType.F32, 1);
            assertThatIllegalStateException()
                    .isThrownBy(() -> b.keep(x))
                    .withMessageContaining("belongs to ops");
        }
    }

    @Test
    void resetStartsOver() {
        try (Ops ops = device.ops()) {
            Tensor first = ops.randn(DType.F32, 5);
            float[] values = first.toFloats();
            ops.reset();
            assertThatIllegalStateException()
                    .isThrownBy(first::toFloats)
                    .withMessageContaining("was reset");
            assertThat(device.memory().buffers()).isZero();
            assertThat(ops.randn(DType.F32, 5).toFloats()).containsExactly(values);
            try (Ops inner = ops.scope()) {
                inner.zeros(DType.F32, 1);
                assertThatIllegalStateException().isThrownBy(ops::reset);
                assertThatIllegalStateException().isThrownBy(ops::close);
            }
        }
    }

    @Test
    void closingTwiceThrows() {
        Ops ops = device.ops();
        ops.close();
        assertThatIllegalStateException().isThrownBy(ops::close).withMessageContaining("already");
        assertThatIllegalStateException().isThrownBy(() -> ops.zeros(DType.F32, 1));
        Tensor tensor = Tensor.of(device, new float[] {1}, 1);
        tensor.close();
        assertThatIllegalStateException().isThrownBy(tensor::close);
        device.close();
        assertThatIllegalStateException().isThrownBy(device::close);
        assertThatIllegalStateException().isThrownBy(device::ops);
    }

    @Test
    void aScopesTensorCannotBeClosedByHand() {
        try (Ops ops = device.ops();
                Tensor own = Tensor.of(device, counting(4), 4)) {
            Tensor x = ops.zeros(DType.F32, 2);
            assertThatIllegalStateException()
                    .isThrownBy(x::close)
                    .withMessageContaining("belongs to ops");
            assertThatIllegalStateException()
                    .isThrownBy(() -> own.view(2, 2).close())
                    .withMessageContaining("view");
        }
    }

    @Test
    void viewsShareTheBufferAndItsLife() {
        Tensor own = Tensor.of(device, counting(24), 2, 3, 4);
        Tensor view = own.permute(2, 0, 1).slice(1, 1, 2).select(0, 3);
        assertThat(view.shape()).containsExactly(1, 3);
        assertThat(view.toFloats()).containsExactly(15, 19, 23);
        assertThat(own.view(-1, 12).select(0, 1).toFloats()[0]).isEqualTo(12);
        assertThat(own.slice(2, 1, 3).toFloats())
                .containsExactly(1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22);
        own.slice(0, 1, 2).write(new float[12]);
        assertThat(own.toFloats()[11]).isEqualTo(11);
        assertThat(own.toFloats()[12]).isZero();
        own.close();
        assertThatIllegalStateException().isThrownBy(view::toFloats);
    }

    @Test
    void viewsThatNeedACopySaySo() {
        try (Tensor own = Tensor.of(device, counting(24), 2, 3, 4)) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> own.permute(1, 0, 2).view(24))
                    .withMessageContaining("contiguous()");
            assertThatIllegalArgumentException().isThrownBy(() -> own.view(5, 5));
            assertThatIllegalArgumentException().isThrownBy(() -> own.slice(1, 2, 4));
            assertThatIllegalArgumentException().isThrownBy(() -> own.select(3, 0));
            assertThatIllegalArgumentException().isThrownBy(() -> own.permute(0, 0, 1));
            // a packed projection: heads split from a strided dimension
            Tensor q = own.view(6, 4).slice(1, 0, 2).view(2, 3, 1, 2);
            assertThat(q.toFloats()).containsExactly(0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21);
        }
    }

    @Test
    void hostValuesAreChecked() {
        try (Ops ops = device.ops();
                Tensor own = Tensor.of(device, counting(4), 4)) {
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> ops.ids(new int[] {1, 2, 3, 50_257}, 50_257, 4))
                    .withMessage("ids: 50257 at index 3 is not in [0, 50257)");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> ops.labels(new int[] {-100, -1}, 10, -100, 2))
                    .withMessage("labels: -1 at index 1 is not in [0, 10) and not -100");
            assertThatIllegalArgumentException().isThrownBy(() -> own.write(new float[3]));
            assertThatIllegalArgumentException().isThrownBy(() -> own.write(new int[4]));
            assertThatIllegalArgumentException().isThrownBy(own::toInts);
            assertThatIllegalArgumentException().isThrownBy(own::item);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> ops.upload(new float[3], 2, 2))
                    .withMessageContaining("4 elements");
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> ops.zeros(DType.F32, 1, 1, 1, 1, 1, 1, 1));
            assertThatIllegalArgumentException().isThrownBy(() -> ops.zeros(DType.F32, -1));
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> ops.zeros(DType.F32, Long.MAX_VALUE, 8));
        }
    }

    @Test
    void everyDtypeTravels() {
        try (Ops ops = device.ops()) {
            float[] values = {0, -0f, 1.5f, -65504, Float.NaN, Float.POSITIVE_INFINITY, 1e-7f};
            for (DType dtype : new DType[] {DType.F32, DType.F16, DType.BF16}) {
                Tensor t = ops.empty(dtype, values.length);
                t.write(values);
                float[] back = t.toFloats();
                for (int i = 0; i < values.length; i++) {
                    assertThat(Float.floatToIntBits(back[i]))
                            .as("%s %s", dtype, values[i])
                            .isEqualTo(
                                    Float.floatToIntBits((float) OpCase.rounded(values[i], dtype)));
                }
            }
            Tensor longs = ops.empty(DType.I64, 3);
            longs.write(new long[] {Long.MIN_VALUE, -1, Long.MAX_VALUE});
            assertThat(longs.toLongs()).containsExactly(Long.MIN_VALUE, -1, Long.MAX_VALUE);
            Tensor bytes = ops.full(DType.U8, 200, 2);
            assertThat(bytes.toInts()).containsExactly(200, 200);
            assertThat(ops.full(DType.I8, -3, 1).item()).isEqualTo(-3);
            assertThat(ops.zeros(DType.F32, 3, 0).toFloats()).isEmpty();
            // more than one staging area
            float[] many = counting(300_000);
            assertThat(ops.upload(many, many.length).toFloats()).containsExactly(many);
        }
    }

    @Test
    void segmentIsTheMemoryItself() {
        Tensor own = Tensor.of(device, counting(6), 6);
        MemorySegment segment = own.slice(0, 2, 5).segment();
        assertThat(segment.byteSize()).isEqualTo(12);
        segment.setAtIndex(ValueLayout.JAVA_FLOAT, 1, 42);
        assertThat(own.toFloats()).containsExactly(0, 1, 2, 42, 4, 5);
        assertThat(segment.address()).isEqualTo(own.deviceAddress() + 8);
        own.close();
        assertThatIllegalStateException().isThrownBy(() -> segment.get(ValueLayout.JAVA_FLOAT, 0));
    }

    @Test
    void foreignMemoryIsUsedInPlace() {
        try (Arena arena = Arena.ofConfined();
                Ops ops = device.ops()) {
            MemorySegment memory = arena.allocate(4 * 8, 64);
            for (int i = 0; i < 8; i++) {
                memory.setAtIndex(ValueLayout.JAVA_FLOAT, i, i);
            }
            try (Tensor wrapped = Tensor.wrap(device, memory, DType.F32, 2, 3)) {
                assertThat(ops.add(wrapped, wrapped).toFloats()).containsExactly(0, 2, 4, 6, 8, 10);
                ops.fill(wrapped, -1);
            }
            assertThat(memory.getAtIndex(ValueLayout.JAVA_FLOAT, 5)).isEqualTo(-1);
            assertThat(memory.getAtIndex(ValueLayout.JAVA_FLOAT, 6)).isEqualTo(6);
            assertThatIllegalArgumentException()
                    .isThrownBy(() -> Tensor.wrap(device, memory, DType.F32, 9));
            assertThatIllegalArgumentException()
                    .isThrownBy(() ->
                            Tensor.wrap(device, MemorySegment.ofArray(new float[4]), DType.F32, 4));
        }
    }

    @Test
    void anOpsBelongsToOneThread() throws Exception {
        try (var other = Executors.newSingleThreadExecutor();
                Ops ops = device.ops()) {
            Tensor x = ops.zeros(DType.F32, 3);
            Future<?> used = other.submit(() -> ops.zeros(DType.F32, 1));
            assertThatThrownBy(used::get)
                    .isInstanceOf(ExecutionException.class)
                    .hasCauseInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("adopt()");
            assertThatThrownBy(other.submit(x::toFloats)::get)
                    .hasCauseInstanceOf(IllegalStateException.class);
            assertThatThrownBy(other.submit(ops::close)::get)
                    .hasCauseInstanceOf(IllegalStateException.class);
            assertThat(other.submit(() -> ops.adopt().add(x, x).toFloats()).get()).hasSize(3);
            assertThatIllegalStateException().isThrownBy(() -> ops.zeros(DType.F32, 1));
            ops.adopt();
        }
    }

    @Test
    void threadsShareADevice() throws Exception {
        try (Tensor weight = Tensor.of(device, counting(64 * 64), 64, 64);
                var pool = Executors.newVirtualThreadPerTaskExecutor()) {
            List<Future<Float>> sums = new ArrayList<>();
            for (int t = 0; t < 8; t++) {
                int factor = t;
                sums.add(
                        pool.submit(() -> {
                            float sum = 0;
                            try (Ops ops = device.ops()) {
                                for (int i = 0; i < 50; i++) {
                                    Tensor x = ops.full(DType.F32, factor, 1, 64);
                                    sum += ops.matmul(x, weight).toFloats()[0];
                                    ops.reset();
                                }
                            }
                            return sum;
                        }));
            }
            float column = 64 * 63 / 2f * 64;
            for (int t = 0; t < 8; t++) {
                assertThat(sums.get(t).get()).as("thread %d", t).isEqualTo(50 * t * column);
            }
        }
    }

    @Test
    void aliasesAreRefused() {
        try (Ops ops = device.ops()) {
            Tensor x = ops.zeros(DType.F32, 8);
            assertThatThrownBy(() -> ops.copy(x.slice(0, 0, 4), x.slice(0, 2, 6)))
                    .isInstanceOf(GatunException.class)
                    .hasMessageStartingWith("copy:");
            assertThatThrownBy(() -> ops.add(x, ops.zeros(DType.F32, 7)))
                    .isInstanceOfSatisfying(
                            GatunException.class,
                            e -> {
                                assertThat(e.status())
                                        .isEqualTo(GatunException.Status.INVALID_ARGUMENT);
                                assertThat(e.op()).isEqualTo("add");
                            });
        }
    }

    @Test
    void tensorsOfAnotherDeviceAreRefused() {
        try (Device other = Cpu.open();
                Ops here = device.ops();
                Ops there = other.ops()) {
            Tensor x = there.zeros(DType.F32, 2);
            assertThatThrownBy(() -> here.add(x, x))
                    .isInstanceOfSatisfying(
                            GatunException.class,
                            e ->
                                    assertThat(e.status())
                                            .isEqualTo(GatunException.Status.INVALID_HANDLE));
        }
    }

    @Test
    void aDeviceTakesItsTensorsAlong() {
        Tensor own = Tensor.of(device, counting(2), 2);
        Ops ops = device.ops();
        ops.zeros(DType.F32, 2);
        device.close();
        assertThatIllegalStateException()
                .isThrownBy(own::toFloats)
                .withMessageContaining("its device cpu is closed");
        own.close();
        ops.close();
    }

    @Test
    void itSaysWhatItIs() {
        assertThat(device.name()).isEqualTo("cpu");
        assertThat(device.description()).isNotBlank();
        assertThat(device.threads()).isEqualTo(2);
        assertThat(device.memory().budgetBytes()).isPositive();
        try (Ops ops = device.ops()) {
            device.resetPeak();
            long before = device.memory().peakBytes();
            ops.zeros(DType.F32, 1 << 20);
            assertThat(device.memory().peakBytes()).isGreaterThanOrEqualTo(before + (4 << 20));
            device.profile(true);
            ops.matmul(ops.zeros(DType.F32, 8, 4), ops.zeros(DType.F32, 4, 2));
            assertThat(device.profile())
                    .filteredOn(p -> p.op().equals("matmul"))
                    .singleElement()
                    .satisfies(p -> {
                        assertThat(p.calls()).isOne();
                        assertThat(p.flops()).isEqualTo(2 * 8 * 4 * 2);
                        assertThat(p.bytes()).isEqualTo(4 * (32 + 8 + 16));
                    });
            device.profile(false);
        }
        device.trim();
        assertThatThrownBy(() -> Device.open("abacus"))
                .isInstanceOf(GatunException.class)
                .hasMessageContaining("abacus");
        assertThat(Device.available()).anyMatch(a -> a.here() && a.name().equals("cpu"));
        assertThat(Device.version()).contains("0.1.0");
    }
}
