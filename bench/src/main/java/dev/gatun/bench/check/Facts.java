package dev.gatun.bench.check;

import dev.gatun.kernels.Device;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

/** The machine and the build that figures belong to. */
final class Facts {
    private static final String GPU_FIELDS =
            "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,clocks.mem,"
                    + "power.limit,temperature.gpu,ecc.mode.current";

    private Facts() {}

    static Map<String, String> all(Options options) {
        Map<String, String> facts = new LinkedHashMap<>();
        facts.put("date", Instant.now().truncatedTo(ChronoUnit.SECONDS).toString());
        facts.put("commit", commit(options.home()));
        facts.put("device asked for", options.device());
        facts.put("native library", Device.version());
        facts.put("processor", processor());
        facts.put("system", system());
        facts.put(
                "java",
                System.getProperty("java.vendor")
                        + " "
                        + System.getProperty("java.runtime.version"));
        Optional<String> gpu =
                output("nvidia-smi", "--query-gpu=" + GPU_FIELDS, "--format=csv,noheader");
        String[] names = GPU_FIELDS.split(",");
        int number = 0;
        for (String line : gpu.map(text -> text.lines().toList()).orElse(List.of())) {
            String[] values = line.split(", ");
            StringBuilder text = new StringBuilder();
            for (int i = 0; i < Math.min(names.length, values.length); i++) {
                text.append(i == 0 ? "" : ", ");
                text.append(i == 0 ? "" : names[i] + " ").append(values[i]);
            }
            facts.put("gpu " + number++, text.toString());
        }
        if (gpu.isEmpty()) {
            facts.put("gpu", "nvidia-smi is not here or found none");
        }
        facts.put(
                "nvcc",
                nvcc().flatMap(n -> output(n, "--version"))
                        .map(text -> text.lines().reduce("", (_, last) -> last))
                        .orElse("not found"));
        return facts;
    }

    /** What the GPU does at this moment. */
    static String clocks() {
        return output(
                        "nvidia-smi",
                        "--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu",
                        "--format=csv,noheader")
                .map(text -> "SM clock, memory clock, power, temperature: " + text.strip())
                .orElse("nvidia-smi does not say the clocks");
    }

    /** The commit of a repository, or what the bundle wrote down when it was packed. */
    static String commit(Path home) {
        try {
            Path packed = home.resolve("COMMIT");
            if (Files.exists(packed)) {
                return Files.readString(packed).strip();
            }
        } catch (IOException e) {
            return "unknown (" + e.getMessage() + ")";
        }
        return output(
                        "git",
                        "-C",
                        home.toString(),
                        "describe",
                        "--always",
                        "--dirty",
                        "--abbrev=12",
                        "--exclude=*")
                .map(String::strip)
                .orElse("unknown");
    }

    /** Where nvcc is, if anywhere. */
    static Optional<String> nvcc() {
        for (String candidate : List.of("nvcc", "/usr/local/cuda/bin/nvcc")) {
            if (output(candidate, "--version").isPresent()) {
                return Optional.of(candidate);
            }
        }
        return Optional.empty();
    }

    /** What a command prints; empty where it is not here, fails or takes longer than 20 s. */
    static Optional<String> output(String... command) {
        try {
            Process process =
                    new ProcessBuilder(command)
                            .redirectError(ProcessBuilder.Redirect.DISCARD)
                            .start();
            process.getOutputStream().close();
            // these print little: it fits the pipe
            if (!process.waitFor(20, TimeUnit.SECONDS)) {
                process.destroyForcibly();
                return Optional.empty();
            }
            String text =
                    new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            return process.exitValue() == 0 ? Optional.of(text) : Optional.empty();
        } catch (IOException e) {
            return Optional.empty();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            return Optional.empty();
        }
    }

    private static String processor() {
        return field("/proc/cpuinfo", "model name").orElse(System.getProperty("os.arch"))
                + ", "
                + Runtime.getRuntime().availableProcessors()
                + " cores, "
                + field("/proc/meminfo", "MemTotal").orElse("unknown memory");
    }

    private static String system() {
        return field("/etc/os-release", "PRETTY_NAME")
                        .map(name -> name.replace("\"", ""))
                        .orElse("Linux")
                + ", kernel "
                + System.getProperty("os.version");
    }

    private static Optional<String> field(String file, String name) {
        try {
            return Files.readAllLines(Path.of(file)).stream()
                    .filter(line -> line.startsWith(name))
                    .map(line -> line.replaceFirst("^[^:=]*[:=]", "").strip())
                    .findFirst();
        } catch (IOException e) {
            return Optional.empty();
        }
    }
}
