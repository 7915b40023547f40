package dev.gatun.bench.check;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.SplittableRandom;
import jcuda.Pointer;
import jcuda.Sizeof;
import jcuda.jcublas.JCublas2;
import jcuda.jcublas.cublasHandle;
import jcuda.jcublas.cublasPointerMode;
import jcuda.runtime.JCuda;
import jcuda.runtime.cudaMemcpyKind;

/**
 * JCuda beside Gatun in one process, on the same memory: its pointers as tensors and tensors as its
 * pointers, without a copy, and its cuBLAS. What JCuda 12.6 has of native code wants the libraries
 * of CUDA 12; where they are missing its classes throw an {@link UnsatisfiedLinkError}.
 */
final class JCudaPeer implements AutoCloseable {
    private final cublasHandle handle = new cublasHandle();

    /** Opens cuBLAS in the context that is current on this thread. */
    JCudaPeer() {
        JCublas2.setExceptionsEnabled(true);
        JCublas2.cublasCreate(handle);
    }

    /** The memory of a contiguous tensor, which must outlive the pointer. */
    static Pointer pointer(Tensor tensor) {
        if (!tensor.contiguous()) {
            throw new IllegalArgumentException(
                    "pointer: a pointer has no strides, %s has gaps".formatted(tensor));
        }
        return new Address(tensor.deviceAddress());
    }

    /** A tensor in memory that JCuda allocated, which must outlive the tensor. */
    static Tensor tensor(Device device, Pointer memory, DType dtype, long... shape) {
        long address = new Address(memory).value();
        if (address == 0) {
            throw new IllegalArgumentException(
                    "tensor: %s is null or points into the Java heap".formatted(memory));
        }
        // Tensor.wrap takes what the shape needs
        MemorySegment unbounded = MemorySegment.ofAddress(address).reinterpret(Long.MAX_VALUE);
        return Tensor.wrap(device, unbounded, dtype, shape);
    }

    /** JCuda keeps addresses to itself and to subclasses. */
    private static final class Address extends Pointer {
        Address(long address) {
            super(address);
        }

        Address(Pointer pointer) {
            super(pointer);
        }

        long value() {
            return getNativePointer() == 0 ? 0 : getNativePointer() + getByteOffset();
        }
    }

    /**
     * A sum by Gatun of what JCuda allocated and wrote; JCuda reads the result.
     *
     * @throws IllegalStateException if a value is wrong
     */
    static void checkInterop(Device device) {
        int n = 100_003;
        SplittableRandom random = new SplittableRandom(n);
        float[] values = new float[n];
        for (int i = 0; i < n; i++) {
            values[i] = random.nextFloat();
        }
        long bytes = (long) n * Sizeof.FLOAT;
        JCuda.setExceptionsEnabled(true);
        Pointer memory = new Pointer();
        JCuda.cudaMalloc(memory, bytes);
        try {
            JCuda.cudaMemcpy(
                    memory, Pointer.to(values), bytes, cudaMemcpyKind.cudaMemcpyHostToDevice);
            float[] sums = new float[n];
            try (Tensor x = tensor(device, memory, DType.F32, n);
                    Ops ops = device.ops()) {
                Tensor sum = ops.add(x, x);
                device.await(); // JCuda's copy is on another stream
                JCuda.cudaMemcpy(
                        Pointer.to(sums),
                        pointer(sum),
                        bytes,
                        cudaMemcpyKind.cudaMemcpyDeviceToHost);
            }
            for (int i = 0; i < n; i++) {
                if (sums[i] != values[i] + values[i]) {
                    throw new IllegalStateException(
                            "JCuda read %s for %s + %s, element %d of %d"
                                    .formatted(sums[i], values[i], values[i], i, n));
                }
            }
        } finally {
            JCuda.cudaFree(memory);
        }
    }

    /** c = a b, row-major n x n, f32 accumulation; operands bf16 or f32. Enqueued, not awaited. */
    void gemm(Tensor c, Tensor a, Tensor b, int n, boolean bf16) {
        int type = bf16 ? Cuda.R_16BF : Cuda.R_32F;
        Pointer one = Pointer.to(new float[] {1});
        Pointer zero = Pointer.to(new float[] {0});
        JCublas2.cublasSetPointerMode(handle, cublasPointerMode.CUBLAS_POINTER_MODE_HOST);
        // column-major cuBLAS sees the transposes: cᵀ = bᵀ aᵀ
        JCublas2.cublasGemmEx_new(
                handle,
                0,
                0,
                n,
                n,
                n,
                one,
                pointer(b),
                type,
                n,
                pointer(a),
                type,
                n,
                zero,
                pointer(c),
                type,
                n,
                Cuda.COMPUTE_32F,
                Cuda.DEFAULT_ALGORITHM);
    }

    @Override
    public void close() {
        JCublas2.cublasDestroy(handle);
    }
}
