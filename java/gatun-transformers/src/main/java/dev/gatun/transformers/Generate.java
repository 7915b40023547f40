package dev.gatun.transformers;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Graph;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Rng;
import dev.gatun.kernels.Sampling;
import dev.gatun.kernels.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * Prefill, then one token after the other, over a key/value cache.
 *
 * <p>Prompts of different lengths run together padded at their ends: a causal model never looks at
 * what comes later, and the cache forgets the padding before the first new token.
 *
 * <p>B texts, T tokens of the longest prompt, D model width, V vocabulary.
 */
final class Generate {
    /** Receives each new token as it comes. */
    @FunctionalInterface
    interface Sink {
        void accept(int row, int id);
    }

    private Generate() {}

    static Generation text(
            CausalLm model, String prompt, GenerationConfig config, Consumer<String> sink) {
        Tokenizer tokenizer =
                model.tokenizer()
                        .orElseThrow(() ->
                                new IllegalStateException(
                                        model.name()
                                                + ": has no tokenizer (tokenizer.json, or"
                                                + " vocab.json and merges.txt); generate"
                                                + " from token ids instead"));
        int[] ids = tokenizer.encode(prompt);
        if (ids.length == 0) {
            // a text out of nothing begins where the model's texts begin
            ids =
                    new int[] {
                        tokenizer
                                .endOfText()
                                .orElseThrow(
                                        () -> new IllegalArgumentException("the prompt is empty"))
                    };
        }
        var stream = new TokenStream(tokenizer, true);
        Generation generation =
                ids(
                                model,
                                List.of(ids),
                                config,
                                (_, id) -> {
                                    String text = stream.accept(id);
                                    if (!text.isEmpty()) {
                                        sink.accept(text);
                                    }
                                })
                        .getFirst();
        String rest = stream.flush();
        if (!rest.isEmpty()) {
            sink.accept(rest);
        }
        return generation;
    }

    static List<Generation> ids(
            CausalLm model, List<int[]> prompts, GenerationConfig asked, Sink sink) {
        GenerationConfig config = asked.orElse(model.generationDefaults());
        if (!config.missing().isEmpty()) {
            throw new UnsupportedOperationException(
                    "generation: %s is not supported yet".formatted(config.missing().getFirst()));
        }
        if (prompts.isEmpty()) {
            return List.of();
        }
        int shortest = Integer.MAX_VALUE;
        int longest = 0;
        for (int[] prompt : prompts) {
            checkPrompt(model, prompt);
            shortest = Math.min(shortest, prompt.length);
            longest = Math.max(longest, prompt.length);
        }
        int most = Math.min(config.maxNewTokens(), model.context() - shortest);
        int slots = Math.min(longest + most, model.context());
        Device device = model.device();
        try (var cache = model.cache(prompts.size(), slots);
                Tensor next = state(device, prompts.size());
                Tensor step = state(device);
                Ops ops = device.ops()) {
            step.write(new long[1]);
            var run = new Run(model, config, cache, next, step, prompts, sink);
            return run.run(ops, longest, most);
        }
    }

    private static Tensor state(Device device, long... batch) {
        return batch.length == 0
                ? Tensor.empty(device, DType.I64, Purpose.OTHER, 1)
                : Tensor.empty(device, DType.I32, Purpose.OTHER, batch);
    }

    private static void checkPrompt(CausalLm model, int[] prompt) {
        if (prompt.length == 0) {
            throw new IllegalArgumentException(
                    "the prompt is empty: it has no token to begin with");
        }
        if (prompt.length >= model.context()) {
            throw new IllegalArgumentException(
                    "the prompt has %d tokens, the context of %s is %d: shorten it to at most %d"
                            .formatted(
                                    prompt.length,
                                    model.name(),
                                    model.context(),
                                    model.context() - 1));
        }
    }

    /** One call's state. */
    private static final class Run {
        private final CausalLm model;
        private final KvCache cache;
        private final Tensor next_B;
        private final Tensor step;
        private final List<int[]> prompts;
        private final Sink sink;
        private final List<Integer> ends;
        private final int maxNewTokens;
        private final @Nullable Sampling sampling;
        private final Rng rng;
        private final List<List<Integer>> outputs = new ArrayList<>();
        private final Generation.@Nullable Finish[] finishes;
        private int running;

