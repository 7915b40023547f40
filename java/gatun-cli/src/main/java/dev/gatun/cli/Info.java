package dev.gatun.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import dev.gatun.kernels.Device;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code gatun info}: what is here, and why something is not. */
@Command(
        name = "info",
        sortOptions = false,
        customSynopsis = "gatun info [OPTION...]",
        description =
                "Shows the devices (and why one is not here), the processor, memory and versions.",
        optionListHeading = "%nOptions:%n")
final class Info extends HelpOptions implements Callable<Integer> {
    /** The features that the cpu device or oneDNN use. */
    private static final Set<String> FEATURES =
            Set.of(
                    "avx",
                    "avx2",
                    "fma",
                    "f16c",
                    "avx512f",
                    "avx512bw",
                    "avx512vl",
                    "avx512dq",
                    "avx512_bf16",
                    "avx512_fp16",
                    "avx512_vnni",
                    "avx_vnni",
                    "amx_tile",
                    "amx_bf16",
                    "amx_int8");

    @Spec private CommandSpec spec = CommandSpec.create();

    @Option(names = "--json", description = "print one JSON object, for programs")
    private boolean json;

    @Override
    public Integer call() throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        List<Device.Availability> devices = Device.available();
        var facts = new LinkedHashMap<String, String>();
        facts.put("gatun", Version.of());
        facts.put("native", Device.version());
        facts.putAll(machine());
        if (json) {
            var all = new LinkedHashMap<String, Object>(facts);
            all.put("devices", devices);
            out.println(
                    new ObjectMapper().writerWithDefaultPrettyPrinter().writeValueAsString(all));
        } else {
            for (var device : devices) {
                String what = device.description();
                String own = device.name() + ": "; // a reason names its device
                out.printf(
                        "%-11s %s%n",
                        device.name(),
                        device.here()
                                ? what
                                : "not here: "
                                        + (what.startsWith(own)
                                                ? what.substring(own.length())
                                                : what));
            }
            facts.forEach((name, value) -> out.printf("%-11s %s%n", name, value));
        }
        out.flush();
        return 0;
    }

    /** The machine that figures are made on, as reports name it. */
    static Map<String, String> machine() throws IOException {
        var facts = new LinkedHashMap<String, String>();
        List<String> cpuinfo = lines("/proc/cpuinfo");
        facts.put("processor", field(cpuinfo, "model name").orElse(System.getProperty("os.arch")));
        facts.put("cores", String.valueOf(Runtime.getRuntime().availableProcessors()));
        var features = new TreeSet<>(List.of(field(cpuinfo, "flags").orElse("").split(" ")));
        features.retainAll(FEATURES);
        facts.put("features", String.join(" ", features));
        List<String> meminfo = lines("/proc/meminfo");
        facts.put(
                "memory",
                "%s, %s available"
                        .formatted(
                                gigabytes(meminfo, "MemTotal"),
                                gigabytes(meminfo, "MemAvailable")));
        facts.put(
                "java",
                "%s %s"
                        .formatted(
                                System.getProperty("java.vendor"),
                                System.getProperty("java.runtime.version")));
        facts.put(
                "system",
                "%s %s".formatted(System.getProperty("os.name"), System.getProperty("os.version")));
        return facts;
    }

    private static List<String> lines(String file) throws IOException {
        Path path = Path.of(file);
        return Files.exists(path) ? Files.readAllLines(path) : List.of();
    }

    private static Optional<String> field(List<String> lines, String name) {
        return lines.stream()
                .filter(line -> line.startsWith(name))
                .map(line -> line.substring(line.indexOf(':') + 1).strip())
                .findFirst();
    }

    private static String gigabytes(List<String> meminfo, String name) {
        return field(meminfo, name)
                .map(kib -> Long.parseLong(kib.replaceAll("\\D", "")) * 1024 / 1e9)
                .map("%.1f GB"::formatted)
                .orElse("unknown");
    }

    /** {@code gatun --version}. */
    static final class Version implements CommandLine.IVersionProvider {
        @Override
        public String[] getVersion() {
            return new String[] {"gatun " + of()};
        }

        static String of() {
            String version = Main.class.getPackage().getImplementationVersion();
            return version == null ? "unpackaged build" : version;
        }
    }
}
