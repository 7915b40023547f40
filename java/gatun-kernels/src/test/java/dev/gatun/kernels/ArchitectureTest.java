package dev.gatun.kernels;

import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;
import static org.assertj.core.api.Assertions.assertThat;

import com.tngtech.archunit.core.domain.JavaClasses;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import com.tngtech.archunit.core.importer.ImportOption;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** The rules of the room: one door to native code, names that say something, every op complete. */
class ArchitectureTest {
    private static final JavaClasses CLASSES =
            new ClassFileImporter()
                    .withImportOption(new ImportOption.DoNotIncludeTests())
                    .importPackages("dev.gatun.kernels");

    private static Path sources() {
        return Fixtures.repository().resolve("java/gatun-kernels/src/main/java/dev/gatun/kernels");
    }

    private static List<String> ops() throws IOException {
        String table = Files.readString(Fixtures.repository().resolve("native/src/ops/ops.def"));
        List<String> ops =
                Pattern.compile("^OP\\((\\w+), \\w+\\)", Pattern.MULTILINE)
                        .matcher(table)
                        .results()
                        .map(m -> m.group(1))
                        .toList();
        assertThat(ops).hasSizeGreaterThan(20);
        return ops;
    }

    @Test
    void onlyInternalTouchesTheLinker() {
        assertThat(CLASSES).hasSizeGreaterThan(30);
        noClasses()
                .that()
                .resideInAPackage("dev.gatun.kernels")
                .should()
                .dependOnClassesThat()
                .haveFullyQualifiedName("java.lang.foreign.Linker")
                .orShould()
                .dependOnClassesThat()
                .haveFullyQualifiedName("java.lang.foreign.SymbolLookup")
                .orShould()
                .callMethod(System.class, "load", String.class)
                .orShould()
                .callMethod(System.class, "loadLibrary", String.class)
                .check(CLASSES);
    }

    /** A caller may bring JCuda; nothing here needs it. */
    @Test
    void nothingKnowsJCuda() {
        noClasses()
                .should()
                .dependOnClassesThat()
                .resideInAnyPackage("org.jcuda..", "jcuda..")
                .check(CLASSES);
    }

    @Test
    void namesSaySomething() {
        noClasses()
                .should()
                .haveNameMatching(".*(Util|Utils|Manager|Helper|Impl|Base|Common|Handler)")
                .check(CLASSES);
    }

    @Test
    void everyOpHasAJavaClassThatCallsIt() throws IOException {
        Set<String> called = new TreeSet<>();
        try (Stream<Path> files = Files.list(sources())) {
            for (Path file : files.filter(f -> f.toString().endsWith(".java")).toList()) {
                called.addAll(
                        Pattern.compile("GatunH\\.gatun_(\\w+)\\(")
                                .matcher(Files.readString(file))
                                .results()
                                .map(m -> m.group(1))
                                .collect(Collectors.toSet()));
            }
        }
        assertThat(called).containsAll(ops());
    }

    @Test
    void everyOpHasACase() throws IOException {
        Set<String> covered = new TreeSet<>();
        OpCases.all().forEach(c -> covered.addAll(c.covers()));
        // random numbers have no oracle of their own shape: RandomTest is theirs
        covered.addAll(List.of("random_uniform", "random_normal"));
        assertThat(ops()).isSubsetOf(covered);
        assertThat(covered).as("cases of ops that exist").isSubsetOf(ops());
    }

    @Test
    void everyPackageIsNullMarked() {
        assertThat(
                        Arrays.stream(Tensor.class.getPackage().getAnnotations())
                                .map(a -> a.annotationType().getSimpleName()))
                .contains("NullMarked");
    }
}
