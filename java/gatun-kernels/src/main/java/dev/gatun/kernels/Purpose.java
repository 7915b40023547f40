package dev.gatun.kernels;

/** What a tensor's memory is for: named when a device runs out of it. */
public enum Purpose {
    OTHER,
    WEIGHTS,
    GRADIENTS,
    OPTIMIZER,
    ACTIVATIONS,
    KV_CACHE,
    WORKSPACE;

    /** The gatun_purpose of the C ABI. */
    int code() {
        return ordinal();
    }
}
