package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import dev.gatun.kernels.internal.gatun_sample_args;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/**
 * How a token is drawn from softmax(logits / temperature): after top-k, then top-p, then min-p.
 *
 * <p>The draw of row r takes the uniform of Philox element r at site 0. No gradient.
 *
 * @param temperature above 0; 1 leaves the distribution as it is
 * @param topK the k most likely tokens (ties with the k-th survive); 0: all
 * @param topP the most likely tokens up to this probability together, the one that crosses it
 *     included; in (0, 1], 1: all
 * @param minP tokens at least this share of the most likely one; in [0, 1), 0: all
 */
public record Sampling(double temperature, int topK, double topP, double minP) {

    public Sampling {
        if (!(temperature > 0) || Double.isInfinite(temperature)) {
            throw new IllegalArgumentException(
                    "sample: wanted a temperature above 0, had " + temperature);
        }
        if (topK < 0) {
            throw new IllegalArgumentException("sample: wanted topK of 0 or more, had " + topK);
        }
        if (!(topP > 0 && topP <= 1)) {
            throw new IllegalArgumentException("sample: wanted topP in (0, 1], had " + topP);
        }
        if (!(minP >= 0 && minP < 1)) {
            throw new IllegalArgumentException("sample: wanted minP in [0, 1), had " + minP);
        }
    }

    /** The whole distribution at this temperature. */
    public static Sampling temperature(double temperature) {
        return new Sampling(temperature, 0, 1, 0);
    }

    /** One token per row: logits [R, V], a float dtype, to i32 [R]. */
    public Tensor draw(Ops ops, Tensor logits, Rng rng) {
        if (logits.rank() != 2) {
            throw new IllegalArgumentException("sample: wanted logits [R, V], had " + logits);
        }
        Tensor out = ops.make(DType.I32, logits.size(0));
        drawInto(ops, out, null, logits, rng);
        return out;
    }

    /**
     * The same into an i32 [R] that is there.
     *
     * @param logProbabilities f32 [R], of the chosen tokens under the final distribution; may be
     *     null
     */
    public void drawInto(
            Ops ops, Tensor out, @Nullable Tensor logProbabilities, Tensor logits, Rng rng) {
        MemorySegment args = ops.stream.sampleArgs;
        gatun_sample_args.temperature(args, (float) temperature);
        gatun_sample_args.top_k(args, topK);
        gatun_sample_args.top_p(args, (float) topP);
        gatun_sample_args.min_p(args, (float) minP);
        out.alive();
        Native.check(
                GatunH.gatun_sample(
                        ops.handle(),
                        out.raw(),
                        Tensor.pointer(logProbabilities),
                        logits.pointer(),
                        args,
                        Values.philox(ops, rng, 0)),
                "sample");
    }
}
