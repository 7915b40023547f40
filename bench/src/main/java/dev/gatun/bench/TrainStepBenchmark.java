package dev.gatun.bench;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Tape;
import dev.gatun.kernels.Tensor;
import dev.gatun.trainer.Optimizer;
import dev.gatun.trainer.TrainingArguments;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import java.util.Random;
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

    private Gpt2Config config;
    private int batch;
    private Device opened;
    private Gpt2 model;
    private Ops ops;
    private Optimizer optimizer;
    private int[] ids;
    private int[] targets;

    @Setup
    public void open() {
        opened = device.equals("best") ? Device.best() : Device.open(device);
        boolean demo = size.equals("demo");
        config =
                demo
                        ? Gpt2Config.of(2048, TIME, 3, 6, 192)
                        : Gpt2Config.of(50257, 1024, 12, 12, 768);
        batch = demo ? 4 : 2;
        model = Gpt2.create(config, opened, 1, null);
        model.computeIn(dtype);
        ops = opened.ops();
        optimizer =
                new Optimizer(
                        ops,
                        model.parameters(),
                        TrainingArguments.of("unused").weightDecay(0.1).adam(0.9, 0.95, 1e-8));
        var random = new Random(1);
        ids = random.ints((long) batch * TIME, 0, config.vocabulary()).toArray();
        targets = random.ints((long) batch * TIME, 0, config.vocabulary()).toArray();
    }

    @Benchmark
    public double step() {
        try (Ops scope = ops.scope();
                Tape tape = opened.tape()) {
            Tensor factor = scope.upload(new float[] {1f / ids.length}, 1);
            Tensor loss =
                    model.loss(
                            tape,
                            tape.ids(ids, config.vocabulary(), batch, TIME),
                            tape.labels(targets, config.vocabulary(), -100, batch, TIME),
                            factor);
            tape.backward(loss);
            var clipped = optimizer.clip(scope, 1);
            optimizer.step(scope, 3e-4, clipped.factor());
            return loss.item();
        }
    }

    @TearDown
    public void close() {
        System.out.printf("%npeak device memory: %,d bytes%n", opened.memory().peakBytes());
        optimizer.close();
        ops.close();
        model.close();
        opened.close();
    }
}
