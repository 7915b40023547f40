package dev.gatun.kernels;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/** What the machine, or the cgroup this process lives in, has free. */
final class FreeMemory {
    private FreeMemory() {}

    /** Bytes free: MemAvailable, or less where a cgroup limit leaves less. */
    static long bytes() {
        long free = Long.MAX_VALUE;
        for (String line : lines(Path.of("/proc/meminfo"))) {
            if (line.startsWith("MemAvailable:")) {
                free = Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024;
            }
        }
        Path group = Path.of("/sys/fs/cgroup");
        for (String line : lines(Path.of("/proc/self/cgroup"))) {
            if (line.startsWith("0::/")) {
                Path own = group.resolve(line.substring("0::/".length()));
                free = Math.min(free, left(own, "memory.max", "memory.current"));
            }
        }
        free = Math.min(free, left(group, "memory.max", "memory.current"));
        free =
                Math.min(
                        free,
                        left(
                                group.resolve("memory"),
                                "memory.limit_in_bytes",
                                "memory.usage_in_bytes"));
        return free == Long.MAX_VALUE ? Runtime.getRuntime().maxMemory() : free;
    }

    private static long left(Path group, String limit, String usage) {
        List<String> most = lines(group.resolve(limit));
        List<String> used = lines(group.resolve(usage));
        if (most.isEmpty() || used.isEmpty() || !most.getFirst().matches("[0-9]{1,18}")) {
            return Long.MAX_VALUE;
        }
        return Math.max(0, Long.parseLong(most.getFirst()) - Long.parseLong(used.getFirst()));
    }

    private static List<String> lines(Path file) {
        try {
            return Files.readAllLines(file);
        } catch (IOException _) {
            // no such cgroup version here
            return List.of();
        }
    }
}
