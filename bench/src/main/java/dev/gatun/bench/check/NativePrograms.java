package dev.gatun.bench.check;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The native test programs: by themselves, and under the compute sanitizer. */
final class NativePrograms {
    private static final double LONGEST_SECONDS = 600; // the check itself ends a part before

    private NativePrograms() {}

    /**
     * Each wrapper of ptx.cuh as this device executes it, then as the simulator does, against the
     * same closed formulas; then the plugin.
     */
    static void wrappers(Options options) throws IOException, InterruptedException {
        if (options.kind().equals("cpu")) {
            Speech.notRun("the cpu device runs no kernels");
            return;
        }
        Set<String> declared = declared(options.home().resolve("kernels/ptx.cuh"));
        if (options.kind().equals("cuda") && !bodies(options, "cuda", declared)) {
            return;
        }
        bodies(options, "sim", declared);
        plugin(options);
    }

    /** The bodies for one kind of device; false if they could not run. */
    private static boolean bodies(Options options, String kind, Set<String> declared)
            throws IOException, InterruptedException {
        Path program = options.nativeFolder().resolve("test/ptx_check_" + kind);
        if (!Files.isExecutable(program)) {
            Speech.wrong(
                    "%s is not built%s"
                            .formatted(
                                    program.getFileName(),
                                    kind.equals("cuda") ? ": it needs nvcc" : ""));
            return false;
        }
        String prefix = kind.equals(options.kind()) ? "" : "host body: ";
        Set<String> checked = new TreeSet<>();
        List<String> skipped = new ArrayList<>();
        int[] wrong = {0};
        Command.Ended ended =
                Command.of(program.toString())
                        .run(
                                LONGEST_SECONDS,
                                line -> {
                                    if (line.startsWith("ok ")) {
                                        checked.addAll(names(line.substring(3)));
                                        Speech.say("- ok " + prefix + line.substring(3));
                                    } else if (line.startsWith("WRONG ")) {
                                        checked.addAll(names(line.substring(6)));
                                        wrong[0]++;
                                        Speech.wrong(prefix + line.substring(6));
                                    } else if (line.startsWith("SKIPPED ")) {
                                        skipped.add(line.substring(8));
                                    } else if (line.startsWith("on ")) {
                                        Speech.say("- " + line);
                                    }
                                });
        if (!skipped.isEmpty()) {
            Speech.wrong(String.join("; ", skipped));
            return false;
        }
        if (ended.code() != 0 && wrong[0] == 0) {
            Speech.wrong("%s: %s".formatted(program.getFileName(), ended.sentence()));
        }
        Set<String> missing = new TreeSet<>(declared);
        missing.removeAll(checked);
        if (!missing.isEmpty()) {
            Speech.wrong(
                    "%s checks no %s".formatted(program.getFileName(), String.join(", ", missing)));
        }
        return true;
    }

    /** The plugin as libgatun opens it: memory, streams, events, one kernel. */
    private static void plugin(Options options) throws IOException, InterruptedException {
        String kind = options.kind();
        Path folder = options.nativeFolder();
        Path program = folder.resolve("test/" + kind + "_plugin_test");
        if (!Files.isExecutable(program)) {
            Speech.wrong("plugin: %s is not built".formatted(program.getFileName()));
            return;
        }
        List<String> said = new ArrayList<>();
        Command.Ended ended =
                Command.of(
                                program.toString(),
                                folder.resolve("libgatun_" + kind + ".so").toString(),
                                kind)
                        .run(LONGEST_SECONDS, said::add);
        String words = String.join("; ", said);
        if (ended.code() != 0 || words.startsWith("skipped")) {
            Speech.wrong("plugin: %s: %s".formatted(ended.sentence(), words));
        } else {
            Speech.say("- ok plugin: memory, streams, events and a kernel: " + words);
        }
    }

    /** The wrappers of a line: "cp_async<4>", "as_float, as_bits", "ex2: largest …". */
    private static List<String> names(String line) {
        List<String> all = new ArrayList<>();
        for (String part : line.replaceFirst(":.*", "").split(", ")) {
            all.add(part.replaceFirst("[<( ].*", ""));
        }
        return all;
    }

    /** The functions that ptx.cuh defines for the device. */
    private static Set<String> declared(Path header) throws IOException {
        Set<String> names = new TreeSet<>();
        if (Files.exists(header)) {
            Matcher function =
                    Pattern.compile("__device__ __forceinline__ [\\w ]+?[ *&](\\w+)\\(")
                            .matcher(Files.readString(header));
            while (function.find()) {
                names.add(function.group(1));
            }
        }
        return names;
    }

    /** A program under a tool of the sanitizer. */
    private record Watched(String tool, String what, List<String> program) {}

    /** The native programs under every tool, and one case of each op under memcheck. */
    static void sanitizer(Options options, int from) throws IOException, InterruptedException {
        if (!options.kind().equals("cuda")) {
            Speech.notRun("the sanitizer watches a GPU, not the " + options.kind() + " device");
            return;
        }
        Optional<String> sanitizer = find();
        if (sanitizer.isEmpty()) {
            Speech.notRun("compute-sanitizer is not installed");
            return;
        }
        List<Watched> all = watched(options);
        for (int i = from; i < all.size(); i++) {
            Watched watched = all.get(i);
            String what = "%s of %s".formatted(watched.tool(), watched.what());
            Speech.at(i, what);
            List<String> command = new ArrayList<>();
            command.addAll(List.of(sanitizer.get(), "--tool", watched.tool()));
            command.addAll(List.of("--target-processes", "all", "--error-exitcode", "9"));
            command.addAll(watched.program());
            List<String> said = new ArrayList<>();
            Command.Ended ended =
                    new Command(command)
                            .run(
                                    LONGEST_SECONDS,
                                    line -> {
                                        if (line.startsWith("=====")) {
                                            said.add(line.replaceFirst("^=+ ?", ""));
                                        }
                                    });
            String words = String.join(" / ", said.subList(0, Math.min(12, said.size())));
            String summary =
                    said.stream().filter(l -> l.contains("SUMMARY:")).findFirst().orElse("");
            if (summary.matches(".*SUMMARY: 0 .*")) {
                Speech.say("- %s: %s".formatted(what, summary));
            } else if (summary.isEmpty()) {
                Speech.notRun(
                        "%s: the sanitizer came to no result: %s: %s"
                                .formatted(what, ended.sentence(), words));
            } else {
                Speech.wrong("%s: %s: %s".formatted(what, summary, words));
            }
        }
    }

    private static List<Watched> watched(Options options) {
        Path tests = options.nativeFolder().resolve("test");
        List<String> check = List.of(tests.resolve("ptx_check_cuda").toString());
        List<String> plugin =
                List.of(
                        tests.resolve("cuda_plugin_test").toString(),
                        options.nativeFolder().resolve("libgatun_cuda.so").toString(),
                        "cuda");
        List<Watched> all = new ArrayList<>();
        for (String tool : List.of("memcheck", "racecheck", "initcheck", "synccheck")) {
            all.add(new Watched(tool, "ptx_check", check));
            all.add(new Watched(tool, "plugin_test", plugin));
        }
        for (String tool : List.of("memcheck", "racecheck")) {
            all.add(
                    new Watched(
                            tool,
                            "some cases of each op",
                            PartMain.command(options, "some-ops").words()));
        }
        return all;
    }

    private static Optional<String> find() {
        for (String candidate :
                List.of("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")) {
            if (Facts.output(candidate, "--version").isPresent()) {
                return Optional.of(candidate);
            }
        }
        return Optional.empty();
    }
}
