package dev.gatun.cli;

import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.Enumeration;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.stream.Stream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipOutputStream;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/**
 * {@code gatun bundle}: all that {@code gatun gpu-check} needs, in one file that unpacks itself on
 * a machine with neither Java nor network.
 */
@Command(
        name = "bundle",
        sortOptions = false,
        customSynopsis = "gatun bundle [OPTION...]",
        description = {
            "Packs everything that gpu-check needs into one file for a machine without Java.",
            "There: sh gatun-bundle.sh, then gatun-bundle/gatun gpu-check. Inside are a Java runtime,",
            "the libraries, the simulated device, the test programs, and the sources of the kernels,",
            "which --rebuild compiles there."
        },
        optionListHeading = "%nOptions:%n")
final class Bundle extends HelpOptions implements Callable<Integer> {
    /** Of the JDK: what Gatun, JMH and the progress bar ask for. */
    private static final String MODULES =
            "java.base,java.instrument,java.logging,java.management,java.xml,"
                    + "jdk.management,jdk.unsupported";

    /** In the benchmarks' jar for the tests' sake, or carried elsewhere. */
    private static final List<String> LEFT_OUT =
            List.of(
                    "dev/gatun/native/",
                    "fixtures/",
                    "net/bytebuddy/",
                    "org/assertj/",
                    "org/junit/",
                    "META-INF/versions/9/net/bytebuddy/",
                    "META-INF/versions/24/net/bytebuddy/");

    @Spec private CommandSpec spec = CommandSpec.create();

    @Option(
            names = "--out",
            paramLabel = "FILE",
            defaultValue = "gatun-bundle.sh",
            description = "the file to write (default: gatun-bundle.sh)")
    private Path out = Path.of("gatun-bundle.sh");

    @Option(
            names = "--level",
            paramLabel = "N",
            defaultValue = "6",
            description = "how hard xz tries, 0 to 9 (default: 6)")
    private int level;

    @Override
    public Integer call() throws IOException, InterruptedException {
        new Limits(spec.commandLine()).whole("--level", level, 0, 9);
        PrintWriter said = spec.commandLine().getOut();
        Path home = Path.of(System.getProperty("gatun.home", ".")).toAbsolutePath().normalize();
        if (Files.exists(home.resolve("runtime"))) {
            throw new IllegalStateException(
                    "this is a bundle already; pack one from the repository");
        }
        long begun = System.nanoTime();
        Path stage = Files.createTempDirectory("gatun-bundle");
        try {
            Path root = Files.createDirectory(stage.resolve("gatun-bundle"));
            boolean cuda = fill(home, root);
            pack(stage);
            said.printf(
                    "%s: %.1f MiB, %s, in %.0f s%n",
                    out,
                    Files.size(out) / 1048576.0,
                    cuda ? "with the CUDA plugin" : "without the CUDA plugin, which was not built",
                    (System.nanoTime() - begun) / 1e9);
            said.printf(
                    "There: sh %s && gatun-bundle/gatun gpu-check%s%n",
                    out.getFileName(), cuda ? "" : " --rebuild");
            said.flush();
            return 0;
        } finally {
            delete(stage);
        }
    }

    /** Whether the CUDA plugin is in it. */
    private static boolean fill(Path home, Path root) throws IOException, InterruptedException {
        must(
                List.of(
                        Path.of(System.getProperty("java.home"), "bin", "jlink").toString(),
                        "--add-modules",
                        MODULES,
                        "--strip-debug",
                        "--no-header-files",
                        "--no-man-pages",
                        "--output",
                        root.resolve("runtime").toString()));
        Files.writeString(root.resolve("COMMIT"), Bench.commit(home) + "\n");
        for (String file : List.of("gatun", "LICENSE", "NOTICE", "docs/gpu.md")) {
            copy(home, root, Path.of(file));
        }
        for (String folder :
                List.of(
                        "kernels",
                        "native/include",
                        "native/src",
                        "native/test/kernel",
                        "bench/peers",
                        "java/gatun-kernels/src/test/resources",
                        "java/gatun-transformers/src/test/resources")) {
            copyAll(home, root, Path.of(folder), _ -> true);
        }
        copyAll(
                home,
                root,
                Path.of("java/gatun-cli/target/dist"),
                file -> file.endsWith(".jar") && !file.startsWith("gatun-native"));
        Path jar = Path.of("bench/target/benchmarks.jar");
        Files.createDirectories(root.resolve(jar).getParent());
        store(home.resolve(jar), root.resolve(jar));
        Path libraries = Path.of("java/gatun-native/target/native");
        Path built = Path.of(System.getProperty("gatun.library.path", libraries.toString()));
        Path folder = Files.createDirectories(root.resolve(libraries));
        for (String name :
                List.of("libgatun.so", "libdnnl.so.3", "libgomp.so.1", "libgatun_sim.so")) {
            Files.copy(built.resolve(name), folder.resolve(name), COPY);
        }
        boolean cuda = Files.exists(built.resolve("libgatun_cuda.so"));
        if (cuda) {
            Files.copy(built.resolve("libgatun_cuda.so"), folder.resolve("libgatun_cuda.so"), COPY);
        }
        Path tests = Files.createDirectories(folder.resolve("test"));
        for (String name :
                List.of("ptx_check_sim", "sim_plugin_test", "ptx_check_cuda", "cuda_plugin_test")) {
            Path program = built.resolve("test").resolve(name);
            if (Files.exists(program)) {
                Files.copy(program, tests.resolve(name), COPY);
            } else if (cuda || name.contains("sim")) {
                throw new IllegalStateException(program + ": not built");
            }
        }
        return cuda;
    }

