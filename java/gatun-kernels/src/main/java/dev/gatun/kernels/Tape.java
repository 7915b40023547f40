package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/**
 * An {@link Ops} that remembers what it did, so that {@link #backward} can walk back and add up
 * gradients in the leaves ({@link Tensor#requireGradient()}).
 *
 * <p>It keeps a list of steps, newest last; each holds the tensors that its backward pass reads and
 * lets go of them as soon as that has run. What leads to no leaf is not remembered at all. A
 * gradient that arrives where another already is adds to it, and two places that have the same
 * gradient (both sides of a residual) share one tensor until one of them has to change.
 */
public final class Tape extends Ops {

    /** What was done, what it gave, what its backward pass reads. */
    private record Step(Tensor[] outputs, Tensor[] saved, Runnable backward) {}

    /**
     * Where a backward pass writes a gradient.
     *
     * @param tensor shaped as the operand; null: nobody wants it
     * @param add whether to add to what is there, else overwrite
     */
    record Destination(@Nullable Tensor tensor, boolean add) {
        static final Destination NONE = new Destination(null, false);

        MemorySegment pointer() {
            return Tensor.raw(tensor);
        }

        /** The bit of an accumulate mask. */
        int bit(int index) {
            return add ? 1 << index : 0;
        }

        boolean wanted() {
            return tensor != null;
        }
    }

    /**
     * How an output came about: gelu(preactivation).
     *
     * @param preactivation shaped as the output; its step keeps it
     */
    record Activation(Gelu form, Tensor preactivation) {}

    /** A gradient in a tensor of its own that still has to be added to its operand's. */
    private record Owed(Tensor operand, Tensor gradient) {}

    private final List<@Nullable Step> steps = new ArrayList<>();
    private final IdentityHashMap<Tensor, GradientSlot> slots = new IdentityHashMap<>();
    private final List<Storage> temporaries = new ArrayList<>();
    private final List<Owed> owed = new ArrayList<>();
    private boolean walked;
    private boolean walking;
    private @Nullable Tensor unit;

    Tape(Stream stream, Rng rng) {
        super(stream, rng);
    }

    Tape(Ops parent, Rng rng) {
        super(parent, rng);
    }

    /**
     * Walks back from a loss, an f32 scalar, and adds its gradient up in every leaf it depends on.
     * Tensors that were kept for this are freed on the way.
     *
     * @throws IllegalStateException the second time, or where the loss depends on no leaf
     */
    public void backward(Tensor loss) {
        if (loss.elements() != 1) {
            throw new IllegalArgumentException(
                    ("backward: wanted a loss of one element, had %s;"
                                    + " give the gradient of anything else")
                            .formatted(loss));
        }
        Tensor one = make(loss.dtype(), loss.shape);
        Values.fill(this, one, 1);
        unit = one;
        backward(loss, one);
    }

    /**
     * Walks back from any tensor of this tape, whose gradient is given.
     *
     * @param gradient shape and dtype as y
     */
    public void backward(Tensor y, Tensor gradient) {
        open();
        if (walked) {
            throw new IllegalStateException(
                    "backward: "
                            + this
                            + " was walked back already; each forward pass has its own");
        }
        y.alive();
        gradient.valued();
        if (!Arrays.equals(y.shape, gradient.shape) || y.dtype() != gradient.dtype()) {
            throw new IllegalArgumentException(
                    "backward: wanted a gradient like %s, had %s".formatted(y, gradient));
        }
        if (!needs(y)) {
            throw new IllegalStateException(
                    "backward: %s depends on no leaf that requires a gradient, or not on this tape"
                            .formatted(y));
        }
        walked = true;
        walking = true;
        try {
            give(y, gradient);
            for (int i = steps.size() - 1; i >= 0; i--) {
                Step step = steps.get(i);
                steps.set(i, null);
                if (step != null) {
                    walk(step);
                }
            }
        } finally {
            walking = false;
            dropTemporaries();
            forget();
        }
    }

