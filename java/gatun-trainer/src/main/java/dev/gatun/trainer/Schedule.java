package dev.gatun.trainer;

/**
 * A learning-rate schedule: what to multiply the peak rate by at optimizer step {@code step},
 * counted from 0. Formulas and names are those of the Hugging Face {@code get_scheduler}; W is the
 * number of warm-up steps, T of all steps.
 */
@FunctionalInterface
public interface Schedule {
    double factor(long step);

    static Schedule constant() {
        return step -> 1;
    }

    /** Linear from 0 to 1 over W steps, then 1. */
    static Schedule constantWithWarmup(long warmup) {
        return afterWarmup(warmup, step -> 1);
    }

    /** Warm-up, then linear to 0 at step T. */
    static Schedule linear(long warmup, long total) {
        return afterWarmup(
                warmup, step -> Math.max(0, (double) (total - step) / Math.max(1, total - warmup)));
    }

    /** Warm-up, then half a cosine to 0 at step T. */
    static Schedule cosine(long warmup, long total) {
        return cosine(warmup, total, 0.5);
    }

    /** Warm-up, then {@code cycles} periods of a cosine between 1 and 0. */
    static Schedule cosine(long warmup, long total, double cycles) {
        return cosineWithMinimum(warmup, total, cycles, 0);
    }

    /** {@link #cosine} scaled to end at {@code minimum} times the peak instead of 0. */
    static Schedule cosineWithMinimum(long warmup, long total, double minimum) {
        return cosineWithMinimum(warmup, total, 0.5, minimum);
    }

    private static Schedule cosineWithMinimum(
            long warmup, long total, double cycles, double minimum) {
        return afterWarmup(
                warmup,
                step -> {
                    double angle = Math.PI * cycles * 2 * progress(step, warmup, total);
                    double factor = 0.5 * (1 + Math.cos(angle)) * (1 - minimum) + minimum;
                    return Math.max(0, factor);
                });
    }

    /**
     * As {@link #cosineWithMinimum} with a warm-up that starts at {@code warmupStart} times the
     * peak and reaches it at step W; without one ({@code warmupStart < 0}) the warm-up is {@code
     * (step + 1) / W}.
     */
    static Schedule cosineWarmupWithMinimum(
            long warmup, long total, double minimum, double warmupStart) {
        return step -> {
            if (step < warmup) {
                return warmupStart < 0
                        ? (step + 1.0) / Math.max(1, warmup)
                        : warmupStart + (1 - warmupStart) * step / Math.max(1, warmup - 1);
            }
            double done = (step - warmup + 1.0) / Math.max(1, total - warmup);
            double factor = 0.5 * (1 + Math.cos(Math.PI * done));
            return Math.max(0, factor * (1 - minimum) + minimum);
        };
    }

    /** Warm-up, then {@code cycles} half cosines, each from 1 to 0; 0 from step T on. */
    static Schedule cosineWithRestarts(long warmup, long total, int cycles) {
        return afterWarmup(
                warmup,
                step -> {
                    double done = progress(step, warmup, total);
                    return done >= 1
                            ? 0
                            : Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (cycles * done % 1))));
                });
    }

    /** Warm-up, then a polynomial to {@code end / peak}, both rates. */
    static Schedule polynomial(long warmup, long total, double peak, double end, double power) {
        return afterWarmup(
                warmup,
                step -> {
                    if (step > total) {
                        return end / peak;
                    }
                    double left = 1 - (double) (step - warmup) / (total - warmup);
                    return ((peak - end) * Math.pow(left, power) + end) / peak;
                });
    }

    /** Warm-up, then 1 / sqrt; {@code timescale} 0 stands for W, or 10000 without a warm-up. */
    static Schedule inverseSqrt(long warmup, long timescale) {
        double scale = timescale > 0 ? timescale : warmup > 0 ? warmup : 10_000;
        return afterWarmup(warmup, step -> 1 / Math.sqrt((step + scale - warmup) / scale));
    }

    /** How a phase of {@link #warmupStableDecay} moves between its ends. */
    enum Ramp {
        LINEAR,
        COSINE,
        ONE_MINUS_SQRT;

        private double rising(double progress) {
            return switch (this) {
                case LINEAR -> progress;
                case COSINE -> 0.5 * (1 - Math.cos(Math.PI * progress));
                case ONE_MINUS_SQRT -> 1 - Math.sqrt(1 - progress);
            };
        }

        private double falling(double progress) {
            return switch (this) {
                case LINEAR -> 1 - progress;
                case COSINE -> 0.5 * (1 + Math.cos(Math.PI * progress));
                case ONE_MINUS_SQRT -> 1 - Math.sqrt(progress);
            };
        }
    }

    /** Warm-up, {@code stable} steps at the peak, {@code decay} steps down to {@code minimum}. */
    static Schedule warmupStableDecay(
            long warmup, long stable, long decay, Ramp rise, Ramp fall, double minimum) {
        return step -> {
            double factor;
            if (step < warmup) {
                factor = rise.rising((double) step / Math.max(1, warmup));
            } else if (step < warmup + stable) {
                return 1;
            } else if (step < warmup + stable + decay) {
                factor = fall.falling((double) (step - warmup - stable) / Math.max(1, decay));
            } else {
                return minimum;
            }
            return Math.max(0, factor * (1 - minimum) + minimum);
        };
    }

    /**
     * The rate of Vaswani et al. 2017 (section 5.3) itself, for a peak rate of 1: {@code scale
     * d^-0.5 min(s^-0.5, s W^-1.5)} with s counted from 1.
     */
    static Schedule noam(long width, long warmup, double scale) {
        return step -> {
            double s = step + 1.0;
            return scale
                    * Math.pow(width, -0.5)
                    * Math.min(Math.pow(s, -0.5), s * Math.pow(warmup, -1.5));
        };
    }

    private static Schedule afterWarmup(long warmup, Schedule rest) {
        return step -> step < warmup ? (double) step / Math.max(1, warmup) : rest.factor(step);
    }

    private static double progress(long step, long warmup, long total) {
        return (double) (step - warmup) / Math.max(1, total - warmup);
    }
}
