package dev.gatun.bench;

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
 * One training step of GPT-2 124M's shape in f32, B = 2, T = 256: forward, backward, clip, AdamW.
 * The peer of {@code bench/peers/pytorch_gpt2.py step}. Prints the device's peak memory at the end.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.SingleShotTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Warmup(iterations = 2)
@Measurement(iterations = 10)
@Fork(1)
public class TrainStepBenchmark {
    private static final int BATCH = 2;
    private static final int TIME = 256;
    private static final int VOCABULARY = 50257;

    @Param("best")
    public String device;

    private Device opened;
    private Gpt2 model;
    private Ops ops;
    private Optimizer optimizer;
    private int[] ids;
    private int[] targets;

    @Setup
    public void open() {
        opened = device.equals("best") ? Device.best() : Device.open(device);
        model =
                Gpt2.create(
                        Gpt2Config.of(VOCABULARY, 1024, 12, 12, 768).dropout(0), opened, 1, null);
        ops = opened.ops();
        optimizer =
                new Optimizer(
                        ops,
                        model.parameters(),
                        TrainingArguments.of("unused").weightDecay(0.1).adam(0.9, 0.95, 1e-8));
        var random = new Random(1);
        ids = random.ints(BATCH * TIME, 0, VOCABULARY).toArray();
        targets = random.ints(BATCH * TIME, 0, VOCABULARY).toArray();
    }

    @Benchmark
    public double step() {
        try (Ops scope = ops.scope();
                Tape tape = opened.tape()) {
            Tensor factor = scope.upload(new float[] {1f / ids.length}, 1);
            Tensor loss =
                    model.loss(
                            tape,
                            tape.ids(ids, VOCABULARY, BATCH, TIME),
                            tape.labels(targets, VOCABULARY, -100, BATCH, TIME),
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
