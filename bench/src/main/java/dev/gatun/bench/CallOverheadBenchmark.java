package dev.gatun.bench;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import dev.gatun.kernels.internal.GatunH;
import java.util.concurrent.TimeUnit;
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

/**
 * What a call costs its caller before any work is done: the downcall itself, and a checked op on a
 * tiny tensor.
 *
 * <p>Calls come in bursts that the device's queue holds, and the queue is empty before each,
 * outside the time that counts: this is the cost of checking and submitting. The {@code
 * ...Executed} ones wait within it, so that they show the device's own pace where that is slower.
 */
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Warmup(iterations = 5, time = 1)
@Measurement(iterations = 5, time = 1)
@Fork(
        value = 3,
        jvmArgsAppend = {"--enable-native-access=ALL-UNNAMED", "-Xms256m", "-Xmx256m"})
public class CallOverheadBenchmark {
    private static final int BURST = 64;

    /** The library, loaded. */
    @State(Scope.Benchmark)
    public static class Loaded {
        String version = "";

        @Setup(Level.Trial)
        public void load() {
            version = Device.version();
        }
    }

    /** A device and tiny tensors. */
    @State(Scope.Thread)
    public static class Tiny {
        Device device;
        Ops ops;
        Tensor scalar;
        Tensor x;
        Tensor weight;
        Tensor bias;

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

        void fill() {
            for (int i = 0; i < BURST; i++) {
                ops.fill(scalar, i);
            }
        }

        Tensor layerNorm() {
            Tensor last = x;
            for (int i = 0; i < BURST; i++) {
                last = ops.layerNorm(x, weight, bias, 1e-5);
            }
            return last;
        }
    }

    /** The same, with a queue that is empty before each burst. */
    public static class Drained extends Tiny {
        @Setup(Level.Invocation)
        public void drain() {
            ops.await();
            ops.reset();
        }
    }

    /** An empty downcall. */
    @Benchmark
    public void nop(Loaded library) {
        GatunH.gatun_nop();
    }

    /** gatun_fill on f32[1]: checked and submitted. */
    @Benchmark
    @OperationsPerInvocation(BURST)
    public void fill(Drained tiny) {
        tiny.fill();
    }

    /** gatun_fill on f32[1]: until it is done. */
    @Benchmark
    @OperationsPerInvocation(BURST)
    public void fillExecuted(Tiny tiny) {
        tiny.fill();
        tiny.ops.await();
    }

    /** layer_norm on f32[1, 8]: makes its result, checks four operands, submits. */
    @Benchmark
    @OperationsPerInvocation(BURST)
    public Tensor layerNorm(Drained tiny) {
        return tiny.layerNorm();
    }

    /** layer_norm on f32[1, 8]: until it is done and its result is freed. */
    @Benchmark
    @OperationsPerInvocation(BURST)
    public Tensor layerNormExecuted(Tiny tiny) {
        Tensor last = tiny.layerNorm();
        tiny.ops.await();
        tiny.ops.reset();
        return last;
    }
}
