package dev.gatun.kernels;

import java.util.Locale;

/**
 * What an element of a tensor is. 16-bit floats are storage: every device computes in f32 and
 * rounds to nearest even on store.
 */
public enum DType {
    F32(4),
    F16(2),
    BF16(2),
    U8(1),
    I8(1),
    I32(4),
    I64(8);

    private final int bytes;

    DType(int bytes) {
        this.bytes = bytes;
    }

    /** The bytes of one element. */
    public int bytes() {
        return bytes;
    }

    /** Whether this is a floating-point type. */
    public boolean floating() {
        return this == F32 || this == F16 || this == BF16;
    }

    /** The gatun_dtype of the C ABI. */
    int code() {
        return ordinal();
    }

    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }
}
