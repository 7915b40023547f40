package dev.gatun.bench;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.DeviceTime;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import java.util.SplittableRandom;

/**
 * What a device reaches, measured: a copy beyond its caches, read and written, and a large product.
 */
record Peak(double gbPerSec, double gflopPerSec) {
    private static final int SAMPLES = 10;

    static Peak of(Device device, DType dtype) {
        boolean gpu = device.name().startsWith("cuda");
        boolean sim = device.name().startsWith("sim");
        long elements = gpu ? 1L << 28 : sim ? 1L << 14 : 1L << 26;
        int n = gpu ? 4096 : sim ? 128 : 1024;
        try (Ops ops = device.ops();
                DeviceTime time = new DeviceTime(device)) {
            double copy;
            try (Tensor from = Tensor.empty(device, DType.I32, Purpose.OTHER, elements);
                    Tensor to = Tensor.empty(device, DType.I32, Purpose.OTHER, elements)) {
                copy = least(ops, time, scope -> scope.copy(to, from));
            }
            try (Tensor a = Tensor.empty(device, dtype, Purpose.OTHER, n, n)) {
                float[] values = new float[n * n];
                SplittableRandom random = new SplittableRandom(n);
                for (int i = 0; i < values.length; i++) {
                    values[i] = (float) random.nextGaussian();
                }
                a.write(values);
                double product = least(ops, time, scope -> scope.matmul(a, a));
                return new Peak(8.0 * elements / copy / 1e6, 2.0 * n * n * n / product / 1e6);
            }
        }
    }

    /** The least time in which a device of this peak moves so much and computes so much. */
    double millis(double bytes, double flops) {
        return Math.max(bytes / gbPerSec, flops / gflopPerSec) / 1e6;
    }

    private interface Work {
        void run(Ops ops);
    }

    private static double least(Ops ops, DeviceTime time, Work work) {
        double least = Double.POSITIVE_INFINITY;
        for (int i = 0; i < SAMPLES; i++) {
            least =
                    Math.min(
                            least,
                            time.millis(
                                    ops,
                                    () -> {
                                        try (Ops scope = ops.scope()) {
                                            work.run(scope);
                                        }
                                    }));
        }
        return least;
    }
}
