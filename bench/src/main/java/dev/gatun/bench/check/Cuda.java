package dev.gatun.bench.check;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/**
 * The machine's own CUDA libraries as a peer, called by FFM: the driver's copy, and cuBLAS. They
 * work in the context that Gatun's device has made current on this thread, on its memory, and on
 * the default stream.
 */
final class Cuda implements AutoCloseable {
    private static final int L2_BYTES = 38; // CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE
    static final int R_32F = 0; // cudaDataType: CUDA_R_32F, CUDA_R_16BF
    static final int R_16BF = 14;
    static final int COMPUTE_32F = 68; // CUBLAS_COMPUTE_32F
    static final int DEFAULT_ALGORITHM = -1; // CUBLAS_GEMM_DEFAULT

    private static final MemoryLayout INT = ValueLayout.JAVA_INT;
    private static final MemoryLayout LONG = ValueLayout.JAVA_LONG;
    private static final MemoryLayout POINTER = ValueLayout.ADDRESS;

    private final Arena arena = Arena.ofConfined();
    private final SymbolLookup driver;
    private final MemorySegment start;
    private final MemorySegment end;
    private final MethodHandle record;
    private @Nullable Cublas cublas;

    /** The driver of this machine. */
    Cuda() {
        driver = SymbolLookup.libraryLookup("libcuda.so.1", arena);
        record = call("cuEventRecord", POINTER, POINTER);
        start = event();
        end = event();
    }

    /** The handle of cuBLAS and where it was found. */
    private record Cublas(MemorySegment handle, MethodHandle gemm, String from) {}

    private MethodHandle call(String name, MemoryLayout... parameters) {
        return function(driver, name, parameters);
    }

    private static MethodHandle function(
            SymbolLookup library, String name, MemoryLayout... parameters) {
        return Linker.nativeLinker()
                .downcallHandle(
                        library.findOrThrow(name),
                        FunctionDescriptor.of(ValueLayout.JAVA_INT, parameters));
    }

    private static void check(String what, Object status) {
        if ((int) status != 0) {
            throw new IllegalStateException("%s answered %s".formatted(what, status));
        }
    }

    /** Calls f(arguments...), whose status must be 0. */
    private static void invoke(String what, MethodHandle f, Object... arguments) {
        try {
            check(what, f.invokeWithArguments(arguments));
        } catch (RuntimeException | Error e) {
            throw e;
        } catch (Throwable e) {
            throw new IllegalStateException(what, e);
        }
    }

    private MemorySegment event() {
        MemorySegment made = arena.allocate(ValueLayout.ADDRESS);
        invoke("cuEventCreate", call("cuEventCreate", POINTER, INT), made, 0);
        return made.get(ValueLayout.ADDRESS, 0);
    }

    /** The second-level cache of device 0, in bytes. */
    long cacheBytes() {
        MemorySegment value = arena.allocate(ValueLayout.JAVA_INT);
        invoke(
                "cuDeviceGetAttribute",
                call("cuDeviceGetAttribute", POINTER, INT, INT),
                value,
                L2_BYTES,
                0);
        return value.get(ValueLayout.JAVA_INT, 0);
    }

    private double millis(Runnable work) {
        invoke("cuEventRecord", record, start, MemorySegment.NULL);
        work.run();
        invoke("cuEventRecord", record, end, MemorySegment.NULL);
        invoke("cuEventSynchronize", call("cuEventSynchronize", POINTER), end);
        MemorySegment millis = arena.allocate(ValueLayout.JAVA_FLOAT);
        invoke(
                "cuEventElapsedTime",
                call("cuEventElapsedTime", POINTER, POINTER, POINTER),
                millis,
                start,
                end);
        return millis.get(ValueLayout.JAVA_FLOAT, 0);
    }

    /**
     * Median of several samples of {@code calls} calls on the default stream, in milliseconds a
     * call.
     */
    double median(int calls, Runnable work) {
        work.run();
        double[] samples = new double[7];
        for (int s = 0; s < samples.length; s++) {
            samples[s] =
                    millis(() -> {
                        for (int i = 0; i < calls; i++) {
                            work.run();
                        }
                    })
                            / calls;
        }
        Arrays.sort(samples);
        return samples[samples.length / 2];
    }

    /** What the driver's device-to-device copy moves, read and written, in GB/s. */
    double copyGbPerSec(long to, long from, long bytes) {
        MethodHandle copy = call("cuMemcpyDtoDAsync_v2", LONG, LONG, LONG, POINTER);
        double millis =
                median(
                        10,
                        () ->
                                invoke(
                                        "cuMemcpyDtoDAsync",
                                        copy,
                                        to,
                                        from,
                                        bytes,
                                        MemorySegment.NULL));
        return 2.0 * bytes / millis / 1e6;
    }

