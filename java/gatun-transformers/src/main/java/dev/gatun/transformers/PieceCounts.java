package dev.gatun.transformers;

import java.util.Arrays;

/**
 * How often each piece occurs: a hash table from byte strings to counts, the bytes of all pieces in
 * one array.
 */
final class PieceCounts {

    private byte[] bytes = new byte[1 << 12];
    private int[] ends = new int[1 << 8]; // of piece i in bytes; it starts where i - 1 ends
    private long[] counts = new long[1 << 8];
    private int[] hashes = new int[1 << 8];
    private int[] slots = new int[1 << 9]; // piece + 1, 0 where free
    private int size;

    int size() {
        return size;
    }

    int start(int piece) {
        return piece == 0 ? 0 : ends[piece - 1];
    }

    int end(int piece) {
        return ends[piece];
    }

    /** The byte at a place between {@link #start} and {@link #end}. */
    byte byteAt(int at) {
        return bytes[at];
    }

    long count(int piece) {
        return counts[piece];
    }

    /** Counts the pieces of a text. */
    void addText(String text) {
        byte[] utf8 = Utf8.bytes(text);
        int at = 0;
        while (at < utf8.length) {
            int end = Gpt2Pieces.end(utf8, at, utf8.length);
            add(utf8, at, end, PieceCache.hash(utf8, at, end), 1);
            at = end;
        }
    }

    void addAll(PieceCounts other) {
        for (int piece = 0; piece < other.size; piece++) {
            add(
                    other.bytes,
                    other.start(piece),
                    other.end(piece),
                    other.hashes[piece],
                    other.counts[piece]);
        }
    }

    private void add(byte[] text, int from, int to, int hash, long count) {
        int slot = hash & (slots.length - 1);
        while (slots[slot] != 0) {
            int piece = slots[slot] - 1;
            if (hashes[piece] == hash
                    && Arrays.equals(bytes, start(piece), end(piece), text, from, to)) {
                counts[piece] += count;
                return;
            }
            slot = (slot + 1) & (slots.length - 1);
        }
        slots[slot] = append(text, from, to, hash, count) + 1;
        if (2 * size > slots.length) {
            rehash();
        }
    }

    private int append(byte[] text, int from, int to, int hash, long count) {
        int start = size == 0 ? 0 : ends[size - 1];
        // Math.addExact: two GiB of distinct words is a mistake, not a corpus
        int end = Math.addExact(start, to - from);
        if (end > bytes.length) {
            bytes = Arrays.copyOf(bytes, Math.max(end, (int) Math.min(2L * bytes.length, 1 << 30)));
        }
        System.arraycopy(text, from, bytes, start, to - from);
        if (size == ends.length) {
            ends = Arrays.copyOf(ends, 2 * size);
            counts = Arrays.copyOf(counts, 2 * size);
            hashes = Arrays.copyOf(hashes, 2 * size);
        }
        ends[size] = end;
        counts[size] = count;
        hashes[size] = hash;
        return size++;
    }

    private void rehash() {
        slots = new int[2 * slots.length];
        for (int piece = 0; piece < size; piece++) {
            int slot = hashes[piece] & (slots.length - 1);
            while (slots[slot] != 0) {
                slot = (slot + 1) & (slots.length - 1);
            }
            slots[slot] = piece + 1;
        }
    }
}
