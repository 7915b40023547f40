package dev.gatun.cli;

import dev.gatun.kernels.DType;
import dev.gatun.transformers.CausalLm;
import dev.gatun.transformers.Generation;
import dev.gatun.transformers.GenerationConfig;
import dev.gatun.transformers.Models;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;
import picocli.CommandLine.TypeConversionException;

/** {@code gatun generate --model DIR --prompt TEXT}: continues a text. */
@Command(
        name = "generate",
        sortOptions = false,
        customSynopsis = "gatun generate --model DIR|ID --prompt TEXT|- [OPTION...]",
        description = {
            "Continues a text with a model and prints it as it comes.",
            "The most likely token is taken each time, unless one of --temperature, --top-k, --top-p,",
            "--min-p or --seed asks for sampling."
        },
        optionListHeading = "%nOptions:%n",
        footer = {
            "",
            "Examples:",
            "  ./gatun generate --model gatun-demo --prompt 'public final class ' --temperature 0.8",
            "  head -c 300 Some.java | ./gatun generate --model gatun-demo --prompt - --seed 7"
        })
final class Generate implements Callable<Integer> {
    @Spec private CommandSpec spec = CommandSpec.create();

    @Option(
            names = "--model",
            required = true,
            paramLabel = "DIR|ID",
            description = "its folder, or the id of a model in the local Hugging Face cache")
    private String model = "";

    @Option(
            names = "--prompt",
            required = true,
            paramLabel = "TEXT|-",
            description = "what to continue; - reads it from standard input")
    private String prompt = "";

    @Option(
            names = "--max-new-tokens",
            paramLabel = "N",
            defaultValue = "128",
            description = "at most so many tokens (default: ${DEFAULT-VALUE})")
    private int maxNewTokens;

    @Option(
            names = "--temperature",
            paramLabel = "T",
            description = "below 1 rare tokens become rarer (default when sampling: 1)")
    private @Nullable Float temperature;

    @Option(
            names = "--top-k",
            paramLabel = "K",
            description = "only the K most likely tokens; 0: all (default when sampling: 50)")
    private @Nullable Integer topK;

    @Option(
            names = "--top-p",
            paramLabel = "P",
            description = "only the most likely tokens that together have probability P")
    private @Nullable Float topP;

    @Option(
            names = "--min-p",
            paramLabel = "P",
            description = "only tokens at least P times as likely as the most likely one")
    private @Nullable Float minP;

    @Option(
            names = "--seed",
            paramLabel = "N",
            description =
                    "the same seed draws the same text again (default: another one each time)")
    private @Nullable Long seed;

    @Option(
            names = "--greedy",
            description = "the most likely token each time, whatever the model's own settings say")
    private boolean greedy;

    @Option(
            names = "--dtype",
            paramLabel = "DTYPE",
            defaultValue = "f32",
            converter = FloatName.class,
            description =
                    "of the weights and the key/value cache: f32, bf16 or f16"
                            + " (default: ${DEFAULT-VALUE})")
    private DType dtype = DType.F32;

    @Mixin private RunOptions options = new RunOptions();

    /** The float dtypes, in small letters. */
    private static final class FloatName implements ITypeConverter<DType> {
        @Override
        public DType convert(String name) {
            return switch (name.toLowerCase(Locale.ROOT)) {
                case "f32" -> DType.F32;
                case "bf16" -> DType.BF16;
                case "f16" -> DType.F16;
                default ->
                        throw new TypeConversionException(
                                "there is no dtype '%s' for weights; f32, bf16 or f16"
                                        .formatted(name));
            };
        }
    }

    @Override
    public Integer call() throws IOException {
        GenerationConfig config = config();
        String text =
                prompt.equals("-")
                        ? new String(System.in.readAllBytes(), StandardCharsets.UTF_8)
                        : prompt;
        PrintWriter out = spec.commandLine().getOut();
        PrintWriter err = spec.commandLine().getErr();
        try (var device = options.open();
                CausalLm lm = Models.open(model, device, dtype)) {
            var unprinted = new StringBuilder(text); // until the model has accepted it
            Generation generation =
                    lm.generate(
                            text,
                            config,
                            piece -> {
                                out.print(unprinted.append(piece));
                                out.flush();
                                unprinted.setLength(0);
                            });
            out.println(unprinted);
            out.flush();
            err.printf(
                    "%n%d prompt token%s in %.0f ms, then %d tokens at %.1f tokens/s on %s in %s%s%n",
                    generation.promptTokens(),
                    generation.promptTokens() == 1 ? "" : "s",
                    generation.prefillSeconds() * 1e3,
                    generation.ids().size(),
                    generation.tokensPerSecond(),
                    device.name(),
                    lm.dtype(),
                    generation.finish() == Generation.Finish.CONTEXT
                            ? "; the model's context of %d tokens is full".formatted(lm.context())
                            : "");
            err.flush();
            options.printProfile(device, err);
        }
        return 0;
    }

    private GenerationConfig config() {
        var limits = new Limits(spec.commandLine());
        if (greedy && (temperature != null || topK != null || topP != null || minP != null)) {
            throw new ParameterException(
                    spec.commandLine(),
                    "--greedy takes the most likely token each time: it goes with no other sampling option");
        }
        var config =
                GenerationConfig.of()
                        .maxNewTokens(limits.whole("--max-new-tokens", maxNewTokens, 1, 1_000_000));
        if (temperature != null) {
            config = config.temperature((float) limits.above("--temperature", temperature, 0, 100));
        }
        if (topK != null) {
            config = config.topK(limits.whole("--top-k", topK, 0, 10_000_000));
        }
        if (topP != null) {
            config = config.topP((float) limits.above("--top-p", topP, 0, 1));
        }
        if (minP != null) {
            config = config.minP((float) limits.below("--min-p", minP, 0, 1));
        }
        if (seed != null) {
            config = config.seed(seed);
        }
        return greedy ? config.greedy() : config;
    }
}