    /**
     * Keeps the gradient of an input, until this tape closes, for {@link #gradient}. Call it before
     * the tensor is used.
     *
     * @return the tensor
     */
    public Tensor watch(Tensor tensor) {
        open();
        tensor.alive();
        Tensor base = tensor.base();
        if (base.leafGradient() == null) {
            slots.computeIfAbsent(base, GradientSlot::new).watched = true;
        }
        return tensor;
    }

    /**
     * The gradient of a leaf or of what was {@link #watch}ed, once backward has run; empty where
     * none arrived. It lives as long as this tape.
     */
    public Optional<Tensor> gradient(Tensor tensor) {
        open();
        Tensor base = tensor.base();
        if (base.leafGradient() != null) {
            return base.gradient().map(tensor::in);
        }
        GradientSlot slot = slots.get(base);
        return slot == null || slot.gradient == null
                ? Optional.empty()
                : Optional.of(tensor.in(slot.complete(this)));
    }

    @Override
    public void reset() {
        super.reset();
        forget();
        dropSlots();
        walked = false;
        unit = null;
    }

    @Override
    public void close() {
        super.close();
        forget();
        dropSlots();
    }

    // ---- For the ops ----------------------------------------------------------------------

    boolean remembers() {
        return !walking;
    }

    /** Whether a gradient of this operand leads anywhere. */
    boolean needs(@Nullable Tensor operand) {
        if (operand == null) {
            return false;
        }
        Tensor base = operand.base();
        return base.leafGradient() != null || slots.containsKey(base);
    }

    /**
     * Remembers an op, unless none of its operands leads to a leaf.
     *
     * @param outputs what it gave
     * @param operands what a gradient may go to; entries may be null
     * @param saved what the backward pass reads; entries may be null
     */
    void record(
            Tensor[] outputs,
            @Nullable Tensor[] operands,
            @Nullable Tensor[] saved,
            Runnable backward) {
        if (walked) {
            throw new IllegalStateException(
                    this + " was walked back already; reset() it or open another");
        }
        boolean any = false;
        for (Tensor operand : operands) {
            any |= needs(operand);
        }
        if (!any) {
            return;
        }
        for (Tensor operand : operands) {
            GradientSlot slot = operand == null ? null : slots.get(operand.base());
            if (slot != null && operand != null) {
                slot.used(operand);
            }
        }
        List<Tensor> held = new ArrayList<>(saved.length);
        for (Tensor tensor : saved) {
            if (tensor != null) {
                tensor.storage.hold();
                held.add(tensor);
            }
        }
        for (Tensor output : outputs) {
            slots.put(output.base(), new GradientSlot(output.base()));
        }
        steps.add(new Step(outputs, held.toArray(Tensor[]::new), backward));
    }

    /** The gradient that arrived at an output; null: none did. */
    @Nullable Tensor arrived(Tensor output) {
        GradientSlot slot = slots.get(output.base());
        return slot == null || slot.gradient == null ? null : output.in(slot.complete(this));
    }

    /** Whether the gradient of an output may be overwritten: nobody else has the same one. */
    boolean mine(Tensor output) {
        GradientSlot slot = slots.get(output.base());
        return slot != null && slot.exclusive();
    }

    /** Where to write the gradient of an operand. Write before asking for the next one. */
    Destination destination(@Nullable Tensor operand) {
        if (operand == null) {
            return Destination.NONE;
        }
        Tensor base = operand.base();
        Tensor leaf = base.leafGradient();
        if (leaf != null) {
            boolean add = !base.stale();
            if (!add && operand.elements() != base.elements()) {
                fill(leaf);
                add = true;
            }
            base.fresh();
            return new Destination(operand.in(leaf), add);
        }
        GradientSlot slot = slots.get(base);
        return slot == null ? Destination.NONE : slot.destination(this, operand);
    }

    /**
     * Where to write the gradient of an operand for an op that gives it in the operand's own dtype:
     * the f32 gradient of a 16-bit leaf gets it from there once the op has run.
     */
    Destination destinationAlike(@Nullable Tensor operand) {
        Tensor leaf = operand == null ? null : operand.base().leafGradient();
        return operand == null || leaf == null || leaf.dtype() == operand.dtype()
                ? destination(operand)
                : destinationApart(operand);
    }

