package dev.gatun.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/** {@code gatun bench [JMH-ARGUMENT…]}: the JMH benchmarks, on the JDK that runs this. */
@Command(
        name = "bench",
        customSynopsis = "gatun bench [JMH-ARGUMENT...]",
        description = {
            "Runs the JMH benchmarks on the JDK that runs this.",
            "All arguments go to JMH as they are: a pattern of benchmark names (default: all), -l to",
            "list them, -h for all of JMH's options."
        },
        parameterListHeading = "%nArguments:%n",
        optionListHeading = "%nOptions:%n",
        footer = {
            "",
            "Examples:",
            "  ./gatun bench -l",
            "  ./gatun bench CallOverhead -f 1 -wi 3 -i 5",
        })
final class Bench implements Callable<Integer> {
    @Parameters(paramLabel = "JMH-ARGUMENT", arity = "0..*", description = "passed on to JMH")
    private List<String> arguments = new ArrayList<>();

    // no -h: that one is JMH's
    @SuppressWarnings("UnusedVariable") // picocli sets it and acts on it
    @Option(names = "--help", usageHelp = true, description = "show this text")
    private boolean help;

    @Override
    public Integer call() throws IOException, InterruptedException {
        var process = new ProcessBuilder(command(System.getProperty("gatun.home", "."), arguments));
        return process.inheritIO().start().waitFor() == 0 ? 0 : 1;
    }

    /** Java, this process' gatun.* settings, the jar, and what JMH shall be told. */
    static List<String> command(String home, List<String> arguments) {
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
        command.addAll(List.of("-jar", jar.toString()));
        command.addAll(arguments);
        return command;
    }
}
