package dev.gatun.transformers;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * The ids of pieces seen before. Natural text repeats few pieces, so that nearly all merging is
 * saved. Fixed in size and free of locks: entries are immutable, a lost race costs one merging.
 */
final class PieceCache {

    /** Longer pieces hardly repeat and would let hostile text fill memory. */
    static final int LONGEST_PIECE = 64; // bytes

    private static final int SLOTS = 1 << 16; // at most about 10 MB of entries

    private record Entry(byte[] piece, int hash, int[] ids) {}

    private final @Nullable Entry[] slots = new @Nullable Entry[SLOTS];

    static int hash(byte[] text, int from, int to) {
        int hash = to - from;
        for (int i = from; i < to; i++) {
            hash = 31 * hash + text[i];
        }
        return hash * 0x9E3779B9;
    }

    /** The ids of the piece, or null; not to be written to. */
    int @Nullable [] find(byte[] text, int from, int to, int hash) {
        int slot = hash >>> 16;
        Entry first = slots[slot];
        if (first != null && matches(first, text, from, to, hash)) {
            return first.ids;
        }
        Entry second = slots[slot ^ 1];
        return second != null && matches(second, text, from, to, hash) ? second.ids : null;
    }

    private static boolean matches(Entry entry, byte[] text, int from, int to, int hash) {
        return entry.hash == hash
                && Arrays.equals(entry.piece, 0, entry.piece.length, text, from, to);
    }

    /** Remembers a piece in place of the older of the two that share its slots. */
    void put(byte[] text, int from, int to, int hash, int[] ids) {
        int slot = hash >>> 16;
        slots[slot ^ 1] = slots[slot];
        slots[slot] = new Entry(Arrays.copyOfRange(text, from, to), hash, ids);
    }
}
