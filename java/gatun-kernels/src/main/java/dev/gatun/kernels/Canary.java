package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;

/**
 * With {@code -Dgatun.canaries=true} every buffer of a device is longer than asked for: bytes past
 * its end are known, and checked when it is freed, so that a kernel which writes too far is caught;
 * the rest starts as NaN, so that one which reads what nobody wrote shows. Slow: each free waits.
 */
final class Canary {
    private static final int BYTES = 64;
    // all ones: NaN in every float dtype, -1 in every integer
    private static final byte UNWRITTEN = (byte) 0xff;
    private static final byte PAST = (byte) 0xa5;

    private Canary() {}

    /**
     * Whether what is allocated on this stream gets them: nothing can be written during a capture.
     */
    static boolean on(Stream stream) {
        return stream.device.canaries && !stream.apart();
    }

    static long allocate(Stream stream, long bytes, Purpose purpose) {
        if (!on(stream)) {
            return stream.allocate(bytes, purpose);
        }
        byte[] content = new byte[Math.toIntExact(bytes + BYTES)];
        Arrays.fill(content, 0, (int) bytes, UNWRITTEN);
        Arrays.fill(content, (int) bytes, content.length, PAST);
        long buffer = stream.allocate(content.length, purpose);
        stream.write(MemorySegment.ofArray(content), buffer, 0);
        return buffer;
    }

    static void check(Device device, long buffer, long bytes) {
        device.await();
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment past = arena.allocate(BYTES);
            device.transfer(stream -> {
                Native.check(
                        GatunH.gatun_buffer_read(stream.handle(), past, buffer, bytes, BYTES),
                        "buffer_read");
                return past;
            });
            for (int i = 0; i < BYTES; i++) {
                if (past.get(ValueLayout.JAVA_BYTE, i) != PAST) {
                    throw new IllegalStateException(
                            "a kernel wrote %d bytes past the end of a buffer of %d bytes"
                                    .formatted(i + 1, bytes));
                }
            }
        }
    }
}
