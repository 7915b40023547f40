package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;

/** Both ways of merging against the definition, applied literally. */
class MergeTableTest {

    private static final long SEED = 20261125;

    @Test
    void mergesAreAppliedLowestRankFirst() {
        Random random = new Random(SEED);
        for (int round = 0; round < 3000; round++) {
            int bytes = 1 + random.nextInt(4);
            Map<List<Integer>, int[]> merges = randomMerges(random, bytes);
            MergeTable table = new MergeTable(merges.size());
            merges.forEach((pair, m) -> table.put(pair.get(0), pair.get(1), m[0], m[1]));
            // to both sides of the length from which a heap is used
            int length = round % 3 == 0 ? 40 + random.nextInt(150) : random.nextInt(50);
            int[] ids = random.ints(length, 0, bytes).toArray();

            List<Integer> wanted = literally(ids, merges);
            int[] merged = ids.clone();
            int count = table.apply(merged, length);
            assertThat(Arrays.stream(merged, 0, count).boxed().toList())
                    .as("seed %d, round %d", SEED, round)
                    .isEqualTo(wanted);
        }
    }

    @Test
    void laterRankOfAPairReplacesTheEarlier() {
        MergeTable table = new MergeTable(3);
        table.put(0, 1, 0, 3);
        table.put(1, 2, 1, 4);
        table.put(0, 1, 2, 3);
        int[] ids = {0, 1, 2};
        assertThat(table.apply(ids, 3)).isEqualTo(2);
        assertThat(ids).startsWith(0, 4);
    }

    /** Pair to rank and merged id; ranks in random order, so that some merges come too late. */
    private static Map<List<Integer>, int[]> randomMerges(Random random, int bytes) {
        Map<List<Integer>, int[]> merges = new HashMap<>();
        int tokens = bytes;
        int wanted = random.nextInt(40);
        for (int i = 0; i < wanted; i++) {
            List<Integer> pair = List.of(random.nextInt(tokens), random.nextInt(tokens));
            if (!merges.containsKey(pair)) {
                merges.put(pair, new int[] {random.nextInt(1000) * 64 + i, tokens++});
            }
        }
        return merges;
    }

    private static List<Integer> literally(int[] ids, Map<List<Integer>, int[]> merges) {
        List<Integer> left = new ArrayList<>(Arrays.stream(ids).boxed().toList());
        while (true) {
            int best = -1;
            int bestRank = Integer.MAX_VALUE;
            for (int i = 0; i + 1 < left.size(); i++) {
                int[] merge = merges.get(List.of(left.get(i), left.get(i + 1)));
                if (merge != null && merge[0] < bestRank) {
                    best = i;
                    bestRank = merge[0];
                }
            }
            if (best < 0) {
                return left;
            }
            int merged = merges.get(List.of(left.get(best), left.get(best + 1)))[1];
            left.set(best, merged);
            left.subList(best + 1, best + 2).clear();
        }
    }
}
