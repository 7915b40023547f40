package dev.gatun.kernels;

import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * How a device is opened. 0 (or {@link Simd#BEST}) takes the default of the field.
 *
 * @param threads cpu: compute threads; default: the cores this process may use
 * @param simd cpu: the instruction set; default: the best there is
 * @param memoryBudgetBytes cpu: what the allocator may take; default: 80 % of what the machine or
 *     its cgroup has free
 */
public record DeviceOptions(int threads, Simd simd, long memoryBudgetBytes) {

    /** The instruction sets of the cpu device. */
    public enum Simd {
        BEST,
        PLAIN,
        AVX2,
        AVX512;

        int code() {
            return ordinal();
        }

        static Simd of(String name) {
            for (Simd simd : values()) {
                if (simd.name().equalsIgnoreCase(name.strip())) {
                    return simd;
                }
            }
            throw new IllegalArgumentException(
                    "gatun.cpu.simd: wanted plain, avx2 or avx512, had '" + name + "'");
        }

        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    private static final Pattern BYTES =
            Pattern.compile("([0-9]+(?:\\.[0-9]+)?)\\s*(%|[kKmMgG]i?[bB]?|[bB])?");

    public DeviceOptions {
        if (threads < 0 || memoryBudgetBytes < 0) {
            throw new IllegalArgumentException(
                    "device options: wanted nothing negative, had threads %d, budget %d bytes"
                            .formatted(threads, memoryBudgetBytes));
        }
    }

    /**
     * The defaults, as the system properties {@code gatun.cpu.threads}, {@code gatun.cpu.simd}
     * (plain, avx2, avx512) and {@code gatun.memory.budget} (bytes, 4GiB, 500MB or 80%) change
     * them.
     */
    public static DeviceOptions defaults() {
        String threads = System.getProperty("gatun.cpu.threads", "");
        String simd = System.getProperty("gatun.cpu.simd", "");
        String budget = System.getProperty("gatun.memory.budget", "");
        return new DeviceOptions(
                threads.isBlank() ? 0 : positive("gatun.cpu.threads", threads),
                simd.isBlank() ? Simd.BEST : Simd.of(simd),
                budget.isBlank() ? 0 : bytes(budget));
    }

    /** These options with so many compute threads. */
    public DeviceOptions withThreads(int count) {
        return new DeviceOptions(count, simd, memoryBudgetBytes);
    }

    /** These options with this instruction set. */
    public DeviceOptions withSimd(Simd level) {
        return new DeviceOptions(threads, level, memoryBudgetBytes);
    }

    /** These options with this memory budget in bytes. */
    public DeviceOptions withMemoryBudget(long bytes) {
        return new DeviceOptions(threads, simd, bytes);
    }

    private static int positive(String property, String text) {
        try {
            int value = Integer.parseInt(text.strip());
            if (value > 0) {
                return value;
            }
        } catch (NumberFormatException _) {
            // the sentence below says it
        }
        throw new IllegalArgumentException(
                property + ": wanted a number above 0, had '" + text + "'");
    }

    static long bytes(String text) {
        Matcher m = BYTES.matcher(text.strip());
        if (!m.matches()) {
            throw new IllegalArgumentException(
                    "gatun.memory.budget: wanted bytes, a size as 4GiB or 500MB, or a share as 80%,"
                            + " had '"
                            + text
                            + "'");
        }
        double value = Double.parseDouble(m.group(1));
        String unit = m.group(2) == null ? "" : m.group(2).toLowerCase(Locale.ROOT);
        if (unit.equals("%")) {
            if (!(value > 0 && value <= 100)) {
                throw new IllegalArgumentException(
                        "gatun.memory.budget: wanted a share in (0 %, 100 %], had '" + text + "'");
            }
            return Math.max(1, (long) (FreeMemory.bytes() * (value / 100)));
        }
        int power = unit.isEmpty() ? 0 : "bkmg".indexOf(unit.charAt(0));
        // KiB is 1024, KB is 1000, and a bare K is taken as 1024, as java -Xmx takes it
        double base = unit.endsWith("b") && !unit.contains("i") ? 1000 : 1024;
        double bytes = value * Math.pow(base, Math.max(0, power));
        if (!(bytes >= 1 && bytes < 0x1p62)) {
            throw new IllegalArgumentException(
                    "gatun.memory.budget: wanted at least one byte, had '" + text + "'");
        }
        return (long) bytes;
    }
}
