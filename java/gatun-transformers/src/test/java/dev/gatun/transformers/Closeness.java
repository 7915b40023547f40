package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.function.IntPredicate;

/** Compares values by {@code |a - b| <= atol + rtol |b|}, and says where they differ most. */
record Closeness(double atol, double rtol) {
    /** What the fixtures ask of logits, hidden states and losses. */
    static final Closeness FLOAT32 = new Closeness(5e-5, 1e-4);

    /** What the fixtures ask of gradients: relative to the largest one of a tensor. */
    static Closeness gradient(float[] expected) {
        double largest = 0;
        for (float g : expected) {
            largest = Math.max(largest, Math.abs(g));
        }
        return new Closeness(Math.max(2e-6, 1e-5 * largest), 1e-3);
    }

    void check(String what, float[] actual, float[] expected) {
        check(what, actual, expected, _ -> true);
    }

    /**
     * @param counts which of the elements count
     */
    void check(String what, float[] actual, float[] expected, IntPredicate counts) {
        assertThat(actual.length).as("%s: elements", what).isEqualTo(expected.length);
        int worst = -1;
        double worstExcess = 0;
        int wrong = 0;
        for (int i = 0; i < expected.length; i++) {
            if (!counts.test(i)) {
                continue;
            }
            double difference = Math.abs((double) actual[i] - expected[i]);
            double allowed = atol + rtol * Math.abs(expected[i]);
            if (!(difference <= allowed)) {
                wrong++;
                if (worst < 0 || !(difference - allowed <= worstExcess)) {
                    worst = i;
                    worstExcess = difference - allowed;
                }
            }
        }
        assertThat(wrong)
                .as(() -> what + ": values beyond atol " + atol + ", rtol " + rtol)
                .withFailMessage(
                        "%s: %d of %d values differ; the worst, at %d, is %s, wanted %s",
                        what,
                        wrong,
                        expected.length,
                        worst,
                        worst < 0 ? 0 : actual[worst],
                        worst < 0 ? 0 : expected[worst])
                .isZero();
    }
}
