package dev.gatun.bench;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * One training step: forward, backward, clip, AdamW; in f32 and in bf16 beside f32 weights. Of
 * GPT-2 124M's shape with B = 2, T = 256 (the peer of {@code bench/peers/pytorch_gpt2.py step}), or
 * of the demo's with B = 4, T = 256 ({@code -p size=demo}). Prints the device's peak memory at the
 * end.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.SingleShotTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Warmup(iterations = 2)
@Measurement(iterations = 10)
@Fork(1)
public class TrainStepBenchmark {
    private static final int TIME = 256;

    @Param("best")
    public String device;

    @Param({"F32", "BF16"})
    public DType dtype;

    @Param("124M")
    public String size;

    private Device opened;
    private Gpt2Training training;

    @Setup
    public void open() {
        opened = device.equals("best") ? Device.best() : Device.open(device);
        int batch = size.equals("demo") ? 4 : 2;
        training = new Gpt2Training(opened, Gpt2Training.config(size), dtype, batch, TIME, 1);
    }

    @Benchmark
    public double step() {
        return training.step();
    }

    @TearDown
    public void close() {
        System.out.printf("%npeak device memory: %,d bytes%n", opened.memory().peakBytes());
        training.close();
        opened.close();
    }
}
