package dev.gatun.transformers;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.gatun.kernels.Gelu;
import java.nio.file.Path;
import java.util.List;

/**
 * What the {@code config.json} of a GPT-2 says, in its order; the reference library's newer and
 * older key names are both read.
 *
 * @param activation gelu_new and its other names (the tanh form), or gelu (the exact one)
 * @param scaled whether scores are divided by √S; {@code scaledByLayer}: also by layer + 1
 * @param endIds where a text ends; may be empty
 */
public record Gpt2Config(
        int vocabulary,
        int context,
        int dim,
        int layers,
        int heads,
        int inner,
        String activation,
        double normEps,
        double embeddingDropout,
        double residualDropout,
        double attentionDropout,
        boolean tiedHead,
        boolean scaled,
        boolean scaledByLayer,
        double initializerRange,
        List<Integer> endIds) {

    public Gpt2Config {
        check(vocabulary > 0, "vocab_size is %d; it must be positive", vocabulary);
        check(context > 0, "n_positions is %d; it must be positive", context);
        check(dim > 0, "n_embd is %d; it must be positive", dim);
        check(layers > 0 && layers <= 10_000, "n_layer is %d; it must be 1 to 10000", layers);
        check(heads > 0, "n_head is %d; it must be positive", heads);
        check(inner > 0, "n_inner is %d; it must be positive", inner);
        check(dim % heads == 0, "n_embd %d is not a multiple of n_head %d", dim, heads);
        check(normEps >= 0, "layer_norm_epsilon is %s; it must not be negative", normEps);
        for (double p : new double[] {embeddingDropout, residualDropout, attentionDropout}) {
            check(p >= 0 && p < 1, "a dropout is %s; it must be in [0, 1)", p);
        }
        gelu(activation);
        endIds = List.copyOf(endIds);
    }

    /** GPT-2 of these sizes, no dropout, no end token. */
    public static Gpt2Config of(int vocabulary, int context, int layers, int heads, int dim) {
        return new Gpt2Config(
                vocabulary,
                context,
                dim,
                layers,
                heads,
                4 * dim,
                "gelu_new",
                1e-5,
                0,
                0,
                0,
                true,
                true,
                false,
                0.02,
                List.of());
    }

    /** With dropout of the embedding and of each block's output. */
    public Gpt2Config dropout(double p) {
        return new Gpt2Config(
                vocabulary,
                context,
                dim,
                layers,
                heads,
                inner,
                activation,
                normEps,
                p,
                p,
                attentionDropout,
                tiedHead,
                scaled,
                scaledByLayer,
                initializerRange,
                endIds);
    }

    /** With an end token: generation stops there. */
    public Gpt2Config endId(int id) {
        return new Gpt2Config(
                vocabulary,
                context,
                dim,
                layers,
                heads,
                inner,
                activation,
                normEps,
                embeddingDropout,
                residualDropout,
                attentionDropout,
                tiedHead,
                scaled,
                scaledByLayer,
                initializerRange,
                List.of(id));
    }

    static Gpt2Config read(Path file) {
        Json j = Json.read(file, 1 << 24);
        try {
            String type = j.text("model_type").orElse("gpt2");
            check(type.equals("gpt2"), "model_type is %s; wanted gpt2", type);
            check(!j.flag(false, "add_cross_attention"), "add_cross_attention is not supported");
            int dim = j.requiredInteger("n_embd", "hidden_size");
            return new Gpt2Config(
                    j.requiredInteger("vocab_size"),
                    j.integer(1024, "n_positions", "max_position_embeddings", "n_ctx"),
                    dim,
                    j.requiredInteger("n_layer", "num_hidden_layers"),
                    j.requiredInteger("n_head", "num_attention_heads"),
                    j.integer(Math.multiplyExact(4, dim), "n_inner"),
                    j.text("activation_function").orElse("gelu_new"),
                    j.number(1e-5, "layer_norm_epsilon"),
                    j.number(0.1, "embd_pdrop"),
                    j.number(0.1, "resid_pdrop"),
                    j.number(0.1, "attn_pdrop"),
                    j.flag(true, "tie_word_embeddings"),
                    j.flag(true, "scale_attn_weights"),
                    j.flag(false, "scale_attn_by_inverse_layer_idx"),
                    j.number(0.02, "initializer_range"),
                    j.ids("eos_token_id"));
        } catch (IllegalArgumentException | ArithmeticException e) {
            throw new CheckpointException(j.name() + ": " + e.getMessage(), e);
        }
    }

    ObjectNode toJson() {
        ObjectNode j = Json.MAPPER.createObjectNode();
        j.putArray("architectures").add("GPT2LMHeadModel");
        j.put("model_type", "gpt2").put("dtype", "float32").put("vocab_size", vocabulary);
        j.put("n_positions", context).put("n_embd", dim).put("n_layer", layers);
        j.put("n_head", heads).put("n_inner", inner).put("activation_function", activation);
        j.put("layer_norm_epsilon", normEps).put("embd_pdrop", embeddingDropout);
        j.put("resid_pdrop", residualDropout).put("attn_pdrop", attentionDropout);
        j.put("tie_word_embeddings", tiedHead).put("scale_attn_weights", scaled);
        j.put("scale_attn_by_inverse_layer_idx", scaledByLayer);
        j.put("initializer_range", initializerRange);
        Integer endId = endIds.isEmpty() ? null : endIds.getFirst();
        j.put("bos_token_id", endId).put("eos_token_id", endId);
        if (endIds.size() > 1) {
            endIds.forEach(j.putArray("eos_token_id")::add);
        }
        return j;
    }

    Gelu gelu() {
        return gelu(activation);
    }

    int headSize() {
        return dim / heads;
    }

    float scale(int layer) {
        double scale = scaled ? 1 / Math.sqrt(headSize()) : 1;
        return (float) (scaledByLayer ? scale / (layer + 1) : scale);
    }

    static Gelu gelu(String activation) {
        return switch (activation) {
            case "gelu_new", "gelu_pytorch_tanh", "gelu_fast" -> Gelu.TANH;
            case "gelu", "gelu_python" -> Gelu.ERF;
            default ->
                    throw new IllegalArgumentException(
                            "activation_function %s is not supported: gelu_new and gelu are"
                                    .formatted(activation));
        };
    }

    private static void check(boolean right, String sentence, Object... values) {
        if (!right) {
            throw new IllegalArgumentException(sentence.formatted(values));
        }
    }
}
