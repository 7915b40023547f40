package dev.gatun.transformers;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.Optional;
import java.util.regex.Pattern;

/** Opens a model of whatever kind a folder holds. */
public final class Models {
    private static final String SUPPORTED = "gpt2";

    /** {@code name} or {@code organisation/name}, as the hub allows them: nothing like a path. */
    private static final Pattern HUB_ID =
            Pattern.compile("(?:[A-Za-z0-9][\\w.-]{0,95}/)?[A-Za-z0-9][\\w.-]{0,95}");

    private Models() {}

    /**
     * Opens a model folder, or a hub id such as {@code openai-community/gpt2} that the local
     * Hugging Face cache has. Nothing is downloaded.
     *
     * @return of the subtype that the folder's {@code model_type} says
     * @throws CheckpointException if there is no such folder, its kind is not supported, or a file
     *     is missing, damaged or disagrees
     */
    public static CausalLm open(String folderOrHubId, Device device) {
        return open(folderOrHubId, device, DType.F32);
    }

    /**
     * As {@link #open(String, Device)}.
     *
     * @param dtype of the matrices, the activations and the key/value cache; biases and norms are
     *     f32
     */
    public static CausalLm open(String folderOrHubId, Device device, DType dtype) {
        return open(find(folderOrHubId, cache()), device, dtype);
    }

    /** Opens a model folder. */
    public static CausalLm open(Path folder, Device device) {
        return open(folder, device, DType.F32);
    }

    /** Opens a model folder in this dtype. */
    public static CausalLm open(Path folder, Device device, DType dtype) {
        if (folder.toString().endsWith(".gguf")) {
            throw new CheckpointException(
                    Folder.name(folder)
                            + ": GGUF files are not supported yet; give a folder with"
                            + " config.json and model.safetensors");
        }
        if (Files.isRegularFile(folder)) {
            throw new CheckpointException(
                    Folder.name(folder)
                            + ": is a file; give the folder that holds config.json and"
                            + " model.safetensors");
        }
        if (!Files.isDirectory(folder)) {
            throw new CheckpointException(Folder.name(folder) + ": no such folder");
        }
        Json config = Json.read(folder.resolve("config.json"), 1 << 24);
        String type =
                config.text("model_type")
                        .orElseThrow(() ->
                                new CheckpointException(
                                        config.name()
                                                + ": model_type is missing; supported: "
                                                + SUPPORTED));
        return switch (type) {
            case "gpt2" -> Gpt2.open(folder, device, dtype);
            default ->
                    throw new CheckpointException(
                            "%s: model_type %s is not supported yet; supported: %s"
                                    .formatted(config.name(), type, SUPPORTED));
        };
    }

    /** The hub cache's place, by the reference library's own variables. */
    private static Path cache() {
        String hub = System.getenv("HF_HUB_CACHE");
        if (hub != null) {
            return Path.of(hub);
        }
        String home = System.getenv("HF_HOME");
        return home != null
                ? Path.of(home, "hub")
                : Path.of(System.getProperty("user.home"), ".cache", "huggingface", "hub");
    }

    static Path find(String folderOrHubId, Path cache) {
        try {
            Path folder = Path.of(folderOrHubId);
            if (Files.exists(folder) || !HUB_ID.matcher(folderOrHubId).matches()) {
                return folder;
            }
        } catch (InvalidPathException e) {
            throw new CheckpointException(
                    "no model folder can have this name: " + e.getReason(), e);
        }
        Path repository = cache.resolve("models--" + folderOrHubId.replace("/", "--"));
        return snapshot(repository)
                .orElseThrow(() ->
                        new CheckpointException(
                                "%s: no such folder, and no such model in the local hub"
                                                .formatted(folderOrHubId)
                                        + " cache (~/.cache/huggingface/hub); nothing is"
                                        + " downloaded here: fetch it with `hf download "
                                        + folderOrHubId
                                        + "`"));
    }

    /** The snapshot that {@code refs/main} names, else the newest one. */
    private static Optional<Path> snapshot(Path repository) {
        Path snapshots = repository.resolve("snapshots");
        Path main = repository.resolve("refs").resolve("main");
        try {
            if (Files.isRegularFile(main) && Files.size(main) < 200) {
                String commit = Files.readString(main).strip();
                if (commit.matches("[0-9a-f]{40}")
                        && Files.isDirectory(snapshots.resolve(commit))) {
                    return Optional.of(snapshots.resolve(commit));
                }
            }
            if (!Files.isDirectory(snapshots)) {
                return Optional.empty();
            }
            try (var all = Files.list(snapshots)) {
                return all.filter(Files::isDirectory)
                        .max(Comparator.comparingLong(folder -> folder.toFile().lastModified()));
            }
        } catch (IOException e) {
            throw new CheckpointException(
                    Folder.name(repository) + ": cannot be read: " + e.getMessage(), e);
        }
    }
}
