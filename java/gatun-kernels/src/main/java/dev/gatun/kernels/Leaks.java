package dev.gatun.kernels;

import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * What the callers of a device still own. With {@code -Dgatun.leaks=on} it knows where each thing
 * was made; otherwise it only counts, which costs next to nothing.
 */
final class Leaks {
    private static final System.Logger LOG = System.getLogger("dev.gatun.kernels");
    // enough to find the mistake; a thousand sites of one loop would hide it
    private static final int REPORTED = 20;

    private final boolean on = System.getProperty("gatun.leaks", "off").equalsIgnoreCase("on");
    private final Map<Object, Throwable> sites = new ConcurrentHashMap<>();
    private final AtomicInteger count = new AtomicInteger();

    void made(Object thing) {
        count.incrementAndGet();
        if (on) {
            sites.put(thing, new Throwable("made by " + Thread.currentThread().getName()));
        }
    }

    void gone(Object thing) {
        count.decrementAndGet();
        if (on) {
            sites.remove(thing);
        }
    }

    /** How many tensors and Ops are open that only their callers can close. */
    int count() {
        return count.get();
    }

    /** Says on the log what a closing device still finds open. */
    void report(Device device) {
        if (!on) {
            if (count.get() > 0) {
                LOG.log(
                        System.Logger.Level.WARNING,
                        "{0}: {1} tensors or Ops were not closed; -Dgatun.leaks=on says where they"
                                + " were made",
                        device.name(),
                        count.get());
            }
            return;
        }
        int reported = 0;
        for (Map.Entry<Object, Throwable> leak : sites.entrySet()) {
            if (reported++ == REPORTED) {
                LOG.log(
                        System.Logger.Level.WARNING,
                        "{0}: and {1} more",
                        device.name(),
                        sites.size() - REPORTED);
                break;
            }
            String what =
                    leak.getKey() instanceof Storage s
                            ? "a tensor of " + s.bytes + " bytes"
                            : leak.getKey().toString();
            LOG.log(
                    System.Logger.Level.WARNING,
                    device.name() + ": not closed: " + what,
                    leak.getValue());
        }
    }
}
