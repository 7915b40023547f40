package dev.gatun.transformers;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.LayerNorm;
import dev.gatun.kernels.Mask;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Parameter;
import dev.gatun.kernels.Tensor;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicBoolean;
import org.jspecify.annotations.Nullable;

/**
 * GPT-2: "Language Models are Unsupervised Multitask Learners", Radford et al. 2019. A causal
 * transformer with the norm before each block, learned positions and a head tied to the embedding;
 * weights and names are those of Hugging Face's GPT2LMHeadModel.
 *
 * <pre>
 *  B batch   T tokens    V vocabulary   P positions (context)   D model width
 *  H heads   S head size (D / H)        F feed-forward width    E = 3·D: queries, keys, values
 * </pre>
 *
 * <p>A projection's weight is [in, out] (GPT-2's Conv1D), so y = x·W + b. Dropout acts on the
 * embedding and on each block's output while recording. {@code attn_pdrop}, dropout of the
 * attention weights, is not applied: the fused attention never holds them.
 *
 * <p>Activations have the dtype of the matrices. Biases and norms are f32 beside 16-bit matrices.
 */
public final class Gpt2 implements CausalLm {
    private static final System.Logger LOG = System.getLogger(Gpt2.class.getName());
    private static final AtomicBoolean WARNED = new AtomicBoolean();

    /** A weight and a bias: of a projection, or of a norm. */
    record Affine(Tensor weight, Tensor bias) {
        static Affine of(WeightSource in, String name, long... shape) {
            return new Affine(
                    in.take(name + ".weight", shape),
                    in.take(name + ".bias", shape[shape.length - 1]));
        }
    }

    record Layer(
            Affine norm1_D,
            Affine qkv_DE,
            Affine out_DD,
            Affine norm2_D,
            Affine up_DF,
            Affine down_FD) {}

    record Weights(
            Tensor tokens_VD,
            Tensor positions_PD,
            List<Layer> layers,
            Affine norm_D,
            Tensor head_VD) {}

    private final String name;
    private final Device device;
    private final Gpt2Config config;
    private final List<Parameter> parameters = new ArrayList<>();
    private final @Nullable Tokenizer tokenizer;
    private final GenerationConfig generation;

    /** What the forward pass reads: the parameters, or copies of them. */
    private Weights weights;

    private Gpt2(
            String name,
            Device device,
            Gpt2Config config,
            WeightSource source,
            @Nullable Tokenizer tokenizer,
            GenerationConfig generation) {
        this.name = name;
        this.device = device;
        this.config = config;
        this.tokenizer = tokenizer;
        this.generation = generation;
        this.weights =
                weights(
                        config,
                        (weightName, shape) -> {
                            Tensor weight = source.take(weightName, shape);
                            boolean matrix = shape.length > 1; // biases and norms are not decayed
                            parameters.add(new Parameter(weightName, weight, matrix, true));
                            return weight;
                        });
    }

    /** The only place where names appear. */
    private static Weights weights(Gpt2Config c, WeightSource in) {
        int d = c.dim();
        Tensor tokens_VD = in.take("transformer.wte.weight", c.vocabulary(), d);
        Tensor positions_PD = in.take("transformer.wpe.weight", c.context(), d);
        var layers = new ArrayList<Layer>();
        for (int l = 0; l < c.layers(); l++) {
            String h = "transformer.h." + l;
            layers.add(
                    new Layer(
                            Affine.of(in, h + ".ln_1", d),
                            Affine.of(in, h + ".attn.c_attn", d, 3L * d),
                            Affine.of(in, h + ".attn.c_proj", d, d),
                            Affine.of(in, h + ".ln_2", d),
                            Affine.of(in, h + ".mlp.c_fc", d, c.inner()),
                            Affine.of(in, h + ".mlp.c_proj", c.inner(), d)));
        }
        Affine norm_D = Affine.of(in, "transformer.ln_f", d);
        Tensor head_VD = c.tiedHead() ? tokens_VD : in.take("lm_head.weight", c.vocabulary(), d);
        return new Weights(tokens_VD, positions_PD, List.copyOf(layers), norm_D, head_VD);
    }

    /**
     * Opens a folder with {@code config.json}, {@code model.safetensors} (or its shards) and, as
     * far as they are there, a tokenizer and {@code generation_config.json}. Weights become f32.
     *
     * @throws CheckpointException if something is missing, damaged or disagrees; nothing stays open
     */
    public static Gpt2 open(Path folder, Device device) {
        return open(folder, device, DType.F32);
    }

