package dev.gatun.kernels;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** A JVM of its own, for what must not happen in the one that runs the tests. */
public final class Child {

    /** How it ended and what it printed. */
    public record Result(int exit, String output) {}

    private Child() {}

    /** The class path that has this module's classes, its tests and what they need. */
    public static String classPath() {
        List<String> entries = new ArrayList<>();
        entries.add(System.getProperty("java.class.path", ""));
        entries.add(System.getProperty("jdk.module.path", ""));
        Path target = Fixtures.repository().resolve("java/gatun-kernels/target");
        for (String folder : List.of("classes", "test-classes")) {
            if (Files.isDirectory(target.resolve(folder))) {
                entries.add(target.resolve(folder).toString());
            }
        }
        return String.join(":", entries.stream().filter(e -> !e.isEmpty()).toList());
    }

    /** Runs a main class with these options of the JVM. */
    public static Result run(
            List<String> options, Map<String, String> environment, Class<?> main, String... args)
            throws IOException, InterruptedException {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.add("-Xmx512m");
        command.addAll(options);
        command.add("-cp");
        command.add(classPath());
        command.add(main.getName());
        command.addAll(List.of(args));
        return run(command, environment);
    }

    /** Runs a command to its end. */
    public static Result run(List<String> command, Map<String, String> environment)
            throws IOException, InterruptedException {
        Path log = Files.createTempFile("child", ".log");
        try {
            ProcessBuilder builder =
                    new ProcessBuilder(command)
                            .redirectErrorStream(true)
                            .redirectOutput(log.toFile());
            builder.environment().putAll(environment);
            Process process = builder.start();
            if (!process.waitFor(5, TimeUnit.MINUTES)) {
                process.destroyForcibly();
                throw new IOException("still running after 5 minutes: " + command);
            }
            return new Result(process.exitValue(), Files.readString(log, StandardCharsets.UTF_8));
        } finally {
            Files.delete(log);
        }
    }
}
