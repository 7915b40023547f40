package dev.gatun.cli;

import dev.gatun.transformers.CausalLm;
import dev.gatun.transformers.GenerationConfig;
import dev.gatun.transformers.Models;
import java.io.PrintWriter;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code gatun generate}: continues a text. */
@Command(
        name = "generate",
        mixinStandardHelpOptions = true,
        sortOptions = false,
        description = {
            "Continues a text with a model, as it comes. The most likely token is taken each time",
            "unless a temperature, top-k, top-p, min-p or seed asks for sampling."
        },
        footer = {
            "",
            "Example:",
            "  gatun generate --model gatun-demo --prompt 'public final class ' --temperature 0.8 --seed 7"
        })
final class Generate implements Callable<Integer> {
    @Spec private CommandSpec spec;
    @Mixin private RunOptions options = new RunOptions();

    @Option(
            names = "--model",
            required = true,
            paramLabel = "DIR|ID",
            description = "a folder with config.json and model.safetensors, or a hub id in the local cache")
    private String model = "";

    @Option(names = "--prompt", required = true, paramLabel = "TEXT", description = "what to continue")
    private String prompt = "";

    @Option(
            names = "--max-new-tokens",
            paramLabel = "N",
            defaultValue = "128",
            description = "at most that many tokens (default: ${DEFAULT-VALUE})")
    private int maxNewTokens;

    @Option(names = "--temperature", paramLabel = "T", description = "sample; below 1 is more cautious")
    private @Nullable Float temperature;

    @Option(names = "--top-k", paramLabel = "K", description = "sample from the K most likely tokens")
    private @Nullable Integer topK;

    @Option(
            names = "--top-p",
            paramLabel = "P",
            description = "sample from the most likely tokens of total probability P")
    private @Nullable Float topP;

    @Option(
            names = "--min-p",
            paramLabel = "P",
            description = "sample from tokens at least P times as likely as the likeliest")
    private @Nullable Float minP;

    @Option(names = "--seed", paramLabel = "N", description = "sample, the same text each time")
    private @Nullable Long seed;

    @Option(names = "--greedy", description = "the most likely token, whatever the model's own defaults")
    private boolean greedy;

    Generate() {
        spec = CommandSpec.create();
    }

    @Override
    public Integer call() {
        GenerationConfig config = config();
        PrintWriter out = spec.commandLine().getOut();
        PrintWriter err = spec.commandLine().getErr();
        try (var device = options.open();
                CausalLm lm = Models.open(model, device)) {
            out.print(prompt);
            out.flush();
            var generation =
                    lm.generate(
                            prompt,
                            config,
                            text -> {
                                out.print(text);
                                out.flush();
                            });
            out.println();
            out.flush();
            err.printf(
                    Locale.ROOT,
                    "%d prompt tokens in %.0f ms, then %d tokens at %.1f tokens/s%n",
                    generation.promptTokens(),
                    generation.prefillSeconds() * 1e3,
                    generation.ids().size(),
                    generation.tokensPerSecond());
            err.flush();
            options.printProfile(device, err);
        }
        return 0;
    }

    private GenerationConfig config() {
        try {
            var config = GenerationConfig.of().maxNewTokens(maxNewTokens);
            if (temperature != null) {
                config = config.temperature(temperature);
            }
            if (topK != null) {
                config = config.topK(topK);
            }
            if (topP != null) {
                config = config.topP(topP);
            }
            if (minP != null) {
                config = config.minP(minP);
            }
            if (seed != null) {
                config = config.seed(seed);
            }
            return greedy ? config.greedy() : config;
        } catch (IllegalArgumentException e) {
            throw new ParameterException(spec.commandLine(), String.valueOf(e.getMessage()), e);
        }
    }
}
