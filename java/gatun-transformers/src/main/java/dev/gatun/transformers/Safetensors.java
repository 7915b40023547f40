package dev.gatun.transformers;

import dev.gatun.kernels.Tensor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.SequencedMap;
import org.jspecify.annotations.Nullable;

/**
 * One safetensors file, open for reading. The format (github.com/huggingface/safetensors): eight
 * bytes of header length, little-endian; a JSON header {@code {name: {dtype, shape,
 * data_offsets}}}; the tensors' bytes, row-major and little-endian, one after another without
 * holes.
 *
 * <p>The header is parsed here, in Java, and checked whole before anything is read by it: lengths
 * against the file, dtypes, sizes against shapes, overlaps, holes, duplicate names. Values are
 * read, not mapped, so that a file truncated behind our back is an error and not a signal.
 *
 * <p>Not safe for use by several threads at once.
 */
public final class Safetensors implements AutoCloseable {
    /**
     * What the header says of one tensor.
     *
     * @param dtype the format's own name: F32, BF16, I64 …
     * @param offset of the first byte, from the beginning of the file
     * @param bytes how many; always the product of the shape times the element size
     */
    public record Entry(String name, String dtype, List<Long> shape, long offset, long bytes) {
        long elements() {
            return bytes / SafetensorsHeader.ELEMENT_BYTES.getOrDefault(dtype, 1);
        }

        /** {@code f32[768, 2304]}. */
        String kind() {
            return dtype.toLowerCase(Locale.ROOT) + shape;
        }
    }

    private final String name;
    private final FileChannel channel;
    private final SequencedMap<String, Entry> entries;
    private final Map<String, String> metadata;

    private Safetensors(
            String name,
            FileChannel channel,
            SequencedMap<String, Entry> entries,
            Map<String, String> metadata) {
        this.name = name;
        this.channel = channel;
        this.entries = Collections.unmodifiableSequencedMap(entries);
        this.metadata = Map.copyOf(metadata);
    }

    /**
     * Opens a file and checks its header.
     *
     * @throws CheckpointException if there is no such file, or it is not a sound safetensors file
     */
    public static Safetensors open(Path file) {
        String name = Folder.name(file);
        if (!Files.isRegularFile(file)) {
            throw new CheckpointException(name + ": no such file");
        }
        FileChannel channel = null;
        try {
            channel = FileChannel.open(file, StandardOpenOption.READ);
            var header = SafetensorsHeader.read(name, channel);
            return new Safetensors(name, channel, header.entries, header.metadata);
        } catch (IOException e) {
            close(channel);
            throw new CheckpointException(name + ": cannot be read: " + e.getMessage(), e);
        } catch (RuntimeException e) {
            close(channel);
            throw e;
        }
    }

    /**
     * Writes tensors of any dtype to a file that is complete or not there (see {@link AtomicFile}).
     * The tensors are contiguous; their values are those after all work enqueued before.
     *
     * @param metadata the header's {@code __metadata__}; the reference library wants {@code format:
     *     pt} there
     * @throws IOException if the file cannot be written; the message names it and says why
     */
    public static void write(Path file, Map<String, Tensor> tensors, Map<String, String> metadata)
            throws IOException {
        AtomicFile.write(file, out -> SafetensorsWriter.write(out, tensors, metadata));
    }

    private static void close(@Nullable FileChannel channel) {
        if (channel != null) {
            try {
                channel.close();
            } catch (IOException _) {
                // the failure that brought us here is the one to report
            }
        }
    }

    /** Folder and file, as errors name it. */
    public String name() {
        return name;
    }

    /** The tensors in the order of their bytes. */
    public SequencedMap<String, Entry> entries() {
        return entries;
    }

    /** The header's {@code __metadata__}. */
    public Map<String, String> metadata() {
        return metadata;
    }

    /**
     * The values of a tensor of any float dtype, rounded to float (F64) or exact (F32, F16, BF16).
     *
     * @throws CheckpointException if there is no such tensor or it is not of a float dtype
     */
    public float[] toFloats(String tensor) {
        Entry entry = entry(tensor);
        ByteBuffer bytes = bytes(entry);
        float[] values = new float[(int) entry.elements()];
        for (int i = 0; i < values.length; i++) {
            values[i] =
                    switch (entry.dtype) {
                        case "F64" -> (float) bytes.getDouble();
                        case "F32" -> bytes.getFloat();
                        case "F16" -> Float.float16ToFloat(bytes.getShort());
                        case "BF16" -> Float.intBitsToFloat(bytes.getShort() << 16);
                        default -> throw notA(entry, "a float tensor");
                    };
        }
        return values;
    }

    /**
     * The values of a tensor of any integer dtype up to I64, and of BOOL.
     *
     * @throws CheckpointException if there is no such tensor or it is not of an integer dtype
     */
    public long[] toLongs(String tensor) {
        Entry entry = entry(tensor);
        ByteBuffer bytes = bytes(entry);
        long[] values = new long[(int) entry.elements()];
        for (int i = 0; i < values.length; i++) {
            values[i] =
                    switch (entry.dtype) {
                        case "I64" -> bytes.getLong();
                        case "I32" -> bytes.getInt();
                        case "U32" -> Integer.toUnsignedLong(bytes.getInt());
                        case "I16" -> bytes.getShort();
                        case "U16" -> Short.toUnsignedLong(bytes.getShort());
                        case "I8" -> bytes.get();
                        case "U8", "BOOL" -> Byte.toUnsignedLong(bytes.get());
                        default -> throw notA(entry, "an integer tensor");
                    };
        }
        return values;
    }

    /**
     * Reads {@code destination.remaining()} of a tensor's bytes, from byte {@code from} of it on.
     */
    void read(Entry entry, long from, ByteBuffer destination) {
        long position = entry.offset + from;
        try {
            while (destination.hasRemaining()) {
                int n = channel.read(destination, position);
                if (n < 0) {
                    throw new CheckpointException(
                            "%s: ended inside %s; it was cut while it was being read"
                                    .formatted(name, entry.name));
                }
                position += n;
            }
        } catch (IOException e) {
            throw new CheckpointException(
                    "%s: %s cannot be read: %s".formatted(name, entry.name, e.getMessage()), e);
        }
    }

    private Entry entry(String tensor) {
        Entry entry = entries.get(tensor);
        if (entry == null) {
            throw new CheckpointException("%s: has no tensor %s".formatted(name, tensor));
        }
        return entry;
    }

    private ByteBuffer bytes(Entry entry) {
        if (entry.bytes > Integer.MAX_VALUE - 16) {
            throw new CheckpointException(
                    "%s: %s has %d bytes, too many for a Java array"
                            .formatted(name, entry.name, entry.bytes));
        }
        var bytes = ByteBuffer.allocate((int) entry.bytes).order(ByteOrder.LITTLE_ENDIAN);
        read(entry, 0, bytes);
        return bytes.flip();
    }

    private CheckpointException notA(Entry entry, String wanted) {
        return new CheckpointException(
                "%s: %s is %s; wanted %s".formatted(name, entry.name, entry.kind(), wanted));
    }

    @Override
    public void close() {
        try {
            channel.close();
        } catch (IOException e) {
            throw new CheckpointException(name + ": cannot be closed: " + e.getMessage(), e);
        }
    }
}
