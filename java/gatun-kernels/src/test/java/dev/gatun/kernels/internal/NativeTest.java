package dev.gatun.kernels.internal;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.gatun.kernels.Child;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Fixtures;
import dev.gatun.kernels.GatunException;
import java.io.IOException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Where the library comes from, and what is said where it cannot. */
class NativeTest {
    private static final String RESOURCES = "dev/gatun/native/linux-x86_64/";

    @TempDir private Path temporary;

    /** Opens a device and says how that went. */
    public static final class Open {
        private Open() {}

        public static void main(String[] args) {
            try (Device device = Device.open("cpu")) {
                System.out.println("opened " + device);
                System.out.println("from " + Native.load());
            } catch (GatunException e) {
                System.out.println(e.status() + " " + e.op() + ": " + e.getMessage());
            }
            try (Device again = Device.open("cpu")) {
                System.out.println("again " + again);
            } catch (GatunException e) {
                System.out.println("again " + e.getMessage());
            }
        }
    }

    private static Path library() {
        return Path.of(System.getProperty("gatun.library.path"));
    }

    private static String access() {
        return "--enable-native-access=ALL-UNNAMED";
    }

    @Test
    void deniedAccessNamesTheFlag() throws Exception {
        Child.Result result =
                Child.run(
                        List.of(
                                "--illegal-native-access=deny",
                                "-Dgatun.library.path=" + library()),
                        Map.of(),
                        Open.class);
        assertThat(result.output())
                .contains(
                        "UNAVAILABLE load: native access is denied to the class path: start java"
                                + " with --enable-native-access=ALL-UNNAMED")
                .contains("again native access is denied");
        assertThat(result.exit()).isZero();
    }

    @Test
    void deniedAccessNamesTheFlagOfTheModulePath() throws Exception {
        Path target = Fixtures.repository().resolve("java/gatun-kernels/target");
        assumeTrue(
                Files.exists(target.resolve("classes/module-info.class")),
                "the module is not compiled");
        Child.Result result =
                Child.run(
                        List.of(
                                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                                "--illegal-native-access=deny",
                                "-Dgatun.library.path=" + library(),
                                "-p",
                                target.resolve("classes").toString(),
                                "--patch-module",
                                "dev.gatun.kernels=" + target.resolve("test-classes"),
                                "-m",
                                "dev.gatun.kernels/" + Open.class.getName()),
                        Map.of());
        assertThat(result.output())
                .contains(
                        "native access is denied to module dev.gatun.kernels: start java with"
                                + " --enable-native-access=dev.gatun.kernels");
    }

    @Test
    void aPathWithoutTheLibrarySaysSo() throws Exception {
        Child.Result result =
                Child.run(
                        List.of(access(), "-Dgatun.library.path=" + temporary),
                        Map.of(),
                        Open.class);
        assertThat(result.output())
                .contains("gatun.library.path: no libgatun.so at " + temporary)
                .contains("again gatun.library.path");
    }

    @Test
    void aLibraryWithoutItsCompanionsSaysSo() throws Exception {
        Files.writeString(temporary.resolve("libgatun.so"), "not a library");
        Child.Result result =
                Child.run(
                        List.of(access(), "-Dgatun.library.path=" + temporary),
                        Map.of(),
                        Open.class);
        assertThat(result.output()).contains("libgatun.so cannot be loaded: ");
    }

    @Test
    void theResourceIsUnpackedOnceIntoTheCache() throws Exception {
        Path jar = temporary.resolve("libraries.jar");
        try (JarOutputStream out = new JarOutputStream(Files.newOutputStream(jar))) {
            for (String name : List.of("libgatun.so", "libdnnl.so.3", "libgomp.so.1")) {
                out.putNextEntry(new JarEntry(RESOURCES + name));
                Files.copy(library().resolve(name), out);
            }
        }
        Path cache = temporary.resolve("cache");
        for (int run = 0; run < 2; run++) {
            Child.Result result =
                    Child.run(
                            List.of("-Dgatun.library.path=", access()),
                            Map.of("XDG_CACHE_HOME", cache.toString()),
                            OpenFrom.class,
                            jar.toString());
            assertThat(result.output()).contains("opened cpu").contains("from " + cache);
        }
        try (Stream<Path> folders = Files.list(cache.resolve("gatun"))) {
            assertThat(folders.map(f -> f.getFileName().toString()))
                    .singleElement()
                    .satisfies(name -> assertThat(name).matches("[0-9a-f]{64}"));
        }
    }

    /** Opens a device from a loader that sees one folder more. */
    public static final class OpenFrom {
        private OpenFrom() {}

        public static void main(String[] args) throws Exception {
            String[] entries = Child.classPath().split(":");
            URL[] urls = new URL[entries.length + 1];
            for (int i = 0; i < entries.length; i++) {
                urls[i] = Path.of(entries[i]).toUri().toURL();
            }
            urls[entries.length] = Path.of(args[0]).toUri().toURL();
            try (URLClassLoader loader =
                    new URLClassLoader(urls, ClassLoader.getPlatformClassLoader())) {
                loader.loadClass(Open.class.getName())
                        .getMethod("main", String[].class)
                        .invoke(null, (Object) new String[0]);
            }
        }
    }

    @Test
    void unpackingRepairsADamagedFolderAndSharesAGoodOne() throws IOException {
        Path jar = temporary.resolve("jar");
        Path resources = Files.createDirectories(jar.resolve(RESOURCES));
        for (String name : List.of("libgatun.so", "libdnnl.so.3", "libgomp.so.1")) {
            Files.writeString(resources.resolve(name), "content of " + name);
        }
        Path cache = temporary.resolve("cache");
        try (URLClassLoader loader = new URLClassLoader(new URL[] {jar.toUri().toURL()}, null)) {
            Path folder = Native.unpack(loader, cache);
            Path file = folder.resolve("libgatun.so");
            assertThat(file).hasContent("content of libgatun.so");
            var first = Files.getLastModifiedTime(file);
            assertThat(Native.unpack(loader, cache)).isEqualTo(folder);
            assertThat(Files.getLastModifiedTime(file)).isEqualTo(first);
            Files.writeString(file, "truncated");
            assertThat(Native.unpack(loader, cache)).isEqualTo(folder);
            assertThat(file).hasContent("content of libgatun.so");
            Files.writeString(resources.resolve("libgatun.so"), "another version");
            assertThat(Native.unpack(loader, cache)).isNotEqualTo(folder);
            try (Stream<Path> left = Files.list(cache)) {
                assertThat(left).hasSize(2);
            }
        }
    }

    @Test
    void aCacheThatCannotBeWrittenSaysSo() throws IOException {
        Path jar = temporary.resolve("jar");
        Path resources = Files.createDirectories(jar.resolve(RESOURCES));
        for (String name : List.of("libgatun.so", "libdnnl.so.3", "libgomp.so.1")) {
            Files.writeString(resources.resolve(name), name);
        }
        Path blocked = Files.writeString(temporary.resolve("file"), "");
        try (URLClassLoader loader = new URLClassLoader(new URL[] {jar.toUri().toURL()}, null)) {
            assertThatThrownBy(() -> Native.unpack(loader, blocked.resolve("gatun")))
                    .isInstanceOf(GatunException.class)
                    .hasMessageContaining("cannot be unpacked into")
                    .hasMessageContaining("XDG_CACHE_HOME");
        }
    }
}
