package dev.gatun.cli;

import dev.gatun.trainer.Trainer;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Ctrl-C (or SIGTERM) while a model trains: the trainer finishes its step and saves a checkpoint,
 * and the JVM waits for that before it goes down. Outside of training it goes down at once.
 */
final class Interrupt implements AutoCloseable {
    /** How long the JVM waits for the step in progress and its checkpoint. */
    private static final long STOP_SECONDS = 120;

    /** Open until the command line has said and closed everything. */
    private static final CountDownLatch ENDED = new CountDownLatch(1);

    private final Thread hook;

    Interrupt(Trainer trainer) {
        this.hook = new Thread(() -> stop(trainer), "save on Ctrl-C");
        Runtime.getRuntime().addShutdownHook(hook);
    }

    private static void stop(Trainer trainer) {
        System.err.println();
        System.err.println("stopping: finishing this step and saving a checkpoint");
        trainer.requestStop();
        try {
            if (!ENDED.await(STOP_SECONDS, TimeUnit.SECONDS)) {
                System.err.printf("gatun: no checkpoint within %d s, gave up%n", STOP_SECONDS);
            }
        } catch (InterruptedException _) {
            Thread.currentThread().interrupt();
        }
    }

    /** The command line is done: a JVM that is going down need not wait any longer. */
    static void ended() {
        ENDED.countDown();
    }

    /** Training is over: Ctrl-C is again what it was. */
    @Override
    public void close() {
        try {
            Runtime.getRuntime().removeShutdownHook(hook);
        } catch (IllegalStateException _) {
            // the JVM is going down: the hook is what brought us here, and it waits for ended()
        }
    }
}
