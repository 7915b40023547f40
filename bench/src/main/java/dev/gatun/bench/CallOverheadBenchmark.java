package dev.gatun.bench;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import dev.gatun.kernels.internal.GatunH;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OperationsPerInvocation;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

import java.util.concurrent.TimeUnit;

/**
 * What a call costs before any work is done: the downcall itself, and a checked op on a tiny
 * tensor.
 *
 * <p>Ops are enqueued in batches with a wait after each, outside the count's noise: a batch stays
 * below what the device's queue holds, so that the time is that of submitting, or of executing
 * where that is longer.
 */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Warmup(iterations = 5, time = 1)
@Measurement(iterations = 5, time = 1)
@Fork(
        value = 3,
        jvmArgsAppend = {"--enable-native-access=ALL-UNNAMED", "-Xms256m", "-Xmx256m"})
public class CallOverheadBenchmark {
    private static final int BATCH = 256;

    private Device device;
    private Ops ops;
    private Tensor scalar;
    private Tensor x;
    private Tensor weight;
    private Tensor bias;

    @Setup(Level.Trial)
    public void open() {
        device = Device.open("cpu");
        ops = device.ops();
        scalar = Tensor.empty(device, DType.F32, Purpose.OTHER, 1);
        x = Tensor.of(device, new float[] {1, 2, 3, 4, 5, 6, 7, 8}, 1, 8);
        weight = Tensor.of(device, new float[] {1, 1, 1, 1, 1, 1, 1, 1}, 8);
        bias = Tensor.of(device, new float[8], 8);
    }

    @TearDown(Level.Trial)
    public void close() {
        ops.close();
        for (Tensor tensor : new Tensor[] {scalar, x, weight, bias}) {
            tensor.close();
        }
        device.close();
    }

    /** An empty downcall. */
    @Benchmark
    public void nop() {
        GatunH.gatun_nop();
    }

    /** gatun_fill on f32[1]: checks, enqueues, executes. */
    @Benchmark
    @OperationsPerInvocation(BATCH)
    public void fill() {
        for (int i = 0; i < BATCH; i++) {
            ops.fill(scalar, i);
        }
        ops.await();
    }

    /**
     * layer_norm on f32[1, 8]: makes its result, checks six operands, enqueues, executes, frees.
     */
    @Benchmark
    @OperationsPerInvocation(BATCH)
    public Tensor layerNorm() {
        Tensor last = x;
        for (int i = 0; i < BATCH; i++) {
            last = ops.layerNorm(x, weight, bias, 1e-5);
        }
        ops.await();
        ops.reset();
        return last;
    }
}
