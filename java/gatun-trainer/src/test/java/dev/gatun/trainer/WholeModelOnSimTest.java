package dev.gatun.trainer;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Parameter;
import dev.gatun.kernels.Rng;
import dev.gatun.kernels.Tape;
import dev.gatun.kernels.Tensor;
import dev.gatun.transformers.GenerationConfig;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * A whole GPT-2 on the GPU's kernels, executed on the host: it learns and writes what it learns and
 * writes on cpu, dropout included. Sizes are no multiples of any tile.
 */
class WholeModelOnSimTest {
    private static final Gpt2Config CONFIG = Gpt2Config.of(101, 40, 2, 3, 36).dropout(0.1);
    private static final int ROWS = 3;
    private static final int TIME = 19;
    private static final int STEPS = 5;
    private static final double RATE = 1e-2;
    private static final int WRITTEN = 16;
    private static final int[] PROMPT = {3, 77, 10, 41, 5};
    private static final long SEED = 20_261_125;

    /** What one device computes. */
    private record Outcome(
            Map<String, float[]> initial,
            float[] logits,
            Map<String, float[]> gradients,
            List<Double> losses,
            List<Double> norms,
            Map<String, float[]> weights,
            List<Integer> written,
            float[] choices) {}

    /**
     * How far apart the devices may be, as a fraction of the largest value of a tensor.
     *
     * @param value of a logit or gradient: both devices round every activation to the dtype, from
     *     sums of different order
     * @param update of what a weight has moved by
     */
    private record Tolerance(double value, double update) {
        static Tolerance of(DType dtype) {
            return dtype == DType.F32 ? new Tolerance(2e-5, 1e-3) : new Tolerance(2e-2, 5e-2);
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16"})
    void learnsAndWritesAsOnCpu(DType dtype) {
        Outcome wanted = run("cpu", dtype, List.of());
        long start = System.nanoTime();
        Outcome had = run("sim", dtype, wanted.written);
        double seconds = (System.nanoTime() - start) / 1e9;
        System.out.printf("sim: GPT-2 in %s trained and read out in %.1f s%n", dtype, seconds);
        assertThat(seconds).as("both dtypes together take less than 30 s").isLessThan(15);
        Tolerance tolerance = Tolerance.of(dtype);
        String seed = " (%s, seed %d)".formatted(dtype, SEED);

        same("initial weights" + seed, had.initial, wanted.initial, 1e-6);
        near("logits" + seed, had.logits, wanted.logits, tolerance.value);
        same("gradient" + seed, had.gradients, wanted.gradients, tolerance.value);
        for (int i = 0; i < STEPS; i++) {
            double loss = wanted.losses.get(i);
            double norm = wanted.norms.get(i);
            String step = " of step " + (i + 1) + seed;
            assertThat(had.losses.get(i))
                    .as("loss" + step)
                    .isEqualTo(loss, within(tolerance.value / 10 * loss));
            assertThat(had.norms.get(i))
                    .as("gradient norm" + step)
                    .isEqualTo(norm, within(tolerance.value * norm));
        }
        assertThat(wanted.losses.getLast())
                .as("it learns")
                .isLessThan(wanted.losses.getFirst() - 0.5);
        for (String name : wanted.weights.keySet()) {
            float[] before = wanted.initial.get(name);
            near(
                    "movement of " + name + seed,
                    moved(had.weights.get(name), had.initial.get(name)),
                    moved(wanted.weights.get(name), before),
                    tolerance.update);
        }
        near("scores of what cpu wrote" + seed, had.choices, wanted.choices, tolerance.value);
        assertThat(had.written).as("what it writes" + seed).isEqualTo(wanted.written);
    }

    /**
     * @param text what is scored at the end; empty: what the model has written
     */
    private static Outcome run(String name, DType dtype, List<Integer> text) {
        try (Device device = Device.open(name);
                Gpt2 model = Gpt2.create(CONFIG, device, SEED, null)) {
            Map<String, float[]> initial = weights(model);
            model.computeIn(dtype);
            float[] logits;
            var gradients = new LinkedHashMap<String, float[]>();
            var losses = new ArrayList<Double>();
            var norms = new ArrayList<Double>();
            TrainingArguments args =
                    // an eps of the size of gradients that would be zero but for rounding: what
                    // Adam makes of these is no property of a device
                    TrainingArguments.of("unused").weightDecay(0.1).adam(0.9, 0.95, 1e-3);
            var random = new Random(SEED);
            int[] ids = random.ints(ROWS * TIME, 0, CONFIG.vocabulary()).toArray();
            int[] targets = random.ints(ROWS * TIME, 0, CONFIG.vocabulary()).toArray();
            for (int i = 0; i < targets.length; i += 7) {
                targets[i] = Batch.IGNORED;
            }
            try (Ops ops = device.ops();
                    Optimizer optimizer = new Optimizer(ops, model.parameters(), args)) {
                logits =
                        model.forward(ops, ops.ids(ids, CONFIG.vocabulary(), ROWS, TIME))
                                .toFloats();
                for (int i = 0; i < STEPS; i++) {
                    double loss = step(model, ops, optimizer, ids, targets, norms, gradients);
                    losses.add(loss);
                }
            }
            Map<String, float[]> weights = weights(model);
            List<Integer> written =
                    model.generate(
                                    PROMPT,
                                    GenerationConfig.of().greedy().maxNewTokens(WRITTEN),
                                    _ -> {})
                            .ids();
            float[] choices = choices(model, text.isEmpty() ? written : text);
            assertThat(written).hasSize(WRITTEN);
            return new Outcome(
                    initial, logits, gradients, losses, norms, weights, written, choices);
        }
    }

    /** Two micro-batches and an update; the gradients of the first step are kept. */
    private static double step(
            Gpt2 model,
            Ops ops,
            Optimizer optimizer,
            int[] ids,
            int[] targets,
            List<Double> norms,
            Map<String, float[]> gradients) {
        double loss = 0;
        Device device = model.device();
        try (Ops scope = ops.scope()) {
            Tensor factor = scope.upload(new float[] {0.5f / targets.length}, 1);
            for (int part = 0; part < 2; part++) {
                try (Tape tape = device.tape(new Rng(SEED, optimizer.step(), part))) {
                    Tensor loss_1 =
                            model.loss(
                                    tape,
                                    tape.ids(ids, CONFIG.vocabulary(), ROWS, TIME),
                                    tape.labels(
                                            targets,
                                            CONFIG.vocabulary(),
                                            Batch.IGNORED,
                                            ROWS,
                                            TIME),
                                    factor);
                    tape.backward(loss_1);
                    loss += loss_1.item();
                }
            }
            if (gradients.isEmpty()) {
                for (Parameter p : model.parameters()) {
                    gradients.put(p.name(), p.leaf().gradient().orElseThrow().toFloats());
                }
            }
            var clipped = optimizer.clip(scope, 1);
            optimizer.learningRate(scope, RATE);
            optimizer.step(scope, clipped.factor());
            norms.add(clipped.norm().item());
        }
        return loss;
    }

    private static Map<String, float[]> weights(Gpt2 model) {
        var weights = new LinkedHashMap<String, float[]>();
        model.parameters().forEach(p -> weights.put(p.name(), p.weight().toFloats()));
        return weights;
    }

    /** The logits of each place that the model wrote at, given a text. */
    private static float[] choices(Gpt2 model, List<Integer> text) {
        int[] ids = new int[PROMPT.length + text.size()];
        System.arraycopy(PROMPT, 0, ids, 0, PROMPT.length);
        for (int i = 0; i < text.size(); i++) {
            ids[PROMPT.length + i] = text.get(i);
        }
        try (Ops ops = model.device().ops()) {
            return model.forward(ops, ops.ids(ids, CONFIG.vocabulary(), 1, ids.length)).toFloats();
        }
    }

    private static float[] moved(float[] after, float[] before) {
        float[] moved = new float[after.length];
        for (int i = 0; i < moved.length; i++) {
            moved[i] = after[i] - before[i];
        }
        return moved;
    }

    private static void same(
            String what, Map<String, float[]> had, Map<String, float[]> wanted, double tolerance) {
        assertThat(had.keySet()).isEqualTo(wanted.keySet());
        wanted.forEach(
                (name, values) -> near(what + " of " + name, had.get(name), values, tolerance));
    }

    private static void near(String what, float[] had, float[] wanted, double tolerance) {
        assertThat(had).as(what).hasSameSizeAs(wanted);
        double largest = 0;
        for (float x : wanted) {
            largest = Math.max(largest, Math.abs(x));
        }
        for (int i = 0; i < wanted.length; i++) {
            assertThat((double) had[i])
                    .as("%s [%d]", what, i)
                    .isEqualTo(wanted[i], within(1e-7 + tolerance * largest));
        }
    }
}
