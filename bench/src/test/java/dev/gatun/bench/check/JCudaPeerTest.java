package dev.gatun.bench.check;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Tensor;
import jcuda.Pointer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The addresses only: what JCuda does at them wants a GPU, and gpu-check. */
class JCudaPeerTest {
    private static final float[] VALUES = {1, -2, 3, 0.5f, 5, 6};

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "sim"})
    void aPointerIsATensorOfTheSameMemory(String name) {
        try (Device device = Device.open(name);
                Tensor tensor = Tensor.of(device, VALUES, 2, 3)) {
            Pointer pointer = JCudaPeer.pointer(tensor);
            try (Tensor whole = JCudaPeer.tensor(device, pointer, DType.F32, 3, 2);
                    Tensor rest =
                            JCudaPeer.tensor(device, pointer.withByteOffset(8), DType.F32, 4);
                    Ops ops = device.ops()) {
                assertThat(whole.deviceAddress()).isEqualTo(tensor.deviceAddress());
                assertThat(whole.toFloats()).containsExactly(VALUES);
                ops.fill(rest, 7);
                assertThat(tensor.toFloats()).containsExactly(1, -2, 7, 7, 7, 7);
                assertThat(JCudaPeer.pointer(whole)).isEqualTo(pointer);
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "sim"})
    void aSliceIsAPointerToItsFirstElement(String name) {
        try (Device device = Device.open(name);
                Tensor tensor = Tensor.of(device, VALUES, 2, 3)) {
            Pointer row = JCudaPeer.pointer(tensor.slice(0, 1, 2));
            try (Tensor same = JCudaPeer.tensor(device, row, DType.F32, 3)) {
                assertThat(same.toFloats()).containsExactly(0.5f, 5, 6);
            }
            assertThatThrownBy(() -> JCudaPeer.pointer(tensor.slice(1, 0, 2)))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("has gaps");
        }
    }

    @Test
    void memoryOfTheHeapAndNullAreRefused() {
        try (Device cpu = Device.open("cpu")) {
            for (Pointer pointer : new Pointer[] {Pointer.to(new float[8]), new Pointer()}) {
                assertThatThrownBy(() -> JCudaPeer.tensor(cpu, pointer, DType.F32, 8))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining("Java heap");
            }
        }
    }
}
