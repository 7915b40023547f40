package dev.gatun.kernels;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * The gradient of one intermediate tensor (and through it of all its views) while a tape walks
 * back.
 *
 * <p>The first gradient to arrive decides: one for the whole tensor is written or shared. One for a
 * view that, with the other views in use, tiles the tensor exactly (q, k and v of a packed
 * projection) is written too, so that nothing is zeroed first; any other view starts from zeros.
 */
final class GradientSlot {
    private final Tensor base;
    @Nullable Tensor gradient;
    boolean watched;
    Tape.@Nullable Activation activation;
    boolean folded;

    // how often ops have read the base, or a view of it
    private int reads;
    // views that ops have read, while they are not the whole
    private @Nullable List<Tensor> views;
    private boolean usedWhole;
    // which of the views are written, where they tile the base
    private @Nullable BitSet written;

    GradientSlot(Tensor base) {
        this.base = base;
    }

    /** An op reads this view of the base. */
    void used(Tensor view) {
        reads++;
        if (whole(view)) {
            usedWhole = true;
            return;
        }
        if (views == null) {
            views = new ArrayList<>();
        }
        if (index(view) < 0) {
            views.add(view);
        }
    }

    /** Where the gradient of a view goes. */
    Tape.Destination destination(Tape tape, Tensor view) {
        Tensor g = gradient;
        if (g == null) {
            g = tape.holdLike(base);
            gradient = g;
            if (whole(view)) {
                return new Tape.Destination(view.in(g), false);
            }
            if (tiled()) {
                written = new BitSet();
            } else {
                tape.fill(g);
            }
        } else if (g.storage.shared()) {
            g = unshare(tape, g);
        }
        if (written != null) {
            int i = index(view);
            if (i < 0) {
                complete(tape);
            } else if (!written.get(i)) {
                written.set(i);
                return new Tape.Destination(view.in(g), false);
            }
        }
        return new Tape.Destination(view.in(g), true);
    }

    /** The activation that gave the base, for the one reader to apply its derivative; or null. */
    Tape.@Nullable Activation fold(Tensor view) {
        folded = activation != null && reads == 1 && gradient == null && !watched && whole(view);
        return folded ? activation : null;
    }

    /** Takes a finished gradient as it is; false where it has to be written or added instead. */
    boolean share(Tensor view, Tensor other) {
        if (gradient != null
                || !whole(view)
                || other.dtype() != base.dtype()
                || other.storage.bytes != base.storage.bytes
                || other.offset != view.offset
                || !Arrays.equals(other.shape, view.shape)
                || !sameLayout(other, view)) {
            return false;
        }
        other.storage.hold();
        // a base of its own: that the values of logits are gone does not concern their gradient
        gradient =
                new Tensor(other.storage, base.dtype(), base.shape, base.stride, base.offset, null);
        return true;
    }

    /** The gradient, with zeros in the views that none reached. */
    Tensor complete(Tape tape) {
        Tensor g = Objects.requireNonNull(gradient);
        BitSet done = written;
        if (done != null && views != null) {
            written = null;
            for (int i = 0; i < views.size(); i++) {
                if (!done.get(i)) {
                    tape.fill(views.get(i).in(g));
                }
            }
        }
        return g;
    }

    boolean exclusive() {
        return gradient != null && !watched && !gradient.storage.shared();
    }

    void drop() {
        if (gradient != null) {
            gradient.storage.release();
            gradient = null;
        }
    }

    private Tensor unshare(Tape tape, Tensor shared) {
        Tensor own = tape.holdLike(base);
        Values.copyOn(tape.stream, own, shared);
        gradient = own;
        shared.storage.release();
        return own;
    }

    private boolean whole(Tensor view) {
        return view.elements() == base.elements();
    }

    private static boolean sameLayout(Tensor a, Tensor b) {
        for (int i = 0; i < a.shape.length; i++) {
            if (a.shape[i] != 1 && a.stride[i] != b.stride[i]) {
                return false;
            }
        }
        return true;
    }

    private int index(Tensor view) {
        Block block = Block.of(view);
        if (views != null && block != null) {
            for (int i = 0; i < views.size(); i++) {
                if (block.equals(Block.of(views.get(i)))) {
                    return i;
                }
            }
        }
        return -1;
    }

    private boolean tiled() {
        if (usedWhole || views == null) {
            return false;
        }
        List<Block> blocks = new ArrayList<>();
        for (Tensor view : views) {
            Block block = Block.of(view);
            if (block == null) {
                return false;
            }
            blocks.add(block);
        }
        blocks.sort((a, b) -> Long.compare(a.offset(), b.offset()));
        Block first = blocks.getFirst();
        long pitch = first.rows() == 1 ? base.elements() : first.pitch();
        long end = 0;
        for (Block block : blocks) {
            if (block.offset() != end
                    || block.rows() != first.rows()
                    || (block.rows() > 1 && block.pitch() != pitch)) {
                return false;
            }
            end += block.width();
        }
        return end == pitch && first.rows() * pitch == base.elements();
    }

    /**
     * A view as rows of {@code width} dense elements, {@code pitch} apart; the order of its
     * dimensions does not matter.
     */
    record Block(long offset, long rows, long width, long pitch) {

        /** Whether two blocks of one storage are known to have no element in common. */
        boolean apart(Block other) {
            if (rows == 1 && other.rows == 1) {
                return offset + width <= other.offset || other.offset + other.width <= offset;
            }
            if (rows != other.rows || pitch != other.pitch) {
                return false;
            }
            long mine = offset % pitch;
            long theirs = other.offset % pitch;
            return offset / pitch == other.offset / pitch
                    && (mine + width <= theirs || theirs + other.width <= mine)
                    && Math.max(mine + width, theirs + other.width) <= pitch;
        }

        /** The block of a view; null where it is no such thing. */
        static @Nullable Block of(Tensor view) {
            int n = 0;
            long[] sizes = new long[view.shape.length];
            long[] steps = new long[view.shape.length];
            for (int i = 0; i < view.shape.length; i++) {
                if (view.shape[i] == 0) {
                    return new Block(view.offset, 1, 0, 0);
                }
                if (view.shape[i] != 1) {
                    int at = n++;
                    for (; at > 0 && steps[at - 1] < view.stride[i]; at--) {
                        steps[at] = steps[at - 1];
                        sizes[at] = sizes[at - 1];
                    }
                    steps[at] = view.stride[i];
                    sizes[at] = view.shape[i];
                }
            }
            long width = 1;
            int i = n - 1;
            while (i >= 0 && steps[i] == width) {
                width *= sizes[i--];
            }
            if (i < 0) {
                return new Block(view.offset, 1, width, 0);
            }
            long pitch = steps[i];
            long rows = 1;
            while (i >= 0 && steps[i] == pitch * rows) {
                rows *= sizes[i--];
            }
            return i < 0 && pitch >= width ? new Block(view.offset, rows, width, pitch) : null;
        }
    }
}