    /**
     * As {@link #open(Path, Device)}.
     *
     * @param dtype of the matrices, the activations and the key/value cache
     */
    public static Gpt2 open(Path folder, Device device, DType dtype) {
        Gpt2Config config = Gpt2Config.read(folder.resolve("config.json"));
        var side = ModelFolder.open(folder, config.vocabulary(), config.endIds());
        try (var in = Checkpoint.open(folder, device, dtype)) {
            in.optionalPrefix("transformer.");
            in.ignore("transformer.h.{}.attn.bias"); // the causal mask, which old checkpoints store
            in.ignore("transformer.h.{}.attn.masked_bias");
            if (config.tiedHead()) {
                in.ignore("lm_head.weight");
            }
            return new Gpt2(side.name(), device, config, in, side.tokenizer(), side.generation());
        }
    }

    /**
     * A new model with GPT-2's initial weights: N(0, 0.02²), the projections that write into the
     * residual stream N(0, 0.02² / 2L) for L layers, biases 0, norms 1. The same seed gives the
     * same weights on every device.
     *
     * @param tokenizer what {@link #save} puts beside the weights; may be null
     */
    public static Gpt2 create(
            Gpt2Config config, Device device, long seed, @Nullable Tokenizer tokenizer) {
        double std = config.initializerRange();
        double residualStd = std / Math.sqrt(2.0 * config.layers());
        var generation = GenerationConfig.of().endIds(config.endIds());
        try (var fresh =
                new FreshWeights(
                        device, seed, name -> name.endsWith("c_proj.weight") ? residualStd : std)) {
            return fresh.handOver(new Gpt2("gpt2", device, config, fresh, tokenizer, generation));
        }
    }

    @Override
    public void save(Path folder) throws IOException {
        ModelFolder.save(folder, config.toJson(), generation, parameters, tokenizer);
    }

    // ---- Forward -------------------------------------------------------------------------------

    @Override
    public Tensor hidden(Ops ops, Tensor ids_BT, @Nullable KvCache cache) {
        return hidden(ops, ids_BT, cache, null);
    }

    /**
     * The reference library's {@code hidden_states}: the embedding, the output of each layer but
     * the last, and the last one's after the final norm; [B, T, D] each.
     */
    List<Tensor> hiddenStates(Ops ops, Tensor ids_BT) {
        var states = new ArrayList<Tensor>();
        hidden(ops, ids_BT, null, states);
        return states;
    }

    private Tensor hidden(
            Ops ops, Tensor ids_BT, @Nullable KvCache cache, @Nullable List<Tensor> states) {
        checkTokens(ops, ids_BT, cache);
        // Each step's two results live in a scope of their own, which closes once the next step
        // has read them: an inference holds two layers' tensors, however many layers there are.
        Ops held = ops.scope();
        try {
            Tensor start_B = cache == null ? null : cache.lengths_B();
            Tensor x_BTD = held.embedding(ids_BT, weights.tokens_VD, weights.positions_PD, start_B);
            x_BTD = held.dropout(x_BTD, config.embeddingDropout());
            Affine norm = weights.layers.getFirst().norm1_D;
            Tensor normed_BTD = held.layerNorm(x_BTD, norm.weight, norm.bias, config.normEps());
            for (int l = 0; l < config.layers(); l++) {
                if (states != null) {
                    states.add(copy(ops, x_BTD));
                }
                Ops next = ops.scope();
                try (Ops temporary = next.scope()) {
                    var out = layer(temporary, l, x_BTD, normed_BTD, cache);
                    x_BTD = temporary.keep(out.sum());
                    normed_BTD = temporary.keep(out.normed());
                } catch (RuntimeException e) {
                    next.close();
                    throw e;
                }
                held.close();
                held = next;
            }
            if (cache != null) {
                cache.advance(ops, (int) ids_BT.size(1));
            }
            Tensor result_BTD = held.keep(normed_BTD);
            if (states != null) {
                states.add(result_BTD);
            }
            return result_BTD;
        } finally {
            held.close();
        }
    }

    private static Tensor copy(Ops ops, Tensor x) {
        Tensor copy = ops.empty(x.dtype(), x.shape());
        ops.copy(copy, x);
        return copy;
    }

