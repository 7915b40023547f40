package dev.gatun.kernels.internal;

import dev.gatun.kernels.GatunException;
import dev.gatun.kernels.GatunException.Status;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.lang.foreign.MemorySegment;
import java.net.JarURLConnection;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.List;
import java.util.jar.JarEntry;
import java.util.stream.Stream;
import java.util.zip.CRC32;
import java.util.zip.CheckedInputStream;
import org.jspecify.annotations.Nullable;

/**
 * Loads libgatun once and turns a status into a {@link GatunException}.
 *
 * <p>Where it looks, in this order: the system property {@code gatun.library.path} (the library or
 * its folder); the resources {@code dev/gatun/native/linux-x86_64/} of the class path, unpacked
 * into {@code ~/.cache/gatun/<content hash>/}; {@code java.library.path}.
 */
public final class Native {
    private static final String LIBRARY = "libgatun.so";
    private static final String RESOURCES = "dev/gatun/native/linux-x86_64/";
    // libgatun finds the others beside itself ($ORIGIN)
    private static final List<String> NEEDED = List.of("libgomp.so.1", "libdnnl.so.3", LIBRARY);
    private static final String OPTIONAL = "libgatun_cuda.so";
    private static final Runtime.Version OLDEST_JDK = Runtime.Version.parse("25.0.3");

    private static @Nullable String loadedFrom;
    private static @Nullable String failure;

    private Native() {}

    /**
     * Makes the bindings usable.
     *
     * @return where the library came from
     * @throws GatunException UNAVAILABLE, every time, with what is missing and what to do
     */
    public static synchronized String load() {
        if (failure != null) {
            throw unavailable(failure);
        }
        if (loadedFrom == null) {
            try {
                loadedFrom = find();
                int abi = GatunH.gatun_abi_version();
                if (abi != GatunH.GATUN_ABI_VERSION()) {
                    throw unavailable(
                            ("%s speaks version %d of the C ABI, these classes want %d:"
                                            + " use the jars of one release")
                                    .formatted(loadedFrom, abi, GatunH.GATUN_ABI_VERSION()));
                }
            } catch (GatunException e) {
                failure = e.getMessage();
                throw e;
            } catch (IllegalCallerException e) {
                failure = accessDenied();
                GatunException denied = unavailable(failure);
                denied.initCause(e);
                throw denied;
            }
        }
        return loadedFrom;
    }

    /** The library's own version and build. */
    public static String version() {
        load();
        return text(GatunH.gatun_version());
    }

    /**
     * Throws unless status is GATUN_OK.
     *
     * @param status what a native function returned
     * @param op its name without gatun_
     */
    public static void check(int status, String op) {
        if (status != 0) {
            throw GatunException.of(status, op, text(GatunH.gatun_last_error()));
        }
    }

    private static String text(MemorySegment utf8) {
        return utf8.getString(0);
    }

    private static String find() {
        if (Runtime.version().compareToIgnoreOptional(OLDEST_JDK) < 0) {
            throw unavailable(
                    ("Gatun needs Java 25.0.3 or newer, this is %s (%s):"
                                    + " earlier builds can corrupt pinned arrays")
                            .formatted(Runtime.version(), System.getProperty("java.home")));
        }
        if (!System.getProperty("os.name").equals("Linux")
                || !System.getProperty("os.arch").equals("amd64")) {
            throw unavailable(
                    "Gatun runs on Linux x86-64, this is %s %s"
                            .formatted(
                                    System.getProperty("os.name"), System.getProperty("os.arch")));
        }
        List<String> tried = new ArrayList<>();
        String given = System.getProperty("gatun.library.path", "");
        if (!given.isBlank()) {
            Path path = Path.of(given).toAbsolutePath();
            Path file = Files.isDirectory(path) ? path.resolve(LIBRARY) : path;
            if (!Files.isRegularFile(file)) {
                throw unavailable(
                        ("gatun.library.path: no %s at %s;"
                                        + " build it with mvn -pl java/gatun-native compile")
                                .formatted(LIBRARY, path));
            }
            return open(file);
        }
        ClassLoader loader = Native.class.getClassLoader();
        if (loader != null && loader.getResource(RESOURCES + LIBRARY) != null) {
            return open(unpack(loader, cache()).resolve(LIBRARY));
        }
        tried.add("no resource " + RESOURCES + LIBRARY + " (gatun-native's linux-x86_64 jar)");
        for (String folder : System.getProperty("java.library.path", "").split(":")) {
            Path file = Path.of(folder.isEmpty() ? "." : folder, LIBRARY).toAbsolutePath();
            if (Files.isRegularFile(file)) {
                return open(file);
            }
        }
        tried.add("no " + LIBRARY + " on java.library.path");
        throw unavailable(
                ("the native library is missing: %s."
                                + " Add the gatun-native jar, or set -Dgatun.library.path")
                        .formatted(String.join("; ", tried)));
    }

