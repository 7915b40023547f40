package dev.gatun.transformers;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.gatun.kernels.DType;
import dev.gatun.kernels.Tensor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Map;

/** Writes tensors as a safetensors file, one chunk after another. */
final class SafetensorsWriter {
    private static final int CHUNK_BYTES = 1 << 22;

    private SafetensorsWriter() {}

    static void write(FileChannel out, Map<String, Tensor> tensors, Map<String, String> metadata)
            throws IOException {
        // widest first, as the reference writer does, so that each tensor is aligned to its element
        List<Map.Entry<String, Tensor>> ordered = new ArrayList<>(tensors.entrySet());
        ordered.sort(Comparator.comparingInt(e -> -e.getValue().dtype().bytes()));
        AtomicFile.writeFully(out, header(ordered, metadata));
        for (var entry : ordered) {
            values(out, entry.getValue());
        }
    }

    private static ByteBuffer header(
            List<Map.Entry<String, Tensor>> tensors, Map<String, String> metadata)
            throws JsonProcessingException {
        ObjectNode header = Json.MAPPER.createObjectNode();
        if (!metadata.isEmpty()) {
            ObjectNode texts = header.putObject("__metadata__");
            metadata.forEach(texts::put);
        }
        long at = 0;
        for (var entry : tensors) {
            Tensor tensor = entry.getValue();
            ObjectNode node = header.putObject(entry.getKey());
            node.put("dtype", tensor.dtype().name());
            var shape = node.putArray("shape");
            Arrays.stream(tensor.shape()).forEach(shape::add);
            long bytes = Math.multiplyExact(tensor.elements(), (long) tensor.dtype().bytes());
            node.putArray("data_offsets").add(at).add(at + bytes);
            at += bytes;
        }
        byte[] json = Json.MAPPER.writeValueAsBytes(header);
        int padded = Math.ceilDiv(json.length, 8) * 8;
        var bytes = ByteBuffer.allocate(8 + padded).order(ByteOrder.LITTLE_ENDIAN);
        bytes.putLong(padded).put(json);
        while (bytes.hasRemaining()) {
            bytes.put((byte) ' ');
        }
        return bytes.flip();
    }

    private static void values(FileChannel out, Tensor tensor) throws IOException {
        if (tensor.elements() == 0) {
            return;
        }
        if (tensor.device().name().equals("cpu")) {
            var memory = tensor.segment();
            for (long at = 0; at < memory.byteSize(); at += CHUNK_BYTES) {
                long bytes = Math.min(CHUNK_BYTES, memory.byteSize() - at);
                AtomicFile.writeFully(out, memory.asSlice(at, bytes).asByteBuffer());
            }
            return;
        }
        Tensor flat = tensor.view(tensor.elements());
        int chunk = CHUNK_BYTES / tensor.dtype().bytes();
        for (long at = 0; at < tensor.elements(); at += chunk) {
            Tensor part = flat.slice(0, at, Math.min(tensor.elements(), at + chunk));
            AtomicFile.writeFully(out, hostBytes(part));
        }
    }

    private static ByteBuffer hostBytes(Tensor part) {
        int elements = (int) part.elements();
        var bytes =
                ByteBuffer.allocate(elements * part.dtype().bytes()).order(ByteOrder.LITTLE_ENDIAN);
        if (part.dtype() == DType.I64) {
            bytes.asLongBuffer().put(part.toLongs());
        } else if (part.dtype() == DType.I32) {
            bytes.asIntBuffer().put(part.toInts());
        } else {
            for (float value : part.toFloats()) {
                switch (part.dtype()) {
                    case F32 -> bytes.putFloat(value);
                    case F16 -> bytes.putShort(Float.floatToFloat16(value));
                    case BF16 -> bytes.putShort((short) (Float.floatToRawIntBits(value) >>> 16));
                    default ->
                            throw new IllegalArgumentException(
                                    "safetensors: %s cannot be written".formatted(part));
                }
            }
            bytes.flip();
        }
        return bytes;
    }
}
