package dev.gatun.cli;

import static java.nio.charset.StandardCharsets.UTF_8;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/**
 * {@code gatun bench [JMH-ARGUMENT…]}: the JMH benchmarks, on the JDK that runs this. {@code gatun
 * bench --device sim --counters [PATTERN]}: what the kernels do, counted.
 */
@Command(
        name = "bench",
        customSynopsis = {
            "gatun bench [--device DEVICE] [JMH-ARGUMENT...]",
            "       gatun bench --device sim --counters [PATTERN]"
        },
        description = {
            "Runs the JMH benchmarks on the JDK that runs this.",
            "The arguments go to JMH as they are: a pattern of benchmark names (default: all), -l to",
            "list them, -h for all of JMH's options."
        },
        parameterListHeading = "%nArguments:%n",
        optionListHeading = "%nOptions:%n",
        footer = {
            "",
            "Examples:",
            "  ./gatun bench -l",
            "  ./gatun bench CallOverhead -f 1 -wi 3 -i 5",
            "  ./gatun bench --device cuda OpBenchmark",
            "  ./gatun bench --device sim --counters layer_norm",
        })
final class Bench implements Callable<Integer> {
    @Parameters(paramLabel = "JMH-ARGUMENT", arity = "0..*", description = "passed on to JMH")
    private List<String> arguments = new ArrayList<>();

    @Option(
            names = "--device",
            paramLabel = "DEVICE",
            description = {
                "run on cpu, cuda, cuda:N or sim, and keep the results, with machine, date and",
                "commit, under bench/results/ (default: the best device, and nothing is kept)"
            })
    private @Nullable String device;

    @Option(
            names = "--counters",
            description = {
                "with --device sim, instead of JMH: what each kernel does at the shapes",
                "of a GPT-2 step (bytes, sectors, bank conflicts, mma), for the op cases",
                "that match the pattern"
            })
    private boolean counters;

    @Spec private CommandSpec spec = CommandSpec.create();

    // no -h: that one is JMH's
    @SuppressWarnings("UnusedVariable") // picocli sets it and acts on it
    @Option(names = "--help", usageHelp = true, description = "show this text")
    private boolean help;

    @Override
    public Integer call() throws IOException, InterruptedException {
        String home = System.getProperty("gatun.home", ".");
        if (counters) {
            if (!"sim".equals(device)) {
                throw new ParameterException(
                        spec.commandLine(),
                        "--counters goes with --device sim: only the simulated device counts");
            }
            return run(java(home, "dev.gatun.bench.Counters", arguments));
        }
        var all = new ArrayList<>(arguments);
        all.addAll(List.of("-prof", "dev.gatun.bench.Rates")); // device time and rates
        if (device == null) {
            return run(java(home, "org.openjdk.jmh.Main", all));
        }
        Path results = Files.createTempFile("gatun-bench", ".json");
        try {
            all.addAll(List.of("-p", "device=" + device));
            all.addAll(List.of("-rf", "json", "-rff", results.toString()));
            int code = run(java(home, "org.openjdk.jmh.Main", all));
            if (code == 0 && Files.size(results) > 0) {
                System.out.println("kept in " + keep(Path.of(home), device, results));
            }
            return code;
        } finally {
            Files.delete(results);
        }
    }

    /** What JMH measured, and what it was measured on. */
    static Path keep(Path home, String device, Path results) throws IOException {
        var json = new ObjectMapper();
        Instant now = Instant.now().truncatedTo(ChronoUnit.SECONDS);
        Map<String, Object> all = new LinkedHashMap<>();
        all.put("date", now.toString());
        all.put("device", device);
        all.put("commit", commit(home));
        all.putAll(Info.machine());
        all.put("results", json.readTree(results.toFile()));
        Path folder = Files.createDirectories(home.resolve("bench").resolve("results"));
        String name = "%s-%s.json".formatted(now.toString().replace(':', '-'), device);
        Path file = folder.resolve(name.replace(':', '-'));
        Files.writeString(
                file, json.writerWithDefaultPrettyPrinter().writeValueAsString(all) + "\n");
        return file;
    }

    /** The commit that is checked out, or that a bundle was packed from. */
    static String commit(Path home) throws IOException {
        Path packed = home.resolve("COMMIT");
        if (Files.exists(packed)) {
            return Files.readString(packed).strip();
        }
        try {
            Process git =
                    new ProcessBuilder(
                                    "git",
                                    "-C",
                                    home.toString(),
                                    "describe",
                                    "--always",
                                    "--dirty",
                                    "--abbrev=12",
                                    "--exclude=*")
                            .redirectError(ProcessBuilder.Redirect.DISCARD)
                            .start();
            String said = new String(git.getInputStream().readAllBytes(), UTF_8).strip();
            return git.waitFor() == 0 ? said : "unknown";
        } catch (IOException _) {
            return "unknown"; // there is no git
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            return "unknown";
        }
    }

    static int run(List<String> command) throws IOException, InterruptedException {
        return new ProcessBuilder(command).inheritIO().start().waitFor() == 0 ? 0 : 1;
    }

    /** Java, this process' gatun.* settings, and a main class of the benchmarks' jar. */
    static List<String> java(String home, String main, List<String> arguments) {
        Path jar = Path.of(home, "bench", "target", "benchmarks.jar");
        if (!Files.exists(jar)) {
            throw new IllegalStateException(
                    "%s: not built; run: mvn -pl bench -am -DskipTests package".formatted(jar));
        }
        var command = new ArrayList<String>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.add("--enable-native-access=ALL-UNNAMED");
        System.getProperties().stringPropertyNames().stream()
                .filter(name -> name.startsWith("gatun."))
                .sorted()
                .forEach(name -> command.add("-D%s=%s".formatted(name, System.getProperty(name))));
        command.addAll(List.of("-cp", jar.toString(), main));
        command.addAll(arguments);
        return command;
    }
}
