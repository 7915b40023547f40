package dev.gatun.transformers;

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
