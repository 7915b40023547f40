package dev.gatun.trainer;

import dev.gatun.kernels.AdamW;
import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.GlobalNorm;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Parameter;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * AdamW over the trained parameters of a model (Loshchilov & Hutter 2019), its moments and
 * gradients in f32. Where a parameter has a 16-bit copy, the pass that updates the weight writes
 * that too.
 *
 * <p>Learning rate, step number and clip factor are device scalars: nothing here waits, and {@link
 * #clip} and {@link #step(Ops, Tensor)} may be part of a captured step. The step marks all
 * gradients as stale, so that the next backward pass overwrites them and no pass is spent on
 * zeroing.
 */
public final class Optimizer implements AutoCloseable {
    private final List<Parameter> trained;
    private final Map<String, Tensor> moments = new LinkedHashMap<>();
    private final AdamW.Options options;
    private final List<AdamW.Group> groups;
    private final Tensor rate;
    private final Tensor step;

    /** Allocates gradients and moments of all trained parameters. */
    public Optimizer(Ops ops, List<Parameter> parameters, TrainingArguments args) {
        this.trained = parameters.stream().filter(Parameter::trained).toList();
        this.options = new AdamW.Options(args.adamBeta1(), args.adamBeta2(), args.adamEpsilon());
        Device device = ops.device();
        this.rate = Tensor.empty(device, DType.F32, Purpose.OPTIMIZER, 1);
        this.step = Tensor.empty(device, DType.I64, Purpose.OPTIMIZER, 1);
        ops.fill(step, 0);
        var decayed = new ArrayList<AdamW.Entry>();
        var undecayed = new ArrayList<AdamW.Entry>();
        for (Parameter p : trained) {
            Tensor weight = p.weight();
            Tensor gradient = p.leaf().requireGradient().gradient().orElseThrow();
            Tensor m = Tensor.empty(device, DType.F32, Purpose.OPTIMIZER, weight.shape());
            Tensor v = Tensor.empty(device, DType.F32, Purpose.OPTIMIZER, weight.shape());
            ops.fill(m, 0);
            ops.fill(v, 0);
            moments.put(p.name() + ".exp_avg", m);
            moments.put(p.name() + ".exp_avg_sq", v);
            (p.decayed() ? decayed : undecayed)
                    .add(new AdamW.Entry(weight, gradient, m, v, p.copy()));
        }
        this.groups =
                List.of(
                        new AdamW.Group(decayed, args.weightDecay()),
                        new AdamW.Group(undecayed, 0));
    }

    /** i64 scalar: optimizer steps done so far; what dropout's random numbers count by. */
    public Tensor step() {
        return step;
    }

    /** Sets the rate of the steps that follow. */
    public void learningRate(Ops ops, double value) {
        ops.fill(rate, value);
    }

    /**
     * Measures the gradients, all together.
     *
     * @param maxNorm the L2 norm to clip them to in {@link #step(Ops, Tensor)}; 0: none
     * @return the norm before clipping, and the factor that clips
     */
    public GlobalNorm.Norm clip(Ops ops, double maxNorm) {
        return ops.globalNorm(gradients(), maxNorm);
    }

    /** Asked for anew each time: what no backward pass has reached becomes zero. */
    private List<Tensor> gradients() {
        return trained.stream().map(p -> p.leaf().gradient().orElseThrow()).toList();
    }

    /**
     * One update.
     *
     * @param clip the factor that {@link #clip} gave
     */
    public void step(Ops ops, Tensor clip) {
        ops.increment(step, 1);
        ops.adamw(options, rate, step, clip, groups.toArray(AdamW.Group[]::new));
        trained.forEach(p -> p.leaf().staleGradient());
    }

    /** The moments by name, as a checkpoint holds them. */
    public Map<String, Tensor> moments() {
        return Map.copyOf(moments);
    }

    /** Sets the number of steps done, when a run is resumed. */
    void resumeAt(long steps) {
        step.write(new long[] {steps});
    }

    @Override
    public void close() {
        trained.forEach(p -> p.leaf().dropGradient());
        moments.values().forEach(Tensor::close);
        rate.close();
        step.close();
    }
}