    /**
     * x + attention, norm, + feed-forward, and the next layer's norm: each dropout and add fused
     * with a norm.
     */
    private LayerNorm.Residual layer(
            Ops ops, int l, Tensor x_BTD, Tensor normed_BTD, @Nullable KvCache cache) {
        Layer w = weights.layers.get(l);
        Affine nextNorm =
                l + 1 < config.layers() ? weights.layers.get(l + 1).norm1_D : weights.norm_D;
        double eps = config.normEps();
        Tensor attended_BTD = attention(ops, l, w, normed_BTD, cache);
        double dropout = config.residualDropout();
        LayerNorm.Residual middle =
                ops.layerNorm(attended_BTD, x_BTD, w.norm2_D.weight, w.norm2_D.bias, eps, dropout);
        Tensor up_BTF =
                ops.linearGelu(middle.normed(), w.up_DF.weight, w.up_DF.bias, config.gelu());
        Tensor down_BTD = ops.linear(up_BTF, w.down_FD.weight, w.down_FD.bias);
        return ops.layerNorm(down_BTD, middle.sum(), nextNorm.weight, nextNorm.bias, eps, dropout);
    }

    private Tensor attention(Ops ops, int l, Layer w, Tensor x_BTD, @Nullable KvCache cache) {
        long batch = x_BTD.size(0);
        long tokens = x_BTD.size(1);
        int h = config.heads();
        int s = config.headSize();
        Tensor qkv_BTE = ops.linear(x_BTD, w.qkv_DE.weight, w.qkv_DE.bias);
        Tensor packed_BHTS = qkv_BTE.view(batch, tokens, 3L * h, s).permute(0, 2, 1, 3);
        Tensor q_BHTS = packed_BHTS.slice(1, 0, h);
        Tensor k_BHTS = packed_BHTS.slice(1, h, 2L * h);
        Tensor v_BHTS = packed_BHTS.slice(1, 2L * h, 3L * h);
        float scale = config.scale(l);
        Tensor out_BHTS =
                cache == null
                        ? ops.attention(q_BHTS, k_BHTS, v_BHTS, Mask.CAUSAL, scale)
                        : cache.attend(ops, l, q_BHTS, k_BHTS, v_BHTS, scale);
        Tensor out_BTD = out_BHTS.permute(0, 2, 1, 3).view(batch, tokens, config.dim());
        return ops.linear(out_BTD, w.out_DD.weight, w.out_DD.bias);
    }

    @Override
    public Tensor head(Ops ops, Tensor hidden_BTD) {
        return ops.logits(hidden_BTD, weights.head_VD);
    }

    private void checkTokens(Ops ops, Tensor ids_BT, @Nullable KvCache cache) {
        if (ids_BT.rank() != 2 || ids_BT.dtype() != DType.I32) {
            throw new IllegalArgumentException(
                    "%s: ids are %s; wanted i32[batch, tokens]".formatted(name, ids_BT));
        }
        long tokens = ids_BT.size(1);
        if (cache != null) {
            cache.checkRoom(ids_BT.size(0), tokens);
        }
        long all = tokens + (cache == null ? 0 : cache.length());
        if (all > config.context()) {
            throw new IllegalArgumentException(
                    "%s: %d tokens are more than its context of %d"
                            .formatted(name, all, config.context()));
        }
        if (ops.recording()) {
            if (cache != null) {
                throw new IllegalArgumentException(
                        name + ": a key/value cache is for inference; a tape cannot record it");
            }
            if (config.attentionDropout() > 0 && !WARNED.getAndSet(true)) {
                LOG.log(
                        System.Logger.Level.WARNING,
                        "{0}: attn_pdrop {1} is not applied: the fused attention has no dropout of"
                                + " its weights",
                        name,
                        config.attentionDropout());
            }
        }
    }

    // ---- What it is ----------------------------------------------------------------------------

    @Override
    public KvCache cache(int batch, int slots) {
        return new KvCache(
                device, dtype(), config.layers(), batch, config.heads(), slots, config.headSize());
    }

    /** Sizes and settings. */
    public Gpt2Config config() {
        return config;
    }

    @Override
    public Device device() {
        return device;
    }

    @Override
    public DType dtype() {
        return weights.tokens_VD.dtype();
    }

    @Override
    public void computeIn(DType dtype) {
        List<Parameter> changed = Copies.of(this, dtype);
        Copies.close(parameters);
        parameters.clear();
        parameters.addAll(changed);
        var inOrder = changed.iterator();
        weights = weights(config, (_, _) -> inOrder.next().leaf());
    }

    @Override
    public String name() {
        return name;
    }

    @Override
    public int vocabulary() {
        return config.vocabulary();
    }

    @Override
    public int context() {
        return config.context();
    }

    @Override
    public List<Parameter> parameters() {
        return Collections.unmodifiableList(parameters);
    }

    @Override
    public Optional<Tokenizer> tokenizer() {
        return Optional.ofNullable(tokenizer);
    }

    @Override
    public GenerationConfig generationDefaults() {
        return generation;
    }

    @Override
    public void close() {
        Copies.close(parameters);
        parameters.forEach(p -> p.weight().close());
    }
}
