package dev.gatun.transformers;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.gatun.kernels.Parameter;
import dev.gatun.kernels.Tensor;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What lies beside the weights in a model folder.
 *
 * @param name of the folder, without its parents
 * @param tokenizer null if there is none
 */
record ModelFolder(String name, @Nullable Tokenizer tokenizer, GenerationConfig generation) {
    /**
     * @param vocabulary the rows of the model's embedding; a tokenizer may have fewer tokens
     * @param endIds what {@code config.json} says; {@code generation_config.json} overrules it
     */
    static ModelFolder open(Path folder, int vocabulary, List<Integer> endIds) {
        var generation = GenerationConfig.of().endIds(endIds);
        Path defaults = folder.resolve("generation_config.json");
        if (Files.exists(defaults)) {
            generation = GenerationConfig.read(defaults).orElse(generation);
        }
        String name = String.valueOf(folder.toAbsolutePath().normalize().getFileName());
        return new ModelFolder(name, tokenizer(folder, vocabulary), generation);
    }

    private static @Nullable Tokenizer tokenizer(Path folder, int vocabulary) {
        if (!Files.exists(folder.resolve("tokenizer.json"))
                && !Files.exists(folder.resolve("vocab.json"))) {
            return null;
        }
        Tokenizer tokenizer;
        try {
            tokenizer = Tokenizer.open(folder);
        } catch (IllegalArgumentException
                | UnsupportedOperationException
                | UncheckedIOException e) {
            throw new CheckpointException(Folder.name(folder) + ": " + e.getMessage(), e);
        }
        if (tokenizer.vocabSize() > vocabulary) {
            throw new CheckpointException(
                    "%s: the tokenizer has %d tokens, config.json has vocab_size %d"
                            .formatted(Folder.name(folder), tokenizer.vocabSize(), vocabulary));
        }
        return tokenizer;
    }

    static void save(
            Path folder,
            ObjectNode config,
            GenerationConfig generation,
            List<Parameter> parameters,
            @Nullable Tokenizer tokenizer)
            throws IOException {
        try {
            Files.createDirectories(folder);
        } catch (IOException e) {
            throw new IOException(
                    "%s: cannot be made: %s".formatted(Folder.name(folder), e.getMessage()), e);
        }
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        parameters.forEach(p -> tensors.put(p.name(), p.weight()));
        Safetensors.write(folder.resolve("model.safetensors"), tensors, Map.of("format", "pt"));
        config.put(
                "dtype",
                switch (parameters.getFirst().weight().dtype()) {
                    case BF16 -> "bfloat16";
                    case F16 -> "float16";
                    default -> "float32";
                });
        write(folder.resolve("config.json"), config);
        write(folder.resolve("generation_config.json"), generation.toJson());
        if (tokenizer != null) {
            try {
                tokenizer.save(folder.resolve("tokenizer.json"));
            } catch (UncheckedIOException e) {
                throw e.getCause();
            }
        }
    }

    private static void write(Path file, ObjectNode json) throws IOException {
        AtomicFile.write(
                file, Json.MAPPER.writerWithDefaultPrettyPrinter().writeValueAsBytes(json));
    }
}
