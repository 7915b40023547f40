package dev.gatun.trainer;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Tensor;
import dev.gatun.transformers.AtomicFile;
import dev.gatun.transformers.CausalLm;
import dev.gatun.transformers.Safetensors;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.System.Logger.Level;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

/**
 * Where a run stands, and the folder that keeps it: {@code checkpoint-<step>} with the model as the
 * reference library loads it, the optimizer's moments, and {@code trainer_state.json}, whose keys
 * are the reference library's; what only this library needs stands under {@code gatun}.
 *
 * <p>A checkpoint is written under another name, synced, and then renamed: under its own name it is
 * always whole. Its files' SHA-256 are stored, so that later damage is found.
 *
 * @param step optimizer steps done
 * @param maxSteps steps of the whole run; -1 while they are not known
 * @param elapsedSeconds from the first step, pauses between processes left out
 * @param arguments {@link TrainingArguments#toMap} of the run
 */
record TrainState(long step, long maxSteps, double elapsedSeconds, Map<String, Object> arguments) {
    private static final System.Logger LOG = System.getLogger(TrainState.class.getName());
    private static final ObjectMapper JSON =
            new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);
    private static final String PREFIX = "checkpoint-";
    private static final String STATE = "trainer_state.json";
    private static final String OPTIMIZER = "optimizer.safetensors";

    /** Writes the checkpoint, then removes the oldest ones beyond {@code limit}. */
    Path save(Path outputDir, CausalLm model, Optimizer optimizer, double epoch, int limit)
            throws IOException {
        Path folder = outputDir.resolve(PREFIX + step);
        Path temporary =
                outputDir.resolve(
                        ".%s%d.%d.tmp".formatted(PREFIX, step, ProcessHandle.current().pid()));
        Files.createDirectories(outputDir);
        delete(temporary);
        try {
            Files.createDirectory(temporary);
            model.save(temporary);
            Safetensors.write(temporary.resolve(OPTIMIZER), optimizer.moments(), Map.of());
            AtomicFile.write(
                    temporary.resolve(STATE), JSON.writeValueAsBytes(describe(temporary, epoch)));
            AtomicFile.sync(temporary);
            delete(folder); // a checkpoint of the same step that was found to be damaged
            Files.move(temporary, folder, StandardCopyOption.ATOMIC_MOVE);
            AtomicFile.sync(outputDir);
        } catch (IOException | RuntimeException e) {
            delete(temporary);
            throw e;
        }
        List<Path> all = newestFirst(outputDir);
        for (Path old : all.subList(Math.min(limit, all.size()), all.size())) {
            delete(old);
        }
        return folder;
    }

    private ObjectNode describe(Path folder, double epoch) throws IOException {
        ObjectNode root = JSON.createObjectNode();
        root.put("epoch", epoch);
        root.put("global_step", step);
        root.put("max_steps", maxSteps);
        ObjectNode own = root.putObject("gatun");
        own.put("elapsed_seconds", elapsedSeconds);
        own.set("arguments", JSON.valueToTree(arguments));
        ObjectNode sums = own.putObject("sha256");
        try (var files = Files.list(folder)) {
            for (Path file : files.sorted().toList()) {
                sums.put(String.valueOf(file.getFileName()), sha256(file));
            }
        }
        return root;
    }

    /**
     * The newest checkpoint that is whole. One that is not is passed over with a warning.
     *
     * @return empty if there is none
     */
    static Optional<Path> newest(Path outputDir) throws IOException {
        for (Path folder : newestFirst(outputDir)) {
            Optional<String> damage = damage(folder);
            if (damage.isEmpty()) {
                return Optional.of(folder);
            }
            LOG.log(Level.WARNING, "{0}: passed over: {1}", folder, damage.get());
        }
        return Optional.empty();
    }

    /** Reads the state of a checkpoint. */
    static TrainState read(Path folder) throws IOException {
        JsonNode root = JSON.readTree(Files.readAllBytes(folder.resolve(STATE)));
        var arguments = new TreeMap<String, Object>();
        root.path("gatun")
                .path("arguments")
                .properties()
                .forEach(e ->
                        arguments.put(e.getKey(), JSON.convertValue(e.getValue(), Object.class)));
        return new TrainState(
                root.path("global_step").asLong(),
                root.path("max_steps").asLong(-1),
                root.path("gatun").path("elapsed_seconds").asDouble(),
                arguments);
    }

    /**
     * Puts the weights and moments of a checkpoint in place of those of a model and its optimizer.
     */
    void restore(Path folder, CausalLm model, Optimizer optimizer) throws IOException {
        try (Safetensors weights = Safetensors.open(folder.resolve("model.safetensors"));
                Safetensors moments = Safetensors.open(folder.resolve(OPTIMIZER))) {
            for (var parameter : model.parameters()) {
                load(weights, parameter.name(), parameter.weight());
            }
            optimizer.moments().forEach((name, tensor) -> load(moments, name, tensor));
        }
        try (Ops ops = model.device().ops()) {
            model.parameters().forEach(parameter -> parameter.refresh(ops));
            ops.await();
        }
        optimizer.resumeAt(step);
    }

    private static void load(Safetensors file, String name, Tensor into) {
        if (!file.entries().containsKey(name)) {
            throw new IllegalArgumentException(
                    "%s: has no %s: it is not a checkpoint of this model"
                            .formatted(file.name(), name));
        }
        float[] values = file.toFloats(name);
        if (values.length != into.elements()) {
            throw new IllegalArgumentException(
                    "%s: %s has %d values, the model wants %d"
                            .formatted(file.name(), name, values.length, into.elements()));
        }
        into.write(values);
    }

    private static Optional<String> damage(Path folder) {
        try {
            JsonNode root = JSON.readTree(Files.readAllBytes(folder.resolve(STATE)));
            JsonNode sums = root.path("gatun").path("sha256");
            if (sums.isEmpty()) {
                return Optional.of(STATE + " has no checksums");
            }
            for (var entry : sums.properties()) {
                Path file = folder.resolve(entry.getKey());
                if (!Files.exists(file)) {
                    return Optional.of(entry.getKey() + " is missing");
                }
                if (!sha256(file).equals(entry.getValue().asText())) {
                    return Optional.of(entry.getKey() + " does not match its checksum");
                }
            }
            return Optional.empty();
        } catch (JsonProcessingException e) {
            return Optional.of(STATE + " is not JSON");
        } catch (IOException e) {
            return Optional.of(STATE + " cannot be read: " + e.getMessage());
        }
    }

    private static List<Path> newestFirst(Path outputDir) throws IOException {
        if (!Files.isDirectory(outputDir)) {
            return List.of();
        }
        try (var folders = Files.list(outputDir)) {
            return folders.filter(f -> stepOf(f) >= 0)
                    .sorted(Comparator.comparingLong(TrainState::stepOf).reversed())
                    .toList();
        }
    }

    private static long stepOf(Path folder) {
        String name = String.valueOf(folder.getFileName());
        String digits = name.startsWith(PREFIX) ? name.substring(PREFIX.length()) : "";
        return !digits.isEmpty()
                        && digits.length() < 18
                        && digits.chars().allMatch(Character::isDigit)
                ? Long.parseLong(digits)
                : -1;
    }

    private static String sha256(Path file) throws IOException {
        try (var in =
                new DigestInputStream(
                        Files.newInputStream(file), MessageDigest.getInstance("SHA-256"))) {
            in.transferTo(java.io.OutputStream.nullOutputStream());
            return HexFormat.of().formatHex(in.getMessageDigest().digest());
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e);
        }
    }

    private static void delete(Path folder) throws IOException {
        if (!Files.exists(folder)) {
            return;
        }
        try (var files = Files.walk(folder)) {
            for (Path path : files.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(path);
            }
        } catch (UncheckedIOException e) {
            throw e.getCause();
        }
    }
}
