package dev.gatun.transformers;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/**
 * One JSON object of a model folder, read strictly (no duplicate keys, nothing after the object,
 * bounded depth and size); its getters name file and key when a value is not what was wanted.
 *
 * <p>A getter that takes several keys is for a setting that has had several names: the first key
 * that is there counts. A key whose value is null counts as absent.
 */
final class Json {
    private static final int MAX_DEPTH = 32;

    private static final JsonFactory FACTORY =
            JsonFactory.builder()
                    .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .disable(StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION)
                    .streamReadConstraints(
                            StreamReadConstraints.builder()
                                    .maxNestingDepth(MAX_DEPTH)
                                    .maxNameLength(4096)
                                    .build())
                    .build();

    static final JsonMapper MAPPER =
            JsonMapper.builder(FACTORY)
                    .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
                    .build();

    private final String name;
    private final JsonNode object;

    private Json(String name, JsonNode object) {
        this.name = name;
        this.object = object;
    }

    /** Reads a file that must hold one JSON object of at most {@code maxBytes} bytes. */
    static Json read(Path file, long maxBytes) {
        String name = Folder.name(file);
        try {
            if (!Files.isRegularFile(file)) {
                throw new CheckpointException(name + ": no such file");
            }
            long bytes = Files.size(file);
            if (bytes > maxBytes) {
                throw new CheckpointException(
                        "%s: has %d bytes; at most %d are read".formatted(name, bytes, maxBytes));
            }
            return parse(name, Files.readAllBytes(file));
        } catch (IOException e) {
            throw new CheckpointException(name + ": cannot be read: " + e.getMessage(), e);
        }
    }

    static Json parse(String name, byte[] json) {
        JsonNode node;
        try {
            node = MAPPER.readTree(json);
        } catch (JsonProcessingException e) {
            throw new CheckpointException(
                    "%s: not valid JSON: %s".formatted(name, e.getOriginalMessage()), e);
        } catch (IOException e) {
            throw new CheckpointException(name + ": cannot be read: " + e.getMessage(), e);
        }
        if (!node.isObject()) {
            throw new CheckpointException(
                    "%s: wanted a JSON object, had %s".formatted(name, kind(node)));
        }
        return new Json(name, node);
    }

    /** The file this came from, as errors name it. */
    String name() {
        return name;
    }

    ObjectNode node() {
        return (ObjectNode) object;
    }

    boolean has(String key) {
        return object.hasNonNull(key);
    }

    int integer(int orElse, String... keys) {
        String key = present(keys);
        return key.isEmpty() ? orElse : integerAt(key);
    }

    int requiredInteger(String... keys) {
        String key = present(keys);
        if (key.isEmpty()) {
            String others =
                    keys.length == 1
                            ? ""
                            : " (or %s)"
                                    .formatted(
                                            String.join(
                                                    ", ", List.of(keys).subList(1, keys.length)));
            throw new CheckpointException("%s: %s%s is missing".formatted(name, keys[0], others));
        }
        return integerAt(key);
    }

    double number(double orElse, String... keys) {
        String key = present(keys);
        if (key.isEmpty()) {
            return orElse;
        }
        JsonNode value = object.get(key);
        if (!value.isNumber() || !Double.isFinite(value.doubleValue())) {
            throw wrong(key, "a finite number", value);
        }
        return value.doubleValue();
    }

    boolean flag(boolean orElse, String... keys) {
        String key = present(keys);
        if (key.isEmpty()) {
            return orElse;
        }
        JsonNode value = object.get(key);
        if (!value.isBoolean()) {
            throw wrong(key, "true or false", value);
        }
        return value.booleanValue();
    }

    Optional<String> text(String... keys) {
        String key = present(keys);
        if (key.isEmpty()) {
            return Optional.empty();
        }
        JsonNode value = object.get(key);
        if (!value.isTextual()) {
            throw wrong(key, "a string", value);
        }
        return Optional.of(value.textValue());
    }

    /** A token id or a list of them; empty if there is none. */
    List<Integer> ids(String key) {
        if (!has(key)) {
            return List.of();
        }
        JsonNode value = object.get(key);
        var ids = new ArrayList<Integer>();
        if (value.isArray()) {
            for (JsonNode id : value) {
                ids.add(idOf(key, id));
            }
        } else {
            ids.add(idOf(key, value));
        }
        return List.copyOf(ids);
    }

    Optional<Json> object(String key) {
        if (!has(key)) {
            return Optional.empty();
        }
        JsonNode value = object.get(key);
        if (!value.isObject()) {
            throw wrong(key, "an object", value);
        }
        return Optional.of(new Json(name + ": " + key, value));
    }

    private int idOf(String key, JsonNode value) {
        if (!value.isIntegralNumber() || !value.canConvertToInt() || value.intValue() < 0) {
            throw wrong(key, "a token id", value);
        }
        return value.intValue();
    }

    private String present(String... keys) {
        for (String key : keys) {
            if (has(key)) {
                return key;
            }
        }
        return "";
    }

    private int integerAt(String key) {
        JsonNode value = object.get(key);
        if (!value.isIntegralNumber() || !value.canConvertToInt()) {
            throw wrong(key, "a whole number below 2^31", value);
        }
        return value.intValue();
    }

    CheckpointException wrong(String key, String wanted, JsonNode had) {
        String shown = had.isContainerNode() ? kind(had) : had.toString();
        if (shown.length() > 80) {
            shown = shown.substring(0, 80) + "…";
        }
        return new CheckpointException(
                "%s: %s is %s; it must be %s".formatted(name, key, shown, wanted));
    }

    private static String kind(JsonNode node) {
        return switch (node.getNodeType()) {
            case MISSING -> "nothing";
            case ARRAY -> "an array";
            case OBJECT -> "an object";
            case STRING -> "a string";
            case NUMBER -> "a number";
            case BOOLEAN -> "a boolean";
            case NULL -> "null";
            case BINARY, POJO -> "something else";
        };
    }
}
