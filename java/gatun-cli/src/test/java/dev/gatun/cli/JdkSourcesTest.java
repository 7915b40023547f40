package dev.gatun.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import java.io.IOException;
import java.nio.file.Files;
import org.junit.jupiter.api.Test;

class JdkSourcesTest {
    @Test
    void licencesAreLeftOut() {
        assertThat(JdkSources.withoutLicence("/*\n * Copyright\n */\n\npackage a;\n"))
                .isEqualTo("package a;\n");
        assertThat(JdkSources.withoutLicence("\n\n/* LICENSE */ /* (C) Copyright */ class A {}"))
                .isEqualTo("class A {}");
        assertThat(JdkSources.withoutLicence("// © 2016\n// License & terms\nclass A {}"))
                .isEqualTo("class A {}");
        assertThat(JdkSources.withoutLicence("/* Copyright, never closed\nclass A {}")).isEmpty();
    }

    @Test
    void otherCommentsStay() {
        for (String source :
                new String[] {
                    "/** Says what it is, and its licence. */\nclass A {}\n",
                    "/* why */\nclass A {}",
                    "// -- generated --\nclass A {}",
                    "class A { /* Copyright */ }",
                    "package a;\n/* Copyright */",
                    "",
                    "//",
                    "/*"
                }) {
            assertThat(JdkSources.withoutLicence(source)).isEqualTo(source);
            assertThat(JdkSources.withoutLicence("/* Copyright */\n" + source)).isEqualTo(source);
        }
    }

    @Test
    void aJdkHasThousandsOfThemOrSaysWhatToDo() throws IOException {
        if (!Files.exists(JdkSources.archive())) {
            assertThatIllegalArgumentException()
                    .isThrownBy(JdkSources::read)
                    .withMessageContaining("--data FILE|DIR");
            return;
        }
        var documents = JdkSources.read();
        assertThat(documents).hasSizeGreaterThan(1000);
        assertThat(documents)
                .allSatisfy(d -> {
                    assertThat(d.name()).startsWith("java.base/").endsWith(".java");
                    assertThat(d.text()).doesNotStartWith("/*\n * Copyright");
                });
        assertThat(documents.stream().map(d -> d.name())).isSorted().doesNotHaveDuplicates();
    }
}
