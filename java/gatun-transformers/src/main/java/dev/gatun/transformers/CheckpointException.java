package dev.gatun.transformers;

import org.jspecify.annotations.Nullable;

/**
 * A model folder that cannot be used: a file is missing, damaged, of an unknown kind, or disagrees
 * with another. The message names file, thing, what was wanted and what was had.
 */
public final class CheckpointException extends RuntimeException {
    private static final long serialVersionUID = 1;

    public CheckpointException(String message) {
        super(message);
    }

    public CheckpointException(String message, @Nullable Throwable cause) {
        super(message, cause);
    }
}
