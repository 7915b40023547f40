package dev.gatun.bench.check;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * What was asked for.
 *
 * @param home the repository, or an unpacked bundle
 * @param device cuda, cuda:N, sim or cpu
 * @param only an op: cases and timings that have nothing to do with it are left out; "" for all
 * @param rebuild whether the plugin is compiled anew first
 * @param report where the report goes; the figures go beside it, as JSON
 * @param minutes all parts together
 */
record Options(
        Path home, String device, String only, boolean rebuild, Path report, double minutes) {

    /** From {@code --name value} pairs; the command line has checked them. */
    static Options of(String[] args) {
        Map<String, String> given = new HashMap<>();
        for (int i = 0; i + 1 < args.length; i += 2) {
            given.put(args[i], args[i + 1]);
        }
        return new Options(
                Path.of(System.getProperty("gatun.home", ".")).toAbsolutePath().normalize(),
                given.getOrDefault("--device", "cuda"),
                given.getOrDefault("--only", ""),
                Boolean.parseBoolean(given.getOrDefault("--rebuild", "false")),
                Path.of(given.getOrDefault("--report", "gpu-check.md")).toAbsolutePath(),
                Double.parseDouble(given.getOrDefault("--minutes", "9")));
    }

    /** What {@link #of} reads. */
    List<String> words() {
        return List.of(
                "--device",
                device,
                "--only",
                only,
                "--report",
                report.toString(),
                "--minutes",
                String.valueOf(minutes));
    }

    /** "cuda" of "cuda:1". */
    String kind() {
        return device.replaceFirst(":.*", "");
    }

    /** Where the libraries lie, and in {@code test/} the native test programs. */
    Path nativeFolder() {
        return Path.of(
                System.getProperty(
                        "gatun.library.path",
                        home.resolve("java/gatun-native/target/native").toString()));
    }
}
