package dev.gatun.cli;

import dev.gatun.trainer.TextFiles;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.regex.Pattern;
import java.util.zip.ZipFile;

/** The Java sources that the running JDK carries: text to learn from with no download. */
final class JdkSources {
    private static final Pattern LEGAL =
            Pattern.compile("copyright|licen[cs]e|©", Pattern.CASE_INSENSITIVE);

    private JdkSources() {}

    /** Where they are, whether or not this JDK has them. */
    static Path archive() {
        return Path.of(System.getProperty("java.home"), "lib", "src.zip");
    }

    /**
     * The sources of java.base without their licence headers, in the order of their names.
     *
     * @throws IllegalArgumentException if this JDK has none; the message says what to do
     */
    static List<TextFiles.Document> read() throws IOException {
        Path archive = archive();
        if (!Files.exists(archive)) {
            throw new IllegalArgumentException(
                    "%s: no such file: this JDK carries no sources; name text to learn from with --data FILE|DIR"
                            .formatted(archive));
        }
        var documents = new ArrayList<TextFiles.Document>();
        try (var zip = new ZipFile(archive.toFile())) {
            var entries =
                    zip.stream()
                            .filter(e -> e.getName().startsWith("java.base/"))
                            .filter(e -> e.getName().endsWith(".java"))
                            .sorted(Comparator.comparing(e -> e.getName()))
                            .toList();
            for (var entry : entries) {
                try (var in = zip.getInputStream(entry)) {
                    var text = new String(in.readAllBytes(), StandardCharsets.UTF_8);
                    documents.add(new TextFiles.Document(entry.getName(), withoutLicence(text)));
                }
            }
        }
        return documents;
    }

    /**
     * Without the comments at its beginning that speak of copyright or licence. Every file has one,
     * some have two or three; learning them by heart would flatter the figures.
     */
    static String withoutLicence(String source) {
        String text = source.stripLeading();
        while (true) {
            int end;
            if (text.startsWith("/*") && !text.startsWith("/**")) {
                int close = text.indexOf("*/");
                end = close < 0 ? text.length() : close + 2;
            } else if (text.startsWith("//")) {
                int line = text.indexOf('\n');
                end = line < 0 ? text.length() : line + 1;
            } else {
                return text;
            }
            if (!LEGAL.matcher(text.substring(0, end)).find()) {
                return text;
            }
            text = text.substring(end).stripLeading();
        }
    }
}
