package dev.gatun.kernels;

/** The upper half of an IEEE float. */
final class BFloat16 {
    private BFloat16() {}

    /** Rounds to nearest even; NaN stays NaN. */
    static short of(float value) {
        int bits = Float.floatToRawIntBits(value);
        if (Float.isNaN(value)) {
            // keeps sign and payload, and sets the quiet bit so that truncation cannot give
            // infinity
            return (short) ((bits >>> 16) | 0x40);
        }
        return (short) ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16);
    }
}