    private static final StandardCopyOption COPY = StandardCopyOption.COPY_ATTRIBUTES;

    private static void copy(Path home, Path root, Path file) throws IOException {
        Files.createDirectories(root.resolve(file).getParent());
        Files.copy(home.resolve(file), root.resolve(file), COPY);
    }

    private interface Wanted {
        boolean is(String fileName);
    }

    private static void copyAll(Path home, Path root, Path folder, Wanted wanted)
            throws IOException {
        List<Path> files;
        try (Stream<Path> all = Files.walk(home.resolve(folder))) {
            files = all.filter(Files::isRegularFile).toList();
        }
        for (Path file : files) {
            if (wanted.is(file.getFileName().toString())) {
                copy(home, root, home.relativize(file));
            }
        }
    }

    /** The jar without what is left out, not compressed: xz does that better for the whole. */
    private static void store(Path from, Path to) throws IOException {
        try (ZipFile in = new ZipFile(from.toFile());
                ZipOutputStream zip = new ZipOutputStream(Files.newOutputStream(to))) {
            Enumeration<? extends ZipEntry> entries = in.entries();
            while (entries.hasMoreElements()) {
                ZipEntry entry = entries.nextElement();
                if (LEFT_OUT.stream().anyMatch(entry.getName()::startsWith)) {
                    continue;
                }
                ZipEntry stored = new ZipEntry(entry.getName());
                stored.setTime(entry.getTime());
                stored.setMethod(ZipEntry.STORED);
                stored.setSize(entry.getSize());
                stored.setCrc(entry.getCrc());
                zip.putNextEntry(stored);
                try (InputStream bytes = in.getInputStream(entry)) {
                    bytes.transferTo(zip);
                }
                zip.closeEntry();
            }
        }
    }

    /** The script that unpacks itself, and behind it the archive. */
    private void pack(Path stage) throws IOException, InterruptedException {
        Files.writeString(out, SCRIPT, UTF_8);
        var pipeline =
                List.of(
                        new ProcessBuilder(
                                        "tar",
                                        "--sort=name",
                                        "--owner=0",
                                        "--group=0",
                                        "--numeric-owner",
                                        "-C",
                                        stage.toString(),
                                        "-cf",
                                        "-",
                                        "gatun-bundle")
                                .redirectError(ProcessBuilder.Redirect.INHERIT),
                        new ProcessBuilder("xz", "-T0", "-" + level)
                                .redirectError(ProcessBuilder.Redirect.INHERIT));
        List<Process> processes;
        try {
            processes = ProcessBuilder.startPipeline(pipeline);
        } catch (IOException e) {
            throw new IOException(
                    "tar and xz are needed (Debian: apt-get install xz-utils): " + e.getMessage(),
                    e);
        }
        try (InputStream archive = processes.getLast().getInputStream();
                OutputStream file = Files.newOutputStream(out, StandardOpenOption.APPEND)) {
            archive.transferTo(file);
        }
        for (Process process : processes) {
            if (process.waitFor() != 0) {
                throw new IOException("packing failed: " + process.info().command().orElse("tar"));
            }
        }
        if (!out.toFile().setExecutable(true)) {
            throw new IOException(out + ": cannot be made executable");
        }
    }

    private static final String SCRIPT =
            """
            #!/bin/sh
            # Gatun with a Java of its own. Unpacks itself: sh gatun-bundle.sh [FOLDER]
            # Then: FOLDER/gatun-bundle/gatun gpu-check (docs/gpu.md inside says more).
            set -e
            mkdir -p "${1:-.}"
            if command -v xz >/dev/null 2>&1; then
                unpack() { xz -dc; }
            elif command -v python3 >/dev/null 2>&1; then
                unpack() {
                    python3 -c 'import lzma, shutil, sys
            shutil.copyfileobj(lzma.open(sys.stdin.buffer), sys.stdout.buffer)'
                }
            else
                echo "xz or python3 is needed to unpack this (Debian: apt-get install xz-utils)" >&2
                exit 1
            fi
            sed '1,/^# ---- archive ----$/d' "$0" | unpack | tar -xf - -C "${1:-.}"
            test -x "${1:-.}/gatun-bundle/gatun"
            echo "unpacked; now: ${1:-.}/gatun-bundle/gatun gpu-check"
            exit 0
            # ---- archive ----
            """;

    private static void must(List<String> command) throws IOException, InterruptedException {
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        String said = new String(process.getInputStream().readAllBytes(), UTF_8).strip();
        if (process.waitFor() != 0) {
            throw new IOException("%s: %s".formatted(command.getFirst(), said));
        }
    }

    private static void delete(Path folder) throws IOException {
        var files = new ArrayList<Path>();
        try (Stream<Path> all = Files.walk(folder)) {
            all.sorted(Comparator.reverseOrder()).forEach(files::add);
        }
        for (Path file : files) {
            Files.delete(file);
        }
    }
}
