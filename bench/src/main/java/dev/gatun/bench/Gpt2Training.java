package dev.gatun.bench;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.trainer.Batch;
import dev.gatun.trainer.Optimizer;
import dev.gatun.trainer.TrainingArguments;
import dev.gatun.trainer.TrainingStep;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import java.util.List;
import java.util.Random;

/** A GPT-2 that trains on one batch of random tokens. */
public final class Gpt2Training implements AutoCloseable {
    /** The shape of the smallest GPT-2. */
    public static final Gpt2Config GPT2_124M = Gpt2Config.of(50257, 1024, 12, 12, 768);

    private static final Gpt2Config DEMO = Gpt2Config.of(2048, 256, 3, 6, 192);

    private final Gpt2 model;
    private final Ops ops;
    private final Optimizer optimizer;
    private final TrainingStep training;
    private final List<Batch> window;

    public Gpt2Training(
            Device device, Gpt2Config config, DType dtype, int batch, int time, long seed) {
        model = Gpt2.create(config, device, seed, null);
        model.computeIn(dtype);
        ops = device.ops();
        var args = TrainingArguments.of("unused").weightDecay(0.1).adam(0.9, 0.95, 1e-8);
        optimizer = new Optimizer(ops, model.parameters(), args);
        training = new TrainingStep(model, ops, optimizer, args);
        Random random = new Random(seed);
        int[] ids = random.ints((long) batch * time, 0, model.vocabulary()).toArray();
        int[] targets = random.ints((long) batch * time, 0, model.vocabulary()).toArray();
        window = List.of(new Batch(ids, targets, batch, time));
    }

    /** The demo's shape of "demo", GPT-2 124M's of all else. */
    static Gpt2Config config(String size) {
        return size.equals("demo") ? DEMO : GPT2_124M;
    }

    public Gpt2 model() {
        return model;
    }

    /**
     * Forward, backward, clip, AdamW, captured from the second on; the loss, for which it waits.
     */
    public double step() {
        training.enqueue(window, 3e-4);
        return training.await().loss();
    }

    @Override
    public void close() {
        training.close();
        optimizer.close();
        ops.close();
        model.close();
    }
}