        Run(
                CausalLm model,
                GenerationConfig config,
                KvCache cache,
                Tensor next_B,
                Tensor step,
                List<int[]> prompts,
                Sink sink) {
            this.model = model;
            this.cache = cache;
            this.next_B = next_B;
            this.step = step;
            this.prompts = prompts;
            this.sink = sink;
            this.ends = config.ends();
            this.maxNewTokens = config.maxNewTokens();
            this.sampling = config.isGreedy() ? null : config.sampling();
            this.rng = new Rng(config.seed(), step, 0);
            this.finishes = new Generation.Finish[prompts.size()];
            this.running = prompts.size();
            prompts.forEach(_ -> outputs.add(new ArrayList<>()));
        }

        List<Generation> run(Ops ops, int longest, int most) {
            long start = System.nanoTime();
            prefill(ops, longest);
            take(next_B.toInts());
            long first = System.nanoTime();
            if (model.device().profiling()) { // it would leave out what a graph runs
                for (int i = 1; i < most && running > 0; i++) {
                    ops.reset();
                    decode(ops);
                    take(next_B.toInts());
                }
            } else if (most > 1 && running > 0) {
                ops.reset();
                try (Graph step = Graph.capture(model.device(), rng, this::decode)) {
                    step.launch();
                    take(next_B.toInts());
                    for (int i = 2; i < most && running > 0; i++) {
                        cache.launched(1);
                        step.launch();
                        take(next_B.toInts());
                    }
                }
            }
            double prefillSeconds = (first - start) * 1e-9;
            double decodeSeconds = (System.nanoTime() - first) * 1e-9;
            var generations = new ArrayList<Generation>();
            for (int b = 0; b < outputs.size(); b++) {
                Generation.Finish finish = finishes[b];
                generations.add(
                        new Generation(
                                List.copyOf(outputs.get(b)),
                                finish == null ? Generation.Finish.CONTEXT : finish,
                                prompts.get(b).length,
                                prefillSeconds,
                                decodeSeconds));
            }
            return generations;
        }

        /**
         * One more token of each text. Everything that changes from step to step is on the device.
         */
        private void decode(Ops ops) {
            choose(ops, model.hidden(ops, next_B.view(prompts.size(), 1), cache));
        }

        private void prefill(Ops ops, int longest) {
            int batch = prompts.size();
            int[] padded = new int[batch * longest];
            int[] lengths = new int[batch];
            for (int b = 0; b < batch; b++) {
                lengths[b] = prompts.get(b).length;
                System.arraycopy(prompts.get(b), 0, padded, b * longest, lengths[b]);
            }
            Tensor ids_BT = ops.ids(padded, model.vocabulary(), batch, longest);
            Tensor hidden_BTD = model.hidden(ops, ids_BT, cache);
            // only the last token of each text says what comes next: V columns for B rows, not B·T
            Tensor last_B1D;
            if (Arrays.stream(lengths).allMatch(length -> length == longest)) {
                last_B1D = hidden_BTD.slice(1, longest - 1, longest);
            } else {
                last_B1D = ops.empty(hidden_BTD.dtype(), batch, 1, hidden_BTD.size(2));
                for (int b = 0; b < batch; b++) {
                    ops.copy(
                            last_B1D.slice(0, b, b + 1),
                            hidden_BTD.slice(0, b, b + 1).slice(1, lengths[b] - 1, lengths[b]));
                }
                cache.truncate(lengths);
            }
            choose(ops, last_B1D);
        }

        /** Leaves the next token of each text in next_B, on the device. */
        private void choose(Ops ops, Tensor hidden_B1D) {
            Tensor logits_BV = model.head(ops, hidden_B1D).view(prompts.size(), model.vocabulary());
            if (sampling == null) {
                ops.copy(next_B, ops.argmax(logits_BV));
            } else {
                ops.copy(next_B, ops.sample(logits_BV, sampling, rng));
                ops.increment(step, 1);
            }
        }

        private void take(int[] ids) {
            for (int b = 0; b < ids.length; b++) {
                if (finishes[b] != null) {
                    continue; // it runs along with the others; what it says no longer counts
                }
                List<Integer> output = outputs.get(b);
                output.add(ids[b]);
                if (ends.contains(ids[b])) {
                    finishes[b] = Generation.Finish.END;
                } else if (output.size() == maxNewTokens) {
                    finishes[b] = Generation.Finish.LENGTH;
                } else if (prompts.get(b).length + output.size() == model.context()) {
                    finishes[b] = Generation.Finish.CONTEXT;
                }
                if (finishes[b] != null) {
                    running--;
                    cache.restart(b); // so that it never fills its slots while others go on
                }
                sink.accept(b, ids[b]);
            }
        }
    }
}
