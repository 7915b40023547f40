package dev.gatun.transformers;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import dev.gatun.transformers.Safetensors.Entry;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import org.jspecify.annotations.Nullable;

/**
 * The parser of a safetensors file's JSON header. Everything that could mislead a reader is refused
 * here: no tensor that it lets through reaches outside the file or into another tensor.
 */
final class SafetensorsHeader {
    private static final long MAX_HEADER_BYTES = 100_000_000;

    /** Bytes of an element of each dtype that the format knows and that fills whole bytes. */
    static final Map<String, Integer> ELEMENT_BYTES =
            Map.ofEntries(
                    Map.entry("BOOL", 1),
                    Map.entry("U8", 1),
                    Map.entry("I8", 1),
                    Map.entry("F8_E4M3", 1),
                    Map.entry("F8_E5M2", 1),
                    Map.entry("F8_E8M0", 1),
                    Map.entry("U16", 2),
                    Map.entry("I16", 2),
                    Map.entry("F16", 2),
                    Map.entry("BF16", 2),
                    Map.entry("U32", 4),
                    Map.entry("I32", 4),
                    Map.entry("F32", 4),
                    Map.entry("U64", 8),
                    Map.entry("I64", 8),
                    Map.entry("F64", 8),
                    Map.entry("C64", 8));

    private final String file;
    final SequencedMap<String, Entry> entries = new LinkedHashMap<>();
    final Map<String, String> metadata = new HashMap<>();

    private SafetensorsHeader(String file) {
        this.file = file;
    }

    static SafetensorsHeader read(String file, FileChannel channel) throws IOException {
        long fileBytes = channel.size();
        if (fileBytes < 8) {
            throw new CheckpointException(
                    "%s: has %d bytes; a safetensors file begins with 8 bytes of header length"
                            .formatted(file, fileBytes));
        }
        long headerBytes = readAt(file, channel, 0, 8).order(ByteOrder.LITTLE_ENDIAN).getLong();
        if (headerBytes < 0 || headerBytes > MAX_HEADER_BYTES) {
            throw new CheckpointException(
                    "%s: header length is %s; a safetensors header has at most %d bytes"
                            .formatted(file, Long.toUnsignedString(headerBytes), MAX_HEADER_BYTES));
        }
        if (headerBytes > fileBytes - 8) {
            throw new CheckpointException(
                    "%s: header length is %d, but only %d bytes follow; the file is truncated"
                            .formatted(file, headerBytes, fileBytes - 8));
        }
        var header = new SafetensorsHeader(file);
        header.parse(readAt(file, channel, 8, (int) headerBytes).array());
        header.place(8 + headerBytes, fileBytes);
        return header;
    }

    private static ByteBuffer readAt(String file, FileChannel channel, long at, int bytes)
            throws IOException {
        var buffer = ByteBuffer.allocate(bytes);
        while (buffer.hasRemaining()) {
            if (channel.read(buffer, at + buffer.position()) < 0) {
                throw new CheckpointException(file + ": was cut while it was being read");
            }
        }
        return buffer.flip();
    }

    private void parse(byte[] json) throws IOException {
        try (JsonParser in = Json.MAPPER.createParser(json)) {
            want(in, in.nextToken(), JsonToken.START_OBJECT, "the header");
            while (in.nextToken() != JsonToken.END_OBJECT) {
                String name = in.currentName();
                if (name.equals("__metadata__")) {
                    parseMetadata(in);
                } else {
                    parseEntry(in, name);
                }
            }
            if (in.nextToken() != null) {
                throw new CheckpointException(file + ": the header has more after its JSON object");
            }
        } catch (JsonProcessingException e) {
            throw new CheckpointException(
                    "%s: the header is not valid JSON: %s".formatted(file, e.getOriginalMessage()),
                    e);
        }
    }

    private void parseMetadata(JsonParser in) throws IOException {
        want(in, in.nextToken(), JsonToken.START_OBJECT, "__metadata__");
        while (in.nextToken() != JsonToken.END_OBJECT) {
            String key = in.currentName();
            want(in, in.nextToken(), JsonToken.VALUE_STRING, "__metadata__ " + key);
            metadata.put(key, in.getText());
        }
    }

