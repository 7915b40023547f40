package dev.gatun.bench;

import dev.gatun.bench.Rates.Rate;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.DeviceTime;
import dev.gatun.kernels.OpCase;
import dev.gatun.kernels.OpCases;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Tape;
import dev.gatun.kernels.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;
import org.openjdk.jmh.infra.BenchmarkParams;

/**
 * The ops at the shapes of a GPT-2 124M step of 2 × 256 tokens: the very cases that the tests
 * check, so that nobody measures a wrong answer. JMH's time is wall time from the call to the end
 * of the wait; {@link Rates} has the device's own beside it, between two events (on cpu they are of
 * the same clock), and for the forward pass what the case's ideal bytes and flops make of that:
 * rates, and the percentage of the measured {@link Peak}, of copies or of products, whichever
 * binds.
 */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
@Fork(
        value = 1,
        jvmArgsAppend = {"--enable-native-access=ALL-UNNAMED", "-Xmx1g"})
public class OpBenchmark {
    private static final long SEED = 20_261_125;

    @Param({
        "linear qkv f32",
        "linear proj f32",
        "linear_gelu fc f32",
        "head f32",
        "decode head f32",
        "layer_norm f32",
        "layer_norm residual f32",
        "gelu f32",
        "attention f32",
        "attention 1024 f32",
        "attention_decode f32",
        "cross_entropy f32",
        "embedding f32",
        "add f32",
        "adamw 768x3072 f32",
        "global_norm f32",
        "linear qkv bf16",
        "decode head bf16",
        "layer_norm bf16",
        "attention bf16",
        "attention_decode bf16",
        "cross_entropy bf16"
    })
    private String op;

    @Param("best")
    private String device;

    private OpCase useCase;
    private Device opened;
    private Ops ops;
    private List<Tensor> operands;
    private Peak peak;
    private DeviceTime time;
    private double millis;
    private long calls;

    @Setup(Level.Trial)
    public void open() {
        useCase =
                OpCases.gpt2().stream()
                        .filter(c -> c.toString().equals(op))
                        .findFirst()
                        .orElseThrow(() ->
                                new IllegalArgumentException(
                                        "no op case " + op + " in " + OpCases.gpt2()));
        opened = device.equals("best") ? Device.best() : Device.open(device);
        peak = Peak.of(opened, useCase.dtype());
        System.out.printf(
                Locale.ROOT,
                "%n%s reaches %.1f GB/s, and %.1f GFLOP/s in %s%n",
                opened.name(),
                peak.gbPerSec(),
                peak.gflopPerSec(),
                useCase.dtype());
        ops = opened.ops();
        operands = new ArrayList<>();
        double[][] values = useCase.values(SEED);
        for (int i = 0; i < values.length; i++) {
            operands.add(useCase.operands().get(i).upload(opened, values[i]));
        }
    }

    @Setup(Level.Iteration)
    public void start() {
        time = new DeviceTime(opened);
        millis = 0;
        calls = 0;
    }

    @TearDown(Level.Iteration)
    public void rates(BenchmarkParams params) {
        time.close();
        double each = millis / Math.max(1, calls);
        Rate device = new Rate("deviceTime", each * 1e3, "us/op");
        if (!params.getBenchmark().endsWith(".forward")) {
            Rates.of(device); // a case's bytes and flops are those of its forward pass
            return;
        }
        Rates.of(
                device,
                new Rate("bandwidth", useCase.bytes() / each / 1e6, "GB/s"),
                new Rate("arithmetic", useCase.flops() / each / 1e6, "GFLOP/s"),
                new Rate(
                        "ofPeak", 100 * peak.millis(useCase.bytes(), useCase.flops()) / each, "%"));
    }

    @TearDown(Level.Trial)
    public void close() {
        ops.close();
        operands.forEach(Tensor::close);
        opened.close();
    }

    /** The op alone. */
    @Benchmark
    public void forward() {
        millis += time.millis(ops, () -> useCase.forward().run(ops, operands));
        calls++;
        ops.await();
        ops.reset();
    }

    /** The op on a tape, and its backward pass into all operands that are trained. */
    @Benchmark
    public void forwardAndBackward() {
        try (Tape tape = opened.tape()) {
            millis += time.millis(tape, () -> forwardAndBackward(tape));
            calls++;
            tape.await();
        }
    }

    private void forwardAndBackward(Tape tape) {
        for (int i = 0; i < operands.size(); i++) {
            if (useCase.operands().get(i).trained()) {
                tape.watch(operands.get(i));
            }
        }
        Tensor y = useCase.forward().run(tape, operands).getFirst();
        if (useCase.differentiable()) {
            if (y.rank() == 0) {
                tape.backward(y);
            } else {
                tape.backward(y, tape.full(y.dtype(), 1, y.shape()));
            }
        }
    }
}
