package dev.gatun.transformers;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * The weights of a model folder ({@code model.safetensors}, or the shards that {@code
 * model.safetensors.index.json} lists), taken one by one by name and shape.
 *
 * <p>Strict: after the model has taken what it knows and has said what it ignores, {@link #close}
 * throws one error that lists every tensor that was missing, misshapen or left over. So a model
 * loads in one try-with-resources statement, and uses its weights only after that:
 *
 * <pre>{@code
 * try (var in = Checkpoint.open(folder, device)) {
 *     in.optionalPrefix("transformer.");
 *     in.ignore("transformer.h.{}.attn.bias");
 *     weights = new Weights(in.take("transformer.wte.weight", vocab, dim), …);
 * }
 * }</pre>
 *
 * <p>Values are read into device memory and converted to the wanted dtype on the way; the file is
 * not mapped. The tensors belong to the caller, who closes them; after an error there are none.
 */
public final class Checkpoint implements WeightSource, AutoCloseable {
    private static final String SINGLE = "model.safetensors";
    private static final String INDEX = "model.safetensors.index.json";
    private static final long MAX_INDEX_BYTES = 100_000_000;
    private static final int CHUNK_BYTES = 1 << 22;

    /** Wanted is what {@code config.json} leads to; the sentence says what the file has instead. */
    private record Fault(String name, String sentence) {}

    private record Stored(Safetensors file, Safetensors.Entry entry) {}

    private final String name;
    private final Device device;
    private final DType dtype;
    private final List<Safetensors> files;
    private final Map<String, Stored> tensors;
    private final Set<String> left;
    private final List<Tensor> taken = new ArrayList<>();
    private final List<Fault> faults = new ArrayList<>();
    private String prefix = "";
    private boolean failed;

    private Checkpoint(String name, Device device, DType dtype, List<Safetensors> files) {
        this.name = name;
        this.device = device;
        this.dtype = dtype;
        this.files = files;
        this.tensors = new LinkedHashMap<>();
        for (Safetensors file : files) {
            file.entries().forEach((key, entry) -> tensors.put(key, new Stored(file, entry)));
        }
        this.left = new HashSet<>(tensors.keySet());
    }

    /** Opens a model folder; weights become f32. */
    public static Checkpoint open(Path folder, Device device) {
        return open(folder, device, DType.F32);
    }

    /**
     * Opens a model folder.
     *
     * @param dtype of the matrices in device memory; vectors (biases, norms) are f32 in any case,
     *     which every op takes beside 16-bit matrices
     * @throws CheckpointException if the folder has no safetensors, or they are not sound
     */
    public static Checkpoint open(Path folder, Device device, DType dtype) {
        Path single = folder.resolve(SINGLE);
        Path index = folder.resolve(INDEX);
        if (Files.exists(single)) {
            return new Checkpoint(
                    Folder.name(single), device, dtype, List.of(Safetensors.open(single)));
        }
        if (Files.exists(index)) {
            return new Checkpoint(Folder.name(index), device, dtype, shards(folder, index));
        }
        if (!Files.isDirectory(folder)) {
            throw new CheckpointException(Folder.name(folder) + ": no such folder");
        }
        String pickle =
                Files.exists(folder.resolve("pytorch_model.bin"))
                        ? "; pytorch_model.bin is there, but pickle files can run code and are"
                                + " never read: save the model as safetensors"
                        : "";
        throw new CheckpointException(
                "%s: has neither %s nor %s%s"
                        .formatted(Folder.name(folder), SINGLE, INDEX, pickle));
    }

    /** Opens all shards and checks them against the index, both ways. */
    private static List<Safetensors> shards(Path folder, Path indexFile) {
        Json index = Json.read(indexFile, MAX_INDEX_BYTES);
        Json map =
                index.object("weight_map")
                        .orElseThrow(() ->
                                new CheckpointException(index.name() + ": weight_map is missing"));
        var namesOf = new TreeMap<String, Set<String>>();
        for (var mapping : map.node().properties()) {
            String tensor = mapping.getKey();
            if (!mapping.getValue().isTextual()) {
                throw map.wrong(tensor, "a file name", mapping.getValue());
            }
            String file = mapping.getValue().textValue();
            if (!isPlainName(file)) {
                throw map.wrong(
                        tensor,
                        "the plain name of a .safetensors file in this folder",
                        mapping.getValue());
            }
            namesOf.computeIfAbsent(file, _ -> new HashSet<>()).add(tensor);
        }
        var files = new ArrayList<Safetensors>();
        try {
            for (var shard : namesOf.entrySet()) {
                Safetensors file = Safetensors.open(folder.resolve(shard.getKey()));
                files.add(file);
                var extra = new HashSet<>(file.entries().keySet());
                extra.removeAll(shard.getValue());
                var missing = new HashSet<>(shard.getValue());
                missing.removeAll(file.entries().keySet());
                if (!extra.isEmpty() || !missing.isEmpty()) {
                    throw new CheckpointException(
                            "%s: does not hold what %s says: missing %s, extra %s"
                                    .formatted(file.name(), INDEX, some(missing), some(extra)));
                }
            }
        } catch (RuntimeException e) {
            files.forEach(Safetensors::close);
            throw e;
        }
        return files;
    }

    /** Whether the name can only mean a file of this folder: no separators, no parent, no NUL. */
    private static boolean isPlainName(String file) {
        return file.endsWith(".safetensors")
                && !file.startsWith(".")
                && file.chars().noneMatch(c -> c == '/' || c == '\\' || c < ' ');
    }

    /** The file or index, as errors name it. */
    public String name() {
        return name;
    }

    /** Whether there is a tensor of that name (with or without the optional prefix). */
    public boolean has(String tensor) {
        return find(tensor) != null;
    }

    /**
     * Lets each name that begins so be found without it too: published checkpoints have {@code
     * transformer.wte.weight} or {@code wte.weight} for the same thing.
     */
    public void optionalPrefix(String optional) {
        prefix = optional;
    }

    /**
     * The tensor of that name and shape, owned by the caller. If it is missing, misshapen or not of
     * a float dtype, that is noted for {@link #close} and the result is an empty tensor.
     *
     * @throws CheckpointException if the file cannot be read
     */
    @Override
    public Tensor take(String tensor, long... shape) {
        Stored stored = find(tensor);
        if (stored == null) {
            faults.add(
                    new Fault(
                            tensor,
                            "is missing, config.json wants it as " + Arrays.toString(shape)));
            return placeholder();
        }
        Safetensors.Entry entry = stored.entry;
        String found = entry.name();
        left.remove(found);
        if (!entry.shape().equals(Arrays.stream(shape).boxed().toList())) {
            faults.add(
                    new Fault(
                            found,
                            "is %s, config.json wants %s"
                                    .formatted(entry.kind(), Arrays.toString(shape))));
            return placeholder();
        }
        if (!isFloat(entry.dtype())) {
            faults.add(new Fault(found, "is %s, wanted f32, f16 or bf16".formatted(entry.kind())));
            return placeholder();
        }
        if (!faults.isEmpty()) {
            return placeholder(); // the load has failed; only the list is still wanted
        }
        failed = true; // until the read is through: close() then has nothing to add
        DType wanted = shape.length > 1 ? dtype : DType.F32;
        Tensor weight = Tensor.empty(device, wanted, Purpose.WEIGHTS, shape);
        taken.add(weight);
        read(stored.file, entry, weight);
        failed = false;
        return weight;
    }

    /** Says that tensors of this name are known and not needed; {@code {}} stands for a number. */
    public void ignore(String pattern) {
        String known =
                Arrays.stream(pattern.split(Pattern.quote("{}"), -1))
                        .map(Pattern::quote)
                        .reduce((a, b) -> a + "[0-9]{1,9}" + b)
                        .orElseThrow();
        var compiled = Pattern.compile(known);
        left.removeIf(tensor ->
                compiled.matcher(tensor).matches() || compiled.matcher(prefix + tensor).matches());
    }

    private @Nullable Stored find(String tensor) {
        Stored stored = tensors.get(tensor);
        return stored == null && tensor.startsWith(prefix)
                ? tensors.get(tensor.substring(prefix.length()))
                : stored;
    }

    private Tensor placeholder() {
        Tensor empty = Tensor.empty(device, dtype, Purpose.OTHER, 0);
        taken.add(empty);
        return empty;
    }

    private static boolean isFloat(String fileDtype) {
        return switch (fileDtype) {
            case "F32", "F16", "BF16" -> true;
            default -> false;
        };
    }

    private void read(Safetensors file, Safetensors.Entry entry, Tensor weight) {
        if (entry.dtype().equals(weight.dtype().name()) && device.name().equals("cpu")) {
            readStraight(file, entry, weight);
        } else {
            readConverted(file, entry, weight);
        }
    }

    private static void readStraight(Safetensors file, Safetensors.Entry entry, Tensor weight) {
        var memory = weight.segment();
        for (long at = 0; at < entry.bytes(); at += CHUNK_BYTES) {
            long bytes = Math.min(CHUNK_BYTES, entry.bytes() - at);
            file.read(entry, at, memory.asSlice(at, bytes).asByteBuffer());
        }
    }

    private static void readConverted(Safetensors file, Safetensors.Entry entry, Tensor weight) {
        long elements = weight.elements();
        if (elements == 0) {
            return;
        }
        int elementBytes = (int) (entry.bytes() / elements);
        int chunk = (int) Math.min(elements, CHUNK_BYTES / elementBytes);
        var bytes = ByteBuffer.allocate(chunk * elementBytes).order(ByteOrder.LITTLE_ENDIAN);
        Tensor flat = weight.view(elements);
        for (long at = 0; at < elements; at += chunk) {
            float[] values = new float[(int) Math.min(chunk, elements - at)];
            bytes.clear().limit(values.length * elementBytes);
            file.read(entry, at * elementBytes, bytes);
            bytes.flip();
            switch (entry.dtype()) {
                case "F32" -> bytes.asFloatBuffer().get(values);
                case "F16" -> {
                    for (int i = 0; i < values.length; i++) {
                        values[i] = Float.float16ToFloat(bytes.getShort());
                    }
                }
                default -> {
                    for (int i = 0; i < values.length; i++) {
                        values[i] = Float.intBitsToFloat(bytes.getShort() << 16);
                    }
                }
            }
            flat.slice(0, at, at + values.length).write(values);
        }
    }

    /**
     * Ends the loading.
     *
     * @throws CheckpointException if a tensor was missing, misshapen, of a wrong dtype, or is left
     *     over; it lists them all, and the tensors taken so far are closed
     */
    @Override
    public void close() {
        files.forEach(Safetensors::close);
        if (failed) {
            taken.forEach(Tensor::close);
            return; // an error is already on its way
        }
        if (faults.isEmpty() && left.isEmpty()) {
            return;
        }
        taken.forEach(Tensor::close);
        var lines = new ArrayList<String>();
        faults.forEach(fault -> lines.add(fault.name + " " + fault.sentence));
        tensors.values().stream()
                .map(Stored::entry)
                .filter(entry -> left.contains(entry.name()))
                .sorted(Comparator.comparing(Safetensors.Entry::name))
                .map(e ->
                        "%s is %s, and the model has no such weight".formatted(e.name(), e.kind()))
                .forEach(lines::add);
        String more = lines.size() > 20 ? "; and %d more".formatted(lines.size() - 20) : "";
        throw new CheckpointException(
                "%s: %s%s"
                        .formatted(
                                name,
                                String.join("; ", lines.subList(0, Math.min(20, lines.size()))),
                                more));
    }

    private static String some(Set<String> names) {
        if (names.isEmpty()) {
            return "nothing";
        }
        var sorted = names.stream().sorted().limit(5).toList();
        String list = String.join(", ", sorted);
        return names.size() > 5 ? list + " and %d more".formatted(names.size() - 5) : list;
    }
}
