package dev.gatun.kernels;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * The reference values: {@code -Dgatun.fixtures=DIR}, else {@code ../shared/fixtures} beside the
 * repository, else the small set in the test resources.
 */
public final class Fixtures {
    private static final ObjectMapper JSON = new ObjectMapper();

    private Fixtures() {}

    /** The folder of fixtures, if there is one. */
    static Optional<Path> folder() {
        String given = System.getProperty("gatun.fixtures", "");
        Path root = repository();
        for (Path candidate :
                List.of(
                        given.isBlank()
                                ? root.resolveSibling("shared").resolve("fixtures")
                                : Path.of(given),
                        root.resolve("java/gatun-kernels/src/test/resources/fixtures"))) {
            if (Files.isDirectory(candidate)) {
                return Optional.of(candidate);
            }
        }
        return Optional.empty();
    }

    /** The repository this runs in. */
    public static Path repository() {
        for (Path at = Path.of("").toAbsolutePath(); at != null; at = at.getParent()) {
            if (Files.isRegularFile(at.resolve("native/include/gatun.h"))) {
                return at;
            }
        }
        throw new IllegalStateException("run the tests within the repository");
    }

    /** A case of one op group: its arguments, and its tensors as float64. */
    record Case(String group, String name, JsonNode arguments, Map<String, Values> tensors) {
        Values tensor(String tensor) {
            Values own = tensors.get(name + "." + tensor);
            if (own == null && arguments.has("inputs")) {
                own = tensors.get(arguments.get("inputs").asText() + "." + tensor);
            }
            if (own == null) {
                throw new IllegalStateException(this + " has no tensor " + tensor);
            }
            return own;
        }

        boolean has(String tensor) {
            return tensors.containsKey(name + "." + tensor);
        }

        double number(String argument, double otherwise) {
            return arguments.path(argument).asDouble(otherwise);
        }

        @Override
        public String toString() {
            return "ops/" + group + "/" + name;
        }
    }

    /** A tensor of a safetensors file. */
    record Values(long[] shape, double[] values) {
        float[] floats() {
            float[] out = new float[values.length];
            for (int i = 0; i < out.length; i++) {
                out[i] = (float) values[i];
            }
            return out;
        }

        int[] ints() {
            int[] out = new int[values.length];
            for (int i = 0; i < out.length; i++) {
                out[i] = (int) values[i];
            }
            return out;
        }
    }

    /** All cases of all groups, in the order of their files. */
    static List<Case> ops() {
        List<Case> all = new ArrayList<>();
        if (folder().isEmpty()) {
            return all;
        }
        try (var files = Files.list(folder().get().resolve("ops"))) {
            for (Path file : files.filter(f -> f.toString().endsWith(".json")).sorted().toList()) {
                String group = file.getFileName().toString().replace(".json", "");
                Map<String, Values> tensors =
                        safetensors(file.resolveSibling(group + ".safetensors"));
                JsonNode cases = JSON.readTree(file.toFile()).get("cases");
                cases.properties()
                        .forEach(c -> all.add(new Case(group, c.getKey(), c.getValue(), tensors)));
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        return all;
    }

    private static Map<String, Values> safetensors(Path file) throws IOException {
        ByteBuffer all = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
        byte[] header = new byte[(int) all.getLong()];
        all.get(header);
        int data = all.position();
        Map<String, Values> out = new LinkedHashMap<>();
        for (Map.Entry<String, JsonNode> entry : JSON.readTree(header).properties()) {
            if (entry.getKey().equals("__metadata__")) {
                continue;
            }
            JsonNode spec = entry.getValue();
            List<Long> shape = new ArrayList<>();
            spec.get("shape").forEach(s -> shape.add(s.asLong()));
            int from = data + spec.get("data_offsets").get(0).asInt();
            int n = (int) shape.stream().mapToLong(s -> s).reduce(1, (a, b) -> a * b);
            double[] values = new double[n];
            for (int i = 0; i < n; i++) {
                values[i] =
                        switch (spec.get("dtype").asText()) {
                            case "F32" -> all.getFloat(from + 4 * i);
                            case "I64" -> all.getLong(from + 8 * i);
                            default -> throw new IOException("dtype " + spec.get("dtype"));
                        };
            }
            out.put(entry.getKey(), new Values(shape.stream().mapToLong(s -> s).toArray(), values));
        }
        return out;
    }
}