    /**
     * What the driver copies between memory of the host and the device, as a pair in GB/s: to the
     * device, from it. The host's memory is pageable, as a Java heap is.
     */
    double[] hostCopyGbPerSec(long device, MemorySegment host) {
        long bytes = host.byteSize();
        MethodHandle to = call("cuMemcpyHtoD_v2", LONG, POINTER, LONG);
        MethodHandle from = call("cuMemcpyDtoH_v2", POINTER, LONG, LONG);
        return new double[] {
            bytes / wallNanos(() -> invoke("cuMemcpyHtoD", to, device, host, bytes)),
            bytes / wallNanos(() -> invoke("cuMemcpyDtoH", from, host, device, bytes))
        };
    }

    /** Median of five calls that wait for their work, after one more. */
    static double wallNanos(Runnable work) {
        double[] samples = new double[5];
        work.run();
        for (int s = 0; s < samples.length; s++) {
            long begin = System.nanoTime();
            work.run();
            samples[s] = System.nanoTime() - begin;
        }
        Arrays.sort(samples);
        return samples[samples.length / 2];
    }

    /** Finds cuBLAS; the sentence says where, or why not. */
    String openCublas() {
        StringBuilder tried = new StringBuilder();
        for (String name : candidates()) {
            try {
                SymbolLookup library = SymbolLookup.libraryLookup(name, arena);
                MemorySegment handle = arena.allocate(ValueLayout.ADDRESS);
                invoke("cublasCreate", function(library, "cublasCreate_v2", POINTER), handle);
                MethodHandle gemm =
                        function(
                                library,
                                "cublasGemmEx",
                                POINTER,
                                INT,
                                INT,
                                INT,
                                INT,
                                INT,
                                POINTER,
                                LONG,
                                INT,
                                INT,
                                LONG,
                                INT,
                                INT,
                                POINTER,
                                LONG,
                                INT,
                                INT,
                                INT,
                                INT);
                cublas = new Cublas(handle.get(ValueLayout.ADDRESS, 0), gemm, name);
                return name;
            } catch (IllegalArgumentException | IllegalStateException e) {
                tried.append(tried.isEmpty() ? "" : ", ").append(name);
                if (e instanceof IllegalStateException) {
                    tried.append(" (").append(e.getMessage()).append(")");
                }
            }
        }
        return "no cuBLAS: tried " + tried;
    }

    boolean hasCublas() {
        return cublas != null;
    }

    private static List<String> candidates() {
        Optional<String> ofPython =
                Facts.output(
                        "python3",
                        "-c",
                        "import sys, glob; print('\\n'.join(f for p in sys.path if p for f in"
                                + " glob.glob(p + '/nvidia/*/lib/libcublas.so.1[23]')))");
        return java.util.stream.Stream.concat(
                        java.util.stream.Stream.of(
                                "libcublas.so.13",
                                "libcublas.so.12",
                                "/usr/local/cuda/lib64/libcublas.so.13",
                                "/usr/local/cuda/lib64/libcublas.so.12"),
                        ofPython.stream().flatMap(String::lines).filter(line -> !line.isBlank()))
                .distinct()
                .toList();
    }

    /** c = a b by cuBLAS, row-major n x n, f32 accumulation; milliseconds a call. */
    double gemmMillis(long c, long a, long b, int n, boolean bf16) {
        Cublas library = cublas;
        if (library == null) {
            throw new IllegalStateException("openCublas() found none");
        }
        MemorySegment one = arena.allocateFrom(ValueLayout.JAVA_FLOAT, 1);
        MemorySegment zero = arena.allocateFrom(ValueLayout.JAVA_FLOAT, 0);
        int type = bf16 ? R_16BF : R_32F;
        // column-major cuBLAS sees the transposes: cᵀ = bᵀ aᵀ
        Runnable product =
                () ->
                        invoke(
                                "cublasGemmEx",
                                library.gemm(),
                                library.handle(),
                                0,
                                0,
                                n,
                                n,
                                n,
                                one,
                                b,
                                type,
                                n,
                                a,
                                type,
                                n,
                                zero,
                                c,
                                type,
                                n,
                                COMPUTE_32F,
                                DEFAULT_ALGORITHM);
        return median(5, product);
    }

    @Override
    public void close() {
        arena.close();
    }
}
