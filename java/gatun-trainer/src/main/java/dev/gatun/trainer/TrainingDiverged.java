package dev.gatun.trainer;

/** The loss or the gradients became NaN or infinite; the message says where and what to try. */
public final class TrainingDiverged extends RuntimeException {
    private static final long serialVersionUID = 1;

    public TrainingDiverged(String message) {
        super(message);
    }
}
