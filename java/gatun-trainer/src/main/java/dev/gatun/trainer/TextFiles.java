package dev.gatun.trainer;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.zip.CRC32;

/**
 * Text to train on, divided by file into a training and a validation part, so that nothing that is
 * validated was seen.
 *
 * @param train documents to learn from
 * @param validation documents kept apart
 */
public record TextFiles(List<Document> train, List<Document> validation) {
    /** One file. */
    public record Document(String name, String text) {}

    /** A file of more than this is most likely not text to learn from in one document. */
    private static final long MAX_FILE_BYTES = 1L << 30;

    /**
     * Reads a file, or all files below a folder in the order of their paths, as UTF-8. Files whose
     * names begin with a dot, empty files and files that are not text are left out of a folder.
     *
     * @throws IllegalArgumentException if there is no such path, or it holds no text; a single file
     *     that is empty or binary is refused by name
     */
    public static List<Document> read(Path path) {
        if (!Files.exists(path)) {
            throw new IllegalArgumentException("%s: no such file or folder".formatted(path));
        }
        try {
            if (!Files.isDirectory(path)) {
                return List.of(new Document(String.valueOf(path.getFileName()), text(path)));
            }
            List<Path> files;
            try (var found = Files.walk(path)) {
                files =
                        found.filter(Files::isRegularFile)
                                .filter(f -> !path.relativize(f).toString().startsWith("."))
                                .sorted()
                                .toList();
            }
            var documents = new ArrayList<Document>();
            String refused = "";
            for (Path file : files) {
                try {
                    documents.add(new Document(path.relativize(file).toString(), text(file)));
                } catch (IllegalArgumentException e) {
                    refused = " (for one, " + e.getMessage() + ")";
                }
            }
            if (documents.isEmpty()) {
                throw new IllegalArgumentException(
                        "%s: no text among its %d files%s".formatted(path, files.size(), refused));
            }
            return documents;
        } catch (IOException e) {
            throw new UncheckedIOException(
                    "%s: cannot be read: %s".formatted(path, e.getMessage()), e);
        }
    }

    private static String text(Path file) throws IOException {
        long size = Files.size(file);
        if (size == 0) {
            throw new IllegalArgumentException("%s: is empty".formatted(file));
        }
        if (size > MAX_FILE_BYTES) {
            throw new IllegalArgumentException(
                    "%s: has %d bytes, at most %d fit one document: split it"
                            .formatted(file, size, MAX_FILE_BYTES));
        }
        byte[] bytes = Files.readAllBytes(file);
        for (int i = 0; i < bytes.length; i++) {
            if (bytes[i] == 0) {
                throw new IllegalArgumentException(
                        "%s: is not text: a zero byte at offset %d".formatted(file, i));
            }
        }
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
        } catch (CharacterCodingException e) {
            throw new IllegalArgumentException("%s: is not UTF-8 text".formatted(file), e);
        }
    }

    /**
     * Keeps about {@code share} of the bytes apart, at least {@code minimumBytes} where there is
     * enough, chosen by a hash of the file's name so that the choice does not change when files are
     * added. A single document gives its end.
     */
    public static TextFiles split(List<Document> documents, double share, long minimumBytes) {
        long total = documents.stream().mapToLong(d -> d.text().length()).sum();
        long wanted = Math.min(Math.max((long) (total * share), minimumBytes), total / 5);
        if (documents.size() == 1) {
            Document whole = documents.getFirst();
            int cut = (int) (whole.text().length() - wanted);
            if (cut > 0 && wanted > 0 && Character.isLowSurrogate(whole.text().charAt(cut))) {
                cut--;
            }
            return new TextFiles(
                    List.of(new Document(whole.name(), whole.text().substring(0, cut))),
                    List.of(new Document(whole.name() + " (end)", whole.text().substring(cut))));
        }
        var byHash = new ArrayList<>(documents);
        byHash.sort(
                java.util.Comparator.comparingLong((Document d) -> hash(d.name()))
                        .thenComparing(Document::name));
        var validation = new java.util.HashSet<Document>();
        long kept = 0;
        for (Document document : byHash) {
            if (kept >= wanted || validation.size() == documents.size() - 1) {
                break;
            }
            validation.add(document);
            kept += document.text().length();
        }
        return new TextFiles(
                documents.stream().filter(d -> !validation.contains(d)).toList(),
                documents.stream().filter(validation::contains).toList());
    }

    private static long hash(String name) {
        var crc = new CRC32();
        crc.update(name.getBytes(StandardCharsets.UTF_8));
        return crc.getValue();
    }
}