    /** A tensor of its own to write the gradient of an operand to; added once the op has run. */
    Destination destinationApart(Tensor operand) {
        if (!needs(operand)) {
            return Destination.NONE;
        }
        Tensor gradient = temporary(operand.dtype(), operand.shape);
        owed.add(new Owed(operand, gradient));
        return new Destination(gradient, false);
    }

    /** How an output of the step just recorded came about. */
    void activated(Tensor output, Activation activation) {
        GradientSlot slot = slots.get(output.base());
        if (slot != null) {
            slot.activation = activation;
        }
    }

    /**
     * How an operand came about, where the caller is about to write the only gradient that it will
     * get and nobody looks at that: then the caller writes the gradient of the pre-activation in
     * its place, and the activation's own step finds it {@link #folded}. Otherwise null.
     */
    @Nullable Activation fold(Tensor operand) {
        GradientSlot slot = slots.get(operand.base());
        return slot == null ? null : slot.fold(operand);
    }

    /** Whether what arrived at an output is the gradient of its pre-activation. */
    boolean folded(Tensor output) {
        GradientSlot slot = slots.get(output.base());
        return slot != null && slot.folded;
    }

    /** Hands a finished gradient to an operand; shares it where that is enough. */
    void give(@Nullable Tensor operand, Tensor gradient) {
        if (operand == null || !needs(operand)) {
            return;
        }
        GradientSlot slot = slots.get(operand.base());
        if (slot == null || !slot.share(operand, gradient)) {
            add(destination(operand), gradient);
        }
    }

    /** Writes or adds a gradient, cast to the destination's dtype. */
    void add(Destination to, Tensor gradient) {
        Tensor out = to.tensor();
        if (out == null) {
            return;
        }
        if (!to.add()) {
            Values.copyOn(stream, out, gradient);
            return;
        }
        Tensor same = gradient;
        if (gradient.dtype() != out.dtype()) {
            same = temporary(out.dtype(), gradient.shape);
            Values.copyOn(stream, same, gradient);
        }
        Values.addOn(stream, out, out, same);
    }

    /** Memory for one backward step. */
    Tensor temporary(DType dtype, long... shape) {
        Storage storage =
                Storage.of(stream, Shapes.bytes("backward", dtype, shape), Purpose.ACTIVATIONS);
        temporaries.add(storage);
        return Tensor.dense(storage, dtype, shape);
    }

    /** Whether this is the gradient 1 that backward(loss) starts from. */
    boolean unit(Tensor gradient) {
        return unit != null && gradient.storage == unit.storage;
    }

    /** A tensor that lies as this base does, for its gradient; the caller releases it. */
    Tensor holdLike(Tensor base) {
        Storage storage = Storage.of(stream, base.storage.bytes, Purpose.ACTIVATIONS);
        return new Tensor(storage, base.dtype(), base.shape, base.stride, 0, null);
    }

    void fill(Tensor out) {
        Native.check(GatunH.gatun_fill(stream.handle(), out.raw(), 0), "fill");
    }

    private void walk(Step step) {
        boolean reached = false;
        for (Tensor output : step.outputs()) {
            GradientSlot slot = slots.get(output.base());
            reached |= slot != null && slot.gradient != null;
        }
        try {
            if (reached) {
                step.backward().run();
                for (Owed debt : owed) {
                    add(destination(debt.operand()), debt.gradient());
                }
            }
        } finally {
            for (Tensor output : step.outputs()) {
                GradientSlot slot = slots.get(output.base());
                if (slot != null && !slot.watched) {
                    slots.remove(output.base());
                    slot.drop();
                }
            }
            for (Tensor tensor : step.saved()) {
                tensor.storage.release();
            }
            dropTemporaries();
        }
    }

    private void dropTemporaries() {
        for (Storage storage : temporaries) {
            storage.release();
        }
        temporaries.clear();
        owed.clear();
    }

    private void forget() {
        for (Step step : steps) {
            if (step != null) {
                for (Tensor tensor : step.saved()) {
                    tensor.storage.release();
                }
            }
        }
        steps.clear();
    }

    private void dropSlots() {
        slots.values().forEach(GradientSlot::drop);
        slots.clear();
    }
}
