package dev.gatun.transformers;

import java.nio.file.Path;

/** How errors name the files of a model folder: by folder and file name, never by absolute path. */
final class Folder {
    private Folder() {}

    /** {@code gpt2/model.safetensors} for any path that ends so. */
    static String name(Path file) {
        Path whole = file.toAbsolutePath().normalize();
        int names = whole.getNameCount();
        return names == 0
                ? whole.toString()
                : whole.subpath(Math.max(0, names - 2), names).toString();
    }
}