    /** Offsets stay relative to the data until {@link #place}. */
    private void parseEntry(JsonParser in, String name) throws IOException {
        @Nullable String dtype = null;
        @Nullable List<Long> shape = null;
        @Nullable List<Long> offsets = null;
        want(in, in.nextToken(), JsonToken.START_OBJECT, name);
        while (in.nextToken() != JsonToken.END_OBJECT) {
            String key = in.currentName();
            in.nextToken();
            switch (key) {
                case "dtype" -> {
                    want(in, in.currentToken(), JsonToken.VALUE_STRING, name + " dtype");
                    dtype = in.getText();
                }
                case "shape" -> shape = longs(in, name + " shape");
                case "data_offsets" -> offsets = longs(in, name + " data_offsets");
                default ->
                        throw new CheckpointException(
                                "%s: %s has an unknown field %s".formatted(file, name, key));
            }
        }
        if (dtype == null || shape == null || offsets == null) {
            throw new CheckpointException(
                    "%s: %s has no %s"
                            .formatted(
                                    file,
                                    name,
                                    dtype == null
                                            ? "dtype"
                                            : shape == null ? "shape" : "data_offsets"));
        }
        if (offsets.size() != 2 || offsets.getLast() < offsets.getFirst()) {
            throw new CheckpointException(
                    "%s: %s has data_offsets %s; wanted [begin, end]"
                            .formatted(file, name, offsets));
        }
        long bytes = offsets.getLast() - offsets.getFirst();
        checkSize(name, dtype, shape, bytes);
        entries.put(name, new Entry(name, dtype, List.copyOf(shape), offsets.getFirst(), bytes));
    }

    private void checkSize(String name, String dtype, List<Long> shape, long bytes) {
        Integer elementBytes = ELEMENT_BYTES.get(dtype);
        if (elementBytes == null) {
            throw new CheckpointException(
                    "%s: %s has dtype %s, which is none of %s"
                            .formatted(
                                    file,
                                    name,
                                    dtype,
                                    ELEMENT_BYTES.keySet().stream().sorted().toList()));
        }
        long wanted = elementBytes;
        try {
            for (long size : shape) {
                wanted = Math.multiplyExact(wanted, size);
            }
        } catch (ArithmeticException _) {
            throw new CheckpointException(
                    "%s: %s has shape %s, whose size overflows".formatted(file, name, shape));
        }
        if (wanted != bytes) {
            throw new CheckpointException(
                    "%s: %s has %d bytes of data, its shape %s of %s takes %d"
                            .formatted(file, name, bytes, shape, dtype, wanted));
        }
    }

    private List<Long> longs(JsonParser in, String what) throws IOException {
        want(in, in.currentToken(), JsonToken.START_ARRAY, what);
        var values = new ArrayList<Long>();
        while (in.nextToken() != JsonToken.END_ARRAY) {
            want(in, in.currentToken(), JsonToken.VALUE_NUMBER_INT, what);
            if (in.getNumberType() == JsonParser.NumberType.BIG_INTEGER || in.getLongValue() < 0) {
                throw new CheckpointException(
                        "%s: %s holds %s; wanted a number from 0 to 2^63 - 1"
                                .formatted(file, what, in.getText()));
            }
            values.add(in.getLongValue());
        }
        return values;
    }

    private void want(JsonParser in, @Nullable JsonToken had, JsonToken wanted, String what)
            throws IOException {
        if (had != wanted) {
            throw new CheckpointException(
                    "%s: %s is %s; wanted %s"
                            .formatted(file, what, shown(in, had), spoken(wanted)));
        }
    }

    private static String shown(JsonParser in, @Nullable JsonToken token) throws IOException {
        if (token == null) {
            return "missing";
        }
        return token.isScalarValue() ? in.getText() : spoken(token);
    }

    private static String spoken(JsonToken token) {
        return switch (token) {
            case START_OBJECT, END_OBJECT -> "an object";
            case START_ARRAY, END_ARRAY -> "an array";
            case VALUE_STRING -> "a string";
            case VALUE_NUMBER_INT -> "a whole number";
            default -> "something else";
        };
    }

    /** Orders the entries by their bytes, which must cover the data exactly. */
    private void place(long dataBegin, long fileBytes) {
        var ordered = new ArrayList<>(entries.values());
        ordered.sort(Comparator.comparingLong(Entry::offset).thenComparingLong(Entry::bytes));
        entries.clear();
        long end = 0;
        String previous = "the header";
        for (Entry entry : ordered) {
            if (entry.offset() != end) {
                throw new CheckpointException(
                        "%s: %s begins at byte %d of the data, %s ends at %d: %s"
                                .formatted(
                                        file,
                                        entry.name(),
                                        entry.offset(),
                                        previous,
                                        end,
                                        entry.offset() < end ? "they overlap" : "a hole"));
            }
            // bytes is at most 2^63 - 1 - offset, so this cannot overflow
            end += entry.bytes();
            previous = entry.name();
            entries.put(
                    entry.name(),
                    new Entry(
                            entry.name(),
                            entry.dtype(),
                            entry.shape(),
                            dataBegin + entry.offset(),
                            entry.bytes()));
        }
        long dataBytes = fileBytes - dataBegin;
        if (end > dataBytes) {
            throw new CheckpointException(
                    "%s: the header describes %d bytes of data, the file has %d: truncated"
                            .formatted(file, end, dataBytes));
        }
        if (end < dataBytes) {
            throw new CheckpointException(
                    "%s: has %d bytes after its last tensor".formatted(file, dataBytes - end));
        }
    }
}
