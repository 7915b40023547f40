package dev.gatun.kernels;

/** A call of the native library that failed: its status, the op, and the library's own sentence. */
public class GatunException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** Why a call failed, as gatun_status of the C ABI. */
    public enum Status {
        OK,
        /** A wrong shape, dtype, stride, size, alias or option. */
        INVALID_ARGUMENT,
        /** Something closed, or of another device. */
        INVALID_HANDLE,
        /** The device's memory budget, or the machine's memory. */
        OUT_OF_MEMORY,
        /** The op, dtype or option is not on this device. */
        UNSUPPORTED,
        /** There is no such device or no such library here. */
        UNAVAILABLE,
        /** A value on the device (an id) was beyond its limit. */
        OUT_OF_RANGE,
        /** An asynchronous failure of earlier work. */
        DEVICE_FAULT,
        /** A defect of the library. */
        INTERNAL;

        static Status of(int code) {
            Status[] all = values();
            return code >= 0 && code < all.length ? all[code] : INTERNAL;
        }
    }

    private final Status status;
    private final String op;

    /**
     * Made by the library.
     *
     * @param status why the call failed
     * @param op the name of the C function without gatun_
     * @param sentence what was wanted, what was had, what to do
     */
    public GatunException(Status status, String op, String sentence) {
        super(sentence);
        this.status = status;
        this.op = op;
    }

    /** The exception of a native status code. */
    public static GatunException of(int code, String op, String sentence) {
        Status status = Status.of(code);
        String text = sentence.isEmpty() ? op + ": failed with status " + code : sentence;
        return status == Status.OUT_OF_MEMORY
                ? new OutOfDeviceMemory(op, text)
                : new GatunException(status, op, text);
    }

    /** Why the call failed. */
    public Status status() {
        return status;
    }

    /** The native function that failed, without gatun_. */
    public String op() {
        return op;
    }
}
