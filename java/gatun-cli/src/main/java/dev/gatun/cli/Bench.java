package dev.gatun.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Parameters;

/** {@code gatun bench}: the JMH benchmarks, on the JDK that runs this. */
@Command(
        name = "bench",
        description = {
            "Runs the JMH benchmarks on this JDK. What follows goes to JMH as it is:",
            "a pattern of benchmark names, -l to list them, -h for all of JMH's options."
        },
        footer = {"", "Example:", "  gatun bench CallOverhead -f 1"})
final class Bench implements Callable<Integer> {
    @Parameters(paramLabel = "JMH-ARGUMENT", description = "passed on to JMH", arity = "0..*")
    private List<String> arguments = new ArrayList<>();

    @Override
    public Integer call() throws IOException, InterruptedException {
        Path home = Path.of(System.getProperty("gatun.home", "."));
        Path jar = home.resolve("bench/target/benchmarks.jar");
        if (!Files.exists(jar)) {
            throw new IllegalStateException(
                    "%s: not built; run: mvn -pl bench -am -DskipTests package".formatted(jar));
        }
        var command = new ArrayList<String>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.add("--enable-native-access=ALL-UNNAMED");
        String library = System.getProperty("gatun.library.path");
        if (library != null) {
            command.add("-Dgatun.library.path=" + library);
        }
        command.addAll(List.of("-jar", jar.toString()));
        command.addAll(arguments);
        return new ProcessBuilder(command).inheritIO().start().waitFor() == 0 ? 0 : 1;
    }
}
