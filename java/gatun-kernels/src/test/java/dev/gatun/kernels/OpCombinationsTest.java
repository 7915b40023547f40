package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Products, norms and attention with everything that they distinguish, each with each: dtypes,
 * transposes, epilogues, masks, sizes on either side of the kernels' tiles. Some of them each time,
 * all of them nightly. The seed is {@code -Dgatun.seed}, and printed.
 */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class OpCombinationsTest {
    private static final long SEED = Long.getLong("gatun.seed", 20_261_128);
    private static final int SAMPLE = 200;

    private static final int[] ROWS = {1, 2, 7, 8, 17, 65, 130};
    private static final int[] COLUMNS = {1, 3, 8, 33, 64, 129};
    private static final int[] DEPTHS = {1, 2, 8, 31, 64, 130};
    private static final int[] WIDTHS = {1, 2, 8, 31, 33, 96, 130, 257, 768, 1023, 1025};
    private static final int[][] HEADS = {{1, 1}, {4, 2}, {6, 1}};
    private static final int[] QUERIES = {1, 2, 5, 17, 33, 65};
    private static final int[] KEYS = {1, 3, 16, 17, 64, 65};
    private static final int[] HEAD_SIZES = {8, 13, 32, 40, 64, 80, 96, 128};

    private Device cpu;
    private Device sim;

    @BeforeAll
    void open() {
        System.out.printf("op combinations: seed %d%n", SEED);
        cpu = Cpu.open();
        sim = Device.open("sim");
    }

    @AfterAll
    void close() {
        cpu.close();
        sim.close();
    }

    static List<OpCase> all() {
        List<OpCase> all = new ArrayList<>();
        for (DType d : List.of(DType.F32, DType.BF16, DType.F16)) {
            products(all, d);
            norms(all, d);
            attention(all, d);
        }
        return all;
    }

    private static void products(List<OpCase> all, DType d) {
        for (int m : ROWS) {
            for (int n : COLUMNS) {
                for (int k : DEPTHS) {
                    String at = " %dx%dx%d".formatted(m, n, k);
                    for (int t = 0; t < 4; t++) {
                        boolean ta = (t & 1) != 0;
                        boolean tb = (t & 2) != 0;
                        String what = "matmul" + (ta ? " aT" : "") + (tb ? " bT" : "") + at;
                        all.add(OpCases.matmul(what, d, 0, false, m, n, k, ta, tb, 1));
                        boolean transposed = ta;
                        boolean bias = tb;
                        what = "linear" + (transposed ? " T" : "") + (bias ? " bias" : "") + at;
                        all.add(OpCases.linear(what, d, m, k, n, transposed, bias));
                    }
                    for (Gelu form : Gelu.values()) {
                        all.add(OpCases.linearGelu("linear " + form + at, d, m, k, n, form));
                    }
                }
            }
        }
    }

    private static void norms(List<OpCase> all, DType d) {
        for (int rows : new int[] {1, 2, 5, 33}) {
            for (int width : WIDTHS) {
                String at = " %dx%d".formatted(rows, width);
                all.add(OpCases.layerNorm("norm" + at, d, 1, rows, width));
                all.add(OpCases.layerNormResidual("norm residual" + at, d, 1, rows, width));
                all.add(OpCases.layerNormDropout("norm dropout" + at, d, 0.3, rows, width));
            }
        }
    }

    private static void attention(List<OpCase> all, DType d) {
        for (boolean causal : new boolean[] {false, true}) {
            for (int[] h : HEADS) {
                for (int tq : QUERIES) {
                    for (int tk : KEYS) {
                        for (int size : HEAD_SIZES) {
                            for (int[] lengths : new int[][] {null, {tk, tk / 2}}) {
                                String what =
                                        "attention%s%s %d/%d heads %dx%dx%d"
                                                .formatted(
                                                        causal ? " causal" : "",
                                                        lengths == null ? "" : " lengths",
                                                        h[0],
                                                        h[1],
                                                        tq,
                                                        tk,
                                                        size);
                                all.add(
                                        OpCases.attention(
                                                        what, d, 2, h[0], h[1], tq, tk, size,
                                                        causal, lengths)
                                                // one key: its weight is 1 whatever q and k are
                                                .cancelling(1));
                            }
                        }
                    }
                }
            }
        }
    }

    static Stream<OpCase> sample() {
        List<OpCase> all = all();
        SplittableRandom random = new SplittableRandom(SEED);
        return random.ints(SAMPLE, 0, all.size()).mapToObj(all::get);
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("sample")
    void someAgree(OpCase c) {
        check(c);
    }

    @Test
    @Tag("nightly")
    void allAgree() {
        List<AssertionError> wrong = new ArrayList<>();
        for (OpCase c : all()) {
            try {
                check(c);
            } catch (AssertionError e) {
                wrong.add(e);
            }
        }
        assertThat(wrong).isEmpty();
    }

    private void check(OpCase c) {
        long seed = SEED + c.toString().hashCode();
        OpCheck.againstOracle(cpu, c, seed);
        OpCheck.againstOracle(sim, c, seed);
        OpCheck.gradientsAgainst(cpu, sim, c, seed);
    }
}
