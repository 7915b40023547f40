package dev.gatun.trainer;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Graph;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Rng;
import dev.gatun.kernels.Snapshot;
import dev.gatun.kernels.Tape;
import dev.gatun.kernels.Tensor;
import dev.gatun.transformers.CausalLm;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Queue;
import org.jspecify.annotations.Nullable;

/**
 * An optimizer step over an accumulation window: forward and backward of each micro-batch, clip,
 * update.
 *
 * <p>All that changes from step to step is on the device: ids, labels, the loss's factor, learning
 * rate, and the step number that dropout draws by. So where a window has the shapes of the one
 * before, the step is captured as a {@link Graph}, and from then on costs the host a few calls. Any
 * other window, such as the short one at the end of an epoch, runs op by op, to the same bits; the
 * graph's memory has then been freed for it.
 *
 * <p>{@link #enqueue} does not wait for the device. {@link #await} waits for one step, whatever is
 * enqueued behind it.
 */
public final class TrainingStep implements AutoCloseable {
    /**
     * What a step measured.
     *
     * @param loss the sum over the window's micro-batches: nats per target
     * @param gradNorm L2 norm of all gradients before clipping
     */
    public record Figures(double loss, double gradNorm) {
        boolean finite() {
            return Double.isFinite(loss) && Double.isFinite(gradNorm);
        }
    }

    private final CausalLm model;
    private final Ops ops;
    private final Optimizer optimizer;
    private final TrainingArguments args;
    private final Queue<Snapshot> unread = new ArrayDeque<>();
    private @Nullable Inputs inputs;
    private @Nullable Graph graph;

    /**
     * @param ops on the model's device; open as long as this is
     * @param args of which the seed and maxGradNorm count here
     */
    public TrainingStep(CausalLm model, Ops ops, Optimizer optimizer, TrainingArguments args) {
        this.model = model;
        this.ops = ops;
        this.optimizer = optimizer;
        this.args = args;
    }

    /**
     * Enqueues a step; its figures are the newest that {@link #await} gives.
     *
     * @throws IllegalArgumentException if an id or a label is beyond the vocabulary
     */
    public void enqueue(List<Batch> window, double learningRate) {
        Inputs before = inputs;
        boolean again = before != null && before.fit(window);
        Inputs in = before != null && again ? before : inputs(window);
        in.write(window, model.vocabulary());
        optimizer.learningRate(ops, learningRate);
        if (again && !ops.device().profiling()) { // a profile leaves out what a graph runs
            if (graph == null) {
                graph = Graph.capture(ops.device(), Rng.of(args.seed()), scope -> run(scope, in));
            }
            graph.launch();
        } else {
            release();
            try (Ops scope = ops.scope()) {
                run(scope, in);
            }
        }
        unread.add(ops.snapshot(in.figures));
    }

    /** The figures of the oldest step whose figures were not asked for yet; waits for that step. */
    public Figures await() {
        try (Snapshot oldest = unread.remove()) {
            float[] figures = oldest.toFloats();
            double loss = 0;
            for (int i = 0; i < figures.length - 1; i++) {
                loss += figures[i];
            }
            return new Figures(loss, figures[figures.length - 1]);
        }
    }

    /** Frees the graph, whose memory other work wants; the next step captures it anew. */
    public void release() {
        if (graph != null) {
            graph.close();
            graph = null;
        }
    }

    @Override
    public void close() {
        release();
        unread.forEach(Snapshot::close);
        if (inputs != null) {
            inputs.scope.close();
        }
    }

    private void run(Ops scope, Inputs in) {
        for (int i = 0; i < in.shapes.size(); i++) {
            try (Tape tape = scope.tape(new Rng(args.seed(), optimizer.step(), i))) {
                Tensor loss = model.loss(tape, in.ids_BT.get(i), in.labels_BT.get(i), in.factor);
                tape.backward(loss);
                scope.copy(in.losses.get(i), loss);
            }
        }
        var clipped = optimizer.clip(scope, args.maxGradNorm());
        optimizer.step(scope, clipped.factor());
        scope.copy(in.norm, clipped.norm());
    }

    private Inputs inputs(List<Batch> window) {
        release(); // it reads the old ones
        if (inputs != null) {
            inputs.scope.close();
            inputs = null;
        }
        Inputs made = new Inputs(ops.scope(), window);
        inputs = made;
        return made;
    }

    private record Shape(int rows, int time) {
        static List<Shape> of(List<Batch> window) {
            return window.stream().map(b -> new Shape(b.rows(), b.time())).toList();
        }
    }

    /** What a step reads that is not the model's, and where it leaves its figures. */
    private static final class Inputs {
        final Ops scope;
        final List<Shape> shapes;
        final List<Tensor> ids_BT = new ArrayList<>();
        final List<Tensor> labels_BT = new ArrayList<>();
        final Tensor factor;

        /** The losses of the micro-batches, then the norm. */
        final Tensor figures;

        final List<Tensor> losses = new ArrayList<>();
        final Tensor norm;

        Inputs(Ops scope, List<Batch> window) {
            this.scope = scope;
            this.shapes = Shape.of(window);
            this.factor = scope.empty(DType.F32, 1);
            this.figures = scope.empty(DType.F32, shapes.size() + 1L);
            for (Shape shape : shapes) {
                losses.add(figures.select(0, losses.size()));
                ids_BT.add(scope.empty(DType.I32, shape.rows, shape.time));
                labels_BT.add(scope.empty(DType.I32, shape.rows, shape.time));
            }
            this.norm = figures.select(0, shapes.size());
        }

        boolean fit(List<Batch> window) {
            return shapes.equals(Shape.of(window));
        }

        void write(List<Batch> window, int vocabulary) {
            long targets = 0;
            for (int i = 0; i < window.size(); i++) {
                Batch batch = window.get(i);
                scope.ids(ids_BT.get(i), batch.ids(), vocabulary);
                scope.labels(labels_BT.get(i), batch.labels(), vocabulary, Batch.IGNORED);
                targets += batch.targets();
            }
            scope.fill(factor, 1f / Math.max(1, targets));
        }
    }
}
