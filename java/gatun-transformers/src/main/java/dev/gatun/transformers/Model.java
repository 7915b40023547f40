package dev.gatun.transformers;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Parameter;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;

/**
 * A model on a device: its weights, its tokenizer and what it can do, which its subtypes say.
 *
 * <p>A model may be shared between threads as long as no one trains it; each brings an {@link
 * dev.gatun.kernels.Ops} of its own.
 */
public sealed interface Model extends AutoCloseable permits CausalLm {
    Device device();

    /** The name in error messages: the folder it came from, or its kind. */
    String name();

    /** All weights, under the names that they have in the checkpoint file. */
    List<Parameter> parameters();

    /** What the forward pass is in: the matrices that it reads, activations, and caches. */
    DType dtype();

    /**
     * Lets the forward pass read 16-bit copies of the matrices, as they are now, and compute in
     * that dtype, in training and inference; norms, softmax, losses and sums stay f32. The weights
     * themselves stay f32: they are what {@link #save} writes and an optimizer updates, together
     * with the copies ({@link Parameter#copy}). F32 drops the copies. Not while the model is used.
     *
     * @throws IllegalStateException if the weights are not f32
     */
    void computeIn(DType dtype);

    /** The tokenizer that lay beside the weights, if one did. */
    Optional<Tokenizer> tokenizer();

    /**
     * Writes {@code config.json}, {@code model.safetensors} and what else belongs to the model, as
     * the reference library reads them. Each file is complete or as it was before.
     *
     * @throws IOException if a file cannot be written; the message names it and says why
     */
    void save(Path folder) throws IOException;

    /** Frees the weights. */
    @Override
    void close();
}
