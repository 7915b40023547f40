package dev.gatun.transformers;

import java.util.Arrays;

/**
 * The merges of a byte-pair encoding, and their application: of all neighbouring pairs in a piece
 * the one of lowest rank, the leftmost of equals, becomes one token, until no pair has a merge.
 */
final class MergeTable {

    // below this a scan over all pairs is faster than a heap; above it the scan is quadratic
    private static final int SCANNED_LENGTH = 48;
    private static final long NONE = Long.MAX_VALUE;

    private final long[] keys; // left << 32 | right, -1 where free
    private final long[] values; // rank << 32 | merged
    private final int shift;

    MergeTable(int merges) {
        // at most half full, so that a look-up of an absent pair ends soon
        int bits = Math.max(4, 33 - Integer.numberOfLeadingZeros(Math.max(1, merges)));
        keys = new long[1 << bits];
        values = new long[1 << bits];
        shift = 64 - bits;
        Arrays.fill(keys, -1);
    }

    /**
     * Declares that {@code left right} becomes {@code merged}; a later rank replaces an earlier.
     */
    void put(int left, int right, int rank, int merged) {
        long key = ((long) left << 32) | right;
        int slot = slot(key);
        keys[slot] = key;
        values[slot] = ((long) rank << 32) | merged;
    }

    /** {@code rank << 32 | merged}, or {@link #NONE}. */
    private long find(int left, int right) {
        long key = ((long) left << 32) | right;
        int slot = slot(key);
        return keys[slot] == key ? values[slot] : NONE;
    }

    private int slot(long key) {
        int slot = (int) ((key * 0x9E3779B97F4A7C15L) >>> shift);
        while (keys[slot] != key && keys[slot] != -1) {
            slot = (slot + 1) & (keys.length - 1);
        }
        return slot;
    }

    /**
     * Merges {@code ids[0 .. count)} in place.
     *
     * @return how many ids are left
     */
    int apply(int[] ids, int count) {
        return count <= SCANNED_LENGTH ? applyByScan(ids, count) : applyByHeap(ids, count);
    }

    private int applyByScan(int[] ids, int count) {
        if (count < 2) {
            return count;
        }
        long[] found = new long[count - 1];
        for (int i = 0; i + 1 < count; i++) {
            found[i] = find(ids[i], ids[i + 1]);
        }
        int left = count;
        while (left > 1) {
            int best = 0;
            for (int i = 1; i + 1 < left; i++) {
                // values of one rank are equal, so this keeps the leftmost
                if (found[i] < found[best]) {
                    best = i;
                }
            }
            if (found[best] == NONE) {
                return left;
            }
            ids[best] = (int) found[best];
            left--;
            System.arraycopy(ids, best + 2, ids, best + 1, left - best - 1);
            if (best + 1 < left) {
                System.arraycopy(found, best + 1, found, best, left - best - 1);
                found[best] = find(ids[best], ids[best + 1]);
            }
            if (best > 0) {
                found[best - 1] = find(ids[best - 1], ids[best]);
            }
        }
        return left;
    }

    private int applyByHeap(int[] ids, int count) {
        int[] next = new int[count];
        int[] previous = new int[count];
        LongHeap heap = new LongHeap(count);
        for (int i = 0; i < count; i++) {
            next[i] = i + 1;
            previous[i] = i - 1;
            if (i + 1 < count) {
                offer(heap, i, find(ids[i], ids[i + 1]));
            }
        }
        while (!heap.isEmpty()) {
            long entry = heap.poll();
            int at = (int) entry;
            int right = next[at];
            if (ids[at] < 0 || right == count) {
                continue;
            }
            long merge = find(ids[at], ids[right]);
            // an entry outlives its pair when a neighbour was merged first
            if (merge == NONE || merge >>> 32 != entry >>> 32) {
                continue;
            }
            ids[at] = (int) merge;
            ids[right] = -1;
            int after = next[right];
            next[at] = after;
            if (after < count) {
                previous[after] = at;
                offer(heap, at, find(ids[at], ids[after]));
            }
            int before = previous[at];
            if (before >= 0) {
                offer(heap, before, find(ids[before], ids[at]));
            }
        }
        int left = 0;
        for (int i = 0; i < count; i = next[i]) {
            ids[left++] = ids[i];
        }
        return left;
    }

    private static void offer(LongHeap heap, int at, long merge) {
        if (merge != NONE) {
            heap.add((merge & 0xFFFFFFFF00000000L) | at);
        }
    }

    /** A binary heap of longs, smallest first. */
    private static final class LongHeap {

        private long[] items;
        private int size;

        LongHeap(int capacity) {
            items = new long[capacity];
        }

        boolean isEmpty() {
            return size == 0;
        }

        void add(long item) {
            if (size == items.length) {
                items = Arrays.copyOf(items, size + (size >> 1) + 1);
            }
            int at = size++;
            while (at > 0) {
                int parent = (at - 1) >> 1;
                if (items[parent] <= item) {
                    break;
                }
                items[at] = items[parent];
                at = parent;
            }
            items[at] = item;
        }

        long poll() {
            long smallest = items[0];
            long item = items[--size];
            int at = 0;
            while (true) {
                int child = 2 * at + 1;
                if (child >= size) {
                    break;
                }
                if (child + 1 < size && items[child + 1] < items[child]) {
                    child++;
                }
                if (item <= items[child]) {
                    break;
                }
                items[at] = items[child];
                at = child;
            }
            items[at] = item;
            return smallest;
        }
    }
}
