package dev.gatun.trainer;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** A captured step is the plain one, to the bit; sizes are no multiples of any tile. */
class TrainingStepTest {
    private static final Gpt2Config CONFIG = Gpt2Config.of(101, 40, 2, 3, 36).dropout(0.1);
    private static final int TIME = 19;
    private static final long SEED = 20_261_128;

    /**
     * @param used bytes in use after each step, if it was waited for
     */
    private record Outcome(
            List<TrainingStep.Figures> figures, List<float[]> weights, List<Long> used) {}

    /** Two windows of two batches, a short one as at the end of an epoch, and so on. */
    private static List<List<Batch>> windows() {
        var random = new Random(SEED);
        var windows = new ArrayList<List<Batch>>();
        for (int i = 0; i < 12; i++) {
            boolean shortOne = i % 5 == 4;
            windows.add(
                    shortOne
                            ? List.of(batch(random, 1))
                            : List.of(batch(random, 3), batch(random, 2)));
        }
        return windows;
    }

    private static Batch batch(Random random, int rows) {
        int[] ids = random.ints((long) rows * TIME, 0, CONFIG.vocabulary()).toArray();
        int[] labels = random.ints((long) rows * TIME, 0, CONFIG.vocabulary()).toArray();
        for (int i = random.nextInt(7); i < labels.length; i += 7) {
            labels[i] = Batch.IGNORED; // so that windows differ in what their loss is divided by
        }
        return new Batch(ids, labels, rows, TIME);
    }

    private static Gpt2 model(Device device, DType dtype) {
        Gpt2 model = Gpt2.create(CONFIG, device, SEED, null);
        model.computeIn(dtype);
        return model;
    }

    private static TrainingArguments arguments() {
        return TrainingArguments.of("unused").weightDecay(0.1).maxGradNorm(1).seed(SEED);
    }

    /**
     * @param plain runs each step op by op, as a profile wants it
     * @param late how many steps are enqueued behind the one whose figures are read
     */
    private static Outcome run(String name, DType dtype, boolean plain, int late) {
        try (Device device = Device.open(name);
                Gpt2 model = model(device, dtype)) {
            device.profile(plain);
            var figures = new ArrayList<TrainingStep.Figures>();
            var used = new ArrayList<Long>();
            try (Ops ops = device.ops();
                    Optimizer optimizer = new Optimizer(ops, model.parameters(), arguments());
                    TrainingStep step = new TrainingStep(model, ops, optimizer, arguments())) {
                for (List<Batch> window : windows()) {
                    step.enqueue(window, 1e-2 / (1 + used.size()));
                    if (late == 0) {
                        device.await(); // or what a step holds while it runs is counted, too
                    }
                    used.add(device.memory().usedBytes());
                    if (used.size() > late) {
                        figures.add(step.await());
                    }
                }
                while (figures.size() < used.size()) {
                    figures.add(step.await());
                }
                step.enqueue(windows().getFirst(), 0); // whose figures nobody reads
            }
            assertThat(device.memory().buffers())
                    .as("weights alone")
                    .isEqualTo(
                            model.parameters().stream()
                                    .mapToInt(p -> p.copy() == null ? 1 : 2)
                                    .sum());
            var weights = new ArrayList<float[]>();
            model.parameters().forEach(p -> weights.add(p.weight().toFloats()));
            return new Outcome(figures, weights, used);
        }
    }

    private static void same(Outcome had, Outcome wanted) {
        assertThat(wanted.figures).hasSize(12).allMatch(TrainingStep.Figures::finite);
        assertThat(wanted.figures.getLast().loss())
                .as(
                        "it learns nothing from noise, but dropout and weights differ from step to step")
                .isNotEqualTo(wanted.figures.getFirst().loss());
        assertThat(had.figures).as("seed %d", SEED).isEqualTo(wanted.figures);
        for (int i = 0; i < wanted.weights.size(); i++) {
            assertThat(had.weights.get(i))
                    .as("parameter %d, seed %d", i, SEED)
                    .containsExactly(wanted.weights.get(i));
        }
    }

    @ParameterizedTest
    @CsvSource({"cpu, F32", "cpu, BF16", "sim, F32", "sim, BF16"})
    void givesTheSameBitsCapturedAndPlain(String name, DType dtype) {
        Outcome plain = run(name, dtype, true, 0);
        Outcome captured = run(name, dtype, false, 0);
        same(captured, plain);
        // a graph's memory is held while windows repeat, and given back before others run
        for (int i = 0; i < 12; i++) {
            long graph = captured.used.get(i) - plain.used.get(i);
            boolean repeats = i % 5 != 0 && i % 5 != 4;
            assertThat(graph > 100_000)
                    .as("%d bytes more after step %d", graph, i + 1)
                    .isEqualTo(repeats);
        }
    }

    @Test
    void givesEachStepsFiguresHoweverLateTheyAreRead() {
        Outcome wanted = run("cpu", DType.F32, false, 0);
        same(run("cpu", DType.F32, false, 1), wanted);
        same(run("cpu", DType.F32, false, 5), wanted);
    }

    @Test
    void refusesIdsAndLabelsBeyondTheVocabulary() {
        try (Device device = Device.open("cpu");
                Gpt2 model = model(device, DType.F32);
                Ops ops = device.ops();
                Optimizer optimizer = new Optimizer(ops, model.parameters(), arguments());
                TrainingStep step = new TrainingStep(model, ops, optimizer, arguments())) {
            for (int good = 0; good < 3; good++) { // plain at first, then captured, then launched
                int[] ids = {0, 1, 2, 101};
                int[] labels = {1, -1, 100, Batch.IGNORED};
                assertThatThrownBy(() -> step.enqueue(List.of(new Batch(ids, ids, 1, 4)), 1e-3))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessage("ids: 101 at index 3 is not in [0, 101)");
                ids[3] = 3;
                assertThatThrownBy(() -> step.enqueue(List.of(new Batch(ids, labels, 1, 4)), 1e-3))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessage("labels: -1 at index 1 is not in [0, 101) and not -100");
                labels[1] = 5;
                step.enqueue(List.of(new Batch(ids, labels, 1, 4)), 1e-3);
                assertThat(step.await().finite()).isTrue();
            }
        }
    }
}
