package dev.gatun.bench;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.GlobalNorm;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Tape;
import dev.gatun.kernels.Tensor;
import dev.gatun.trainer.Optimizer;
import dev.gatun.trainer.TrainingArguments;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import java.util.Random;

/** A GPT-2 that trains on one batch of random tokens. */
public final class Gpt2Training implements AutoCloseable {
    private final Device device;
    private final Gpt2 model;
    private final Ops ops;
    private final Optimizer optimizer;
    private final int batch;
    private final int time;
    private final int[] ids;
    private final int[] targets;

    public Gpt2Training(
            Device device, Gpt2Config config, DType dtype, int batch, int time, long seed) {
        this.device = device;
        this.batch = batch;
        this.time = time;
        model = Gpt2.create(config, device, seed, null);
        model.computeIn(dtype);
        ops = device.ops();
        optimizer =
                new Optimizer(
                        ops,
                        model.parameters(),
                        TrainingArguments.of("unused").weightDecay(0.1).adam(0.9, 0.95, 1e-8));
        Random random = new Random(seed);
        ids = random.ints((long) batch * time, 0, model.vocabulary()).toArray();
        targets = random.ints((long) batch * time, 0, model.vocabulary()).toArray();
    }

    public Gpt2 model() {
        return model;
    }

    /** Forward, backward, clip, AdamW; the loss, for which it waits. */
    public double step() {
        try (Ops scope = ops.scope();
                Tape tape = device.tape()) {
            Tensor factor = scope.upload(new float[] {1f / ids.length}, 1);
            Tensor loss =
                    model.loss(
                            tape,
                            tape.ids(ids, model.vocabulary(), batch, time),
                            tape.labels(targets, model.vocabulary(), -100, batch, time),
                            factor);
            tape.backward(loss);
            GlobalNorm.Norm clipped = optimizer.clip(scope, 1);
            optimizer.step(scope, 3e-4, clipped.factor());
            return loss.item();
        }
    }

    @Override
    public void close() {
        optimizer.close();
        ops.close();
        model.close();
    }
}
