package dev.gatun.kernels;

/** A device's memory budget is spent; the sentence names sizes and the largest holders. */
public final class OutOfDeviceMemory extends GatunException {
    private static final long serialVersionUID = 1;

    OutOfDeviceMemory(String op, String sentence) {
        super(Status.OUT_OF_MEMORY, op, sentence);
    }
}