    private static String open(Path library) {
        try {
            System.load(library.toString());
        } catch (UnsatisfiedLinkError e) {
            GatunException failed = unavailable(library + " cannot be loaded: " + e.getMessage());
            failed.initCause(e);
            throw failed;
        }
        return library.toString();
    }

    private static Path cache() {
        String given = System.getenv("XDG_CACHE_HOME");
        Path root =
                given == null || given.isBlank()
                        ? Path.of(System.getProperty("user.home"), ".cache")
                        : Path.of(given);
        return root.resolve("gatun");
    }

    /** A library in a jar, and what its content is. */
    private record Packed(String name, URL url, long size, long crc) {

        // the jar's directory has both, so that a start reads none of its 90 MB
        static Packed of(ClassLoader loader, String name) throws IOException {
            URL url = loader.getResource(RESOURCES + name);
            if (url == null) {
                throw new IOException("no resource " + RESOURCES + name);
            }
            if (url.openConnection() instanceof JarURLConnection jar) {
                JarEntry entry = jar.getJarEntry();
                return new Packed(name, url, entry.getSize(), entry.getCrc());
            }
            try (InputStream in = url.openStream()) {
                CheckedInputStream checked = new CheckedInputStream(in, new CRC32());
                long size = checked.transferTo(OutputStream.nullOutputStream());
                return new Packed(name, url, size, checked.getChecksum().getValue());
            }
        }

        boolean is(Path file) throws IOException {
            if (!Files.isRegularFile(file) || Files.size(file) != size) {
                return false;
            }
            try (InputStream in = Files.newInputStream(file)) {
                CheckedInputStream checked = new CheckedInputStream(in, new CRC32());
                checked.transferTo(OutputStream.nullOutputStream());
                return checked.getChecksum().getValue() == crc;
            }
        }
    }

    /**
     * Unpacks the libraries into a folder of {@code cache} that is named by their content, so that
     * two versions or two processes never meet halfway. A folder whose files are what they should
     * be is used as it is.
     */
    static Path unpack(ClassLoader loader, Path cache) {
        try {
            List<Packed> files = new ArrayList<>();
            for (String name : NEEDED) {
                files.add(Packed.of(loader, name));
            }
            if (loader.getResource(RESOURCES + OPTIONAL) != null) {
                files.add(Packed.of(loader, OPTIONAL));
            }
            MessageDigest sha = MessageDigest.getInstance("SHA-256");
            for (Packed file : files) {
                String line = "%s %d %08x%n".formatted(file.name, file.size, file.crc);
                sha.update(line.getBytes(StandardCharsets.UTF_8));
            }
            Path folder = cache.resolve(HexFormat.of().formatHex(sha.digest()));
            if (!complete(folder, files)) {
                Files.createDirectories(cache);
                Path fresh = Files.createTempDirectory(cache, "unpack-");
                for (Packed file : files) {
                    try (InputStream in = file.url.openStream()) {
                        Files.copy(in, fresh.resolve(file.name));
                    }
                }
                publish(fresh, folder, files);
            }
            return folder;
        } catch (IOException e) {
            GatunException failed =
                    unavailable(
                            ("the native library cannot be unpacked into %s (%s):"
                                            + " free some space there, or set XDG_CACHE_HOME or"
                                            + " -Dgatun.library.path")
                                    .formatted(cache, e));
            failed.initCause(e);
            throw failed;
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError("every JDK has SHA-256", e);
        }
    }

    private static void publish(Path fresh, Path folder, List<Packed> files) throws IOException {
        if (Files.isDirectory(folder) && !complete(folder, files)) {
            // damaged: move it out of the way, since a folder cannot be replaced in one step
            Path damaged = Files.createTempDirectory(folder.getParent(), "damaged-");
            Files.move(folder, damaged, StandardCopyOption.REPLACE_EXISTING);
            delete(damaged);
        }
        try {
            Files.move(fresh, folder, StandardCopyOption.ATOMIC_MOVE);
        } catch (IOException e) {
            delete(fresh);
            // another process may have been first: then its copy has the same content
            if (!complete(folder, files)) {
                throw e;
            }
        }
    }

    private static boolean complete(Path folder, List<Packed> files) throws IOException {
        for (Packed file : files) {
            if (!file.is(folder.resolve(file.name))) {
                return false;
            }
        }
        return true;
    }

    private static void delete(Path folder) throws IOException {
        try (Stream<Path> all = Files.walk(folder)) {
            for (Path path : all.sorted(Comparator.reverseOrder()).toList()) {
                Files.deleteIfExists(path);
            }
        }
    }

    private static String accessDenied() {
        Module module = Native.class.getModule();
        return module.isNamed()
                ? ("native access is denied to module %1$s:"
                                + " start java with --enable-native-access=%1$s")
                        .formatted(module.getName())
                : "native access is denied to the class path: start java with"
                        + " --enable-native-access=ALL-UNNAMED (on the module path:"
                        + " --enable-native-access=dev.gatun.kernels)";
    }

    private static GatunException unavailable(String sentence) {
        return new GatunException(Status.UNAVAILABLE, "load", sentence);
    }
}
