package dev.gatun.cli;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code gatun gpu-check}: is everything right on this GPU, and how fast is it. */
@Command(
        name = "gpu-check",
        sortOptions = false,
        customSynopsis = "gatun gpu-check [OPTION...]",
        description = {
            "Checks and measures everything on this machine's GPU, and writes a report.",
            "The wrappers of ptx.cuh, every op against float64, GPT-2 against the cpu device, device",
            "times, cuBLAS and PyTorch where they are found, the compute sanitizer where installed.",
            "What cannot run is named with the reason."
        },
        optionListHeading = "%nOptions:%n",
        footer = {
            "",
            "Examples:",
            "  ./gatun gpu-check",
            "  ./gatun gpu-check --only layer_norm --rebuild   after mending a kernel",
            "  ./gatun gpu-check --device sim                  the same, simulated, without a GPU",
            "",
            "Exit code 1 if anything is wrong. docs/gpu.md says how to read the report."
        })
final class GpuCheck extends HelpOptions implements Callable<Integer> {
    @Spec private CommandSpec spec = CommandSpec.create();

    @Option(
            names = "--device",
            paramLabel = "DEVICE",
            defaultValue = "cuda",
            description = "cuda, cuda:N, sim or cpu (default: cuda)")
    private String device = "cuda";

    @Option(
            names = "--only",
            paramLabel = "OP",
            description = "only cases and timings of ops whose names begin so")
    private @Nullable String only;

    @Option(
            names = "--rebuild",
            description =
                    "first compile the CUDA plugin anew, with the nvcc and g++ of this machine")
    private boolean rebuild;

    @Option(
            names = "--report",
            paramLabel = "FILE",
            defaultValue = "gpu-check.md",
            description = "where the report goes (default: gpu-check.md); its figures go beside it")
    private Path report = Path.of("gpu-check.md");

    @Option(
            names = "--minutes",
            paramLabel = "M",
            defaultValue = "9",
            description = "the time for all parts together (default: 9)")
    private double minutes;

    @Override
    public Integer call() throws IOException, InterruptedException {
        new Limits(spec.commandLine()).above("--minutes", minutes, 0, 10_000);
        if (!device.matches("cuda(:\\d+)?|sim|cpu")) {
            throw new ParameterException(
                    spec.commandLine(),
                    "--device is '%s'; it must be cuda, cuda:N, sim or cpu".formatted(device));
        }
        var arguments = new ArrayList<String>();
        arguments.addAll(List.of("--device", device, "--minutes", String.valueOf(minutes)));
        arguments.addAll(List.of("--report", report.toAbsolutePath().toString()));
        arguments.addAll(List.of("--rebuild", String.valueOf(rebuild)));
        if (only != null) {
            arguments.addAll(List.of("--only", only));
        }
        String home = System.getProperty("gatun.home", ".");
        return Bench.run(Bench.java(home, "dev.gatun.bench.check.GpuCheck", arguments));
    }
}
