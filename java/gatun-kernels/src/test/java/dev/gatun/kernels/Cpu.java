package dev.gatun.kernels;

import java.util.ArrayList;
import java.util.List;

/**
 * Opens cpu devices for tests: with canaries, and at each instruction set that this machine has.
 */
final class Cpu {
    private Cpu() {}

    /** A device whose buffers have canaries past their end. */
    static Device open(DeviceOptions options) {
        String before = System.getProperty("gatun.canaries", "false");
        System.setProperty("gatun.canaries", "true");
        try {
            return Device.open("cpu", options);
        } finally {
            System.setProperty("gatun.canaries", before);
        }
    }

    static Device open() {
        return open(DeviceOptions.defaults().withThreads(2));
    }

    /** The instruction sets of this machine; what it lacks is printed. */
    static List<DeviceOptions.Simd> levels() {
        List<DeviceOptions.Simd> here = new ArrayList<>();
        for (DeviceOptions.Simd simd :
                List.of(
                        DeviceOptions.Simd.PLAIN,
                        DeviceOptions.Simd.AVX2,
                        DeviceOptions.Simd.AVX512)) {
            try (Device device = Device.open("cpu", DeviceOptions.defaults().withSimd(simd))) {
                here.add(device.simd());
            } catch (GatunException e) {
                System.out.println("SKIPPED device cpu " + simd + ": " + e.getMessage());
            }
        }
        return here;
    }
}
