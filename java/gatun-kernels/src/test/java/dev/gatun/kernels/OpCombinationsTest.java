package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SplittableRandom;
import java.util.function.BiConsumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * The ops with everything that they distinguish, each with each: dtypes, transposes, epilogues,
 * masks, sizes on either side of the kernels' tiles. Some of each family each time, all of them
 * nightly. The seed is {@code -Dgatun.seed}, and printed.
 */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class OpCombinationsTest {
    private static final long SEED = Long.getLong("gatun.seed", 20_261_128);
    private static final int SAMPLE = 40;

    private static final int[] ROWS = {1, 2, 7, 8, 17, 65, 130};
    private static final int[] COLUMNS = {1, 3, 8, 33, 64, 129};
    private static final int[] DEPTHS = {1, 2, 8, 31, 64, 130};

    /** Rows, columns and depth, where there is more to combine them with. */
    private static final int[][] PRODUCTS = {
        {1, 1, 1},
        {1, 129, 130},
        {2, 3, 8},
        {7, 64, 31},
        {8, 33, 64},
        {17, 8, 2},
        {65, 129, 31},
        {130, 33, 130}
    };

    private static final int[] WIDTHS = {1, 2, 8, 31, 33, 96, 130, 257, 768, 1023, 1025};
    private static final int[][] HEADS = {{1, 1}, {4, 2}, {6, 1}};
    private static final int[] QUERIES = {1, 2, 5, 17, 33, 65};
    private static final int[] KEYS = {1, 3, 16, 17, 64, 65};
    private static final int[] HEAD_SIZES = {8, 13, 32, 40, 64, 80, 96, 128};
    private static final boolean[] NO_OR_YES = {false, true};

    private static final Map<String, BiConsumer<List<OpCase>, DType>> FAMILIES =
            new LinkedHashMap<>();

    static {
        FAMILIES.put("products", OpCombinationsTest::products);
        FAMILIES.put("residuals", OpCombinationsTest::residuals);
        FAMILIES.put("finishes", OpCombinationsTest::finishes);
        FAMILIES.put("batches", OpCombinationsTest::batches);
        FAMILIES.put("three products", OpCombinationsTest::threeProducts);
        FAMILIES.put("norms", OpCombinationsTest::norms);
        FAMILIES.put("attention", OpCombinationsTest::attention);
        FAMILIES.put("dq atomic", OpCombinationsTest::dqAtomic);
        FAMILIES.put("packed sequences", OpCombinationsTest::sequences);
        FAMILIES.put("packed projections", OpCombinationsTest::projections);
        FAMILIES.put("decode", OpCombinationsTest::decode);
        FAMILIES.put("losses", OpCombinationsTest::losses);
        FAMILIES.put("embeddings", OpCombinationsTest::embeddings);
        FAMILIES.put("activations", OpCombinationsTest::activations);
    }

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

    private static List<OpCase> all(String family) {
        List<OpCase> all = new ArrayList<>();
        for (DType d : List.of(DType.F32, DType.BF16, DType.F16)) {
            FAMILIES.get(family).accept(all, d);
        }
        return all;
    }

    private static void products(List<OpCase> all, DType d) {
        for (int m : ROWS) {
            for (int n : COLUMNS) {
                for (int k : DEPTHS) {
                    String at = " %dx%dx%d".formatted(m, n, k);
                    for (int t = 0; t < 4; t++) {
                        String what = "matmul" + transposes(t) + at;
                        all.add(OpCases.matmul(what, d, 0, false, m, n, k, OpCases.transposes(t)));
                        boolean transposed = (t & 1) != 0;
                        boolean bias = (t & 2) != 0;
                        what = linear(transposed, bias) + at;
                        all.add(OpCases.linear(what, d, m, k, n, transposed, bias));
                    }
                    for (Gelu form : Gelu.values()) {
                        all.add(OpCases.linearGelu("linear " + form + at, d, m, k, n, form));
                    }
                    all.add(OpCases.logits("logits" + at, d, m, k, n));
                }
            }
        }
    }

    private static String transposes(int bits) {
        return ((bits & 1) != 0 ? " aT" : "") + ((bits & 2) != 0 ? " bT" : "");
    }

    private static String linear(boolean transposed, boolean bias) {
        return "linear" + (transposed ? " T" : "") + (bias ? " bias" : "");
    }

    private static void residuals(List<OpCase> all, DType d) {
        for (int m : ROWS) {
            for (int n : COLUMNS) {
                for (int k : DEPTHS) {
                    for (boolean transposed : NO_OR_YES) {
                        for (boolean bias : NO_OR_YES) {
                            String what =
                                    "%s residual %dx%dx%d"
                                            .formatted(linear(transposed, bias), m, n, k);
                            all.add(OpCases.linearResidual(what, d, m, k, n, transposed, bias));
                        }
                    }
                }
            }
        }
    }

    private static void finishes(List<OpCase> all, DType d) {
        for (int[] s : PRODUCTS) {
            for (int t = 0; t < 4; t++) {
                for (int batch : new int[] {0, 3}) {
                    for (double alpha : new double[] {1, -0.5}) {
                        MatMul.Options options = OpCases.transposes(t).withAlpha(alpha);
                        for (OpCases.Finish finish : OpCases.Finish.values()) {
                            for (DType to : d == DType.F32 ? List.of(d) : List.of(d, DType.F32)) {
                                String what =
                                        "matmul %s%s %d of %dx%dx%d times %s into %s"
                                                .formatted(
                                                        finish,
                                                        transposes(t),
                                                        batch,
                                                        s[0],
                                                        s[1],
                                                        s[2],
                                                        alpha,
                                                        to);
                                OpCase product =
                                        OpCases.matmul(
                                                what, d, batch, batch > 0, s[0], s[1], s[2],
                                                options);
                                all.add(OpCases.finished(product, options, to, finish));
                            }
                        }
                    }
                }
            }
        }
    }

    private static void batches(List<OpCase> all, DType d) {
        for (int[] s : PRODUCTS) {
            for (int t = 0; t < 4; t++) {
                for (int batch : new int[] {1, 2, 5}) {
                    for (boolean batchedB : NO_OR_YES) {
                        for (double alpha : new double[] {1, -0.5}) {
                            String what =
                                    "matmul%s %d of %dx%dx%d%s times %s"
                                            .formatted(
                                                    transposes(t),
                                                    batch,
                                                    s[0],
                                                    s[1],
                                                    s[2],
                                                    batchedB ? "" : " over one b",
                                                    alpha);
                            all.add(
                                    OpCases.matmul(
                                            what,
                                            d,
                                            batch,
                                            batchedB,
                                            s[0],
                                            s[1],
                                            s[2],
                                            OpCases.transposes(t).withAlpha(alpha)));
                        }
                    }
                }
            }
        }
    }

    private static void threeProducts(List<OpCase> all, DType d) {
        if (d != DType.F32) {
            return;
        }
        for (int t = 0; t < 4; t++) {
            MatMul.Options options = OpCases.transposes(t);
            String what = "matmul bf16x3" + transposes(t);
            for (int m : ROWS) {
                for (int n : COLUMNS) {
                    for (int k : DEPTHS) {
                        String at = " %dx%dx%d".formatted(m, n, k);
                        all.add(OpCases.bf16x3(what + at, 0, false, m, n, k, options));
                    }
                }
            }
            for (int[] s : PRODUCTS) {
                for (boolean batchedB : NO_OR_YES) {
                    String at = " 3 of %dx%dx%d".formatted(s[0], s[1], s[2]);
                    at += batchedB ? "" : " over one b";
                    all.add(
                            OpCases.bf16x3(
                                    what + at,
                                    3,
                                    batchedB,
                                    s[0],
                                    s[1],
                                    s[2],
                                    options.withAlpha(2)));
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
        for (int tq : QUERIES) {
            for (int tk : KEYS) {
                attention(all, d, tq, tk, Attention.Options.DEFAULT);
            }
        }
    }

    /** What is not of 16 bits takes the other way, as everything on cpu does. */
    private static void dqAtomic(List<OpCase> all, DType d) {
        for (int[] t : new int[][] {{1, 1}, {1, 65}, {17, 17}, {33, 65}, {65, 3}, {65, 64}}) {
            attention(all, d, t[0], t[1], Attention.Options.DQ_ATOMIC);
        }
    }

    private static void attention(
            List<OpCase> all, DType d, int tq, int tk, Attention.Options options) {
        for (boolean causal : NO_OR_YES) {
            for (int[] h : HEADS) {
                for (int size : HEAD_SIZES) {
                    for (int[] lengths : new int[][] {null, {tk, tk / 2}}) {
                        String what =
                                "attention%s%s%s %d/%d heads %dx%dx%d"
                                        .formatted(
                                                options.dqAtomic() ? " dq atomic" : "",
                                                causal ? " causal" : "",
                                                lengths == null ? "" : " lengths",
                                                h[0],
                                                h[1],
                                                tq,
                                                tk,
                                                size);
                        all.add(
                                OpCases.attention(
                                                what, d, 2, h[0], h[1], tq, tk, size, causal,
                                                lengths, options)
                                        // one key: its weight is 1 whatever q and k are
                                        .cancelling(1));
                    }
                }
            }
        }
    }

    private static void sequences(List<OpCase> all, DType d) {
        // of queries and of keys: one; none between; tiles and one more; none of either; longer
        // keys
        int[][][] starts = {
            {{0, 1}, {0, 1}},
            {{0, 3, 3, 8}, {0, 3, 3, 8}},
            {{0, 64, 65, 130}, {0, 64, 65, 130}},
            {{0, 2, 5, 5, 6}, {0, 4, 4, 7, 9}},
            {{0, 1, 18}, {0, 65, 82}},
        };
        for (int[][] s : starts) {
            for (boolean causal : NO_OR_YES) {
                for (boolean dqAtomic : NO_OR_YES) {
                    for (int[] h : HEADS) {
                        for (int size : HEAD_SIZES) {
                            int last = s[0].length - 1;
                            String what =
                                    "attention sequences%s%s %d/%d heads %s x %s x %d"
                                            .formatted(
                                                    dqAtomic ? " dq atomic" : "",
                                                    causal ? " causal" : "",
                                                    h[0],
                                                    h[1],
                                                    Arrays.toString(s[0]),
                                                    Arrays.toString(s[1]),
                                                    size);
                            all.add(
                                    OpCases.sequences(
                                                    what,
                                                    d,
                                                    h[0],
                                                    h[1],
                                                    size,
                                                    causal,
                                                    dqAtomic,
                                                    s[0],
                                                    s[1],
                                                    s[0][last] + 3, // which nobody sees
                                                    s[1][last] + 1)
                                            .cancelling(1));
                        }
                    }
                }
            }
        }
    }

    private static void projections(List<OpCase> all, DType d) {
        for (int batch : new int[] {1, 2}) {
            for (int time : QUERIES) {
                for (int heads : new int[] {1, 3}) {
                    for (int size : HEAD_SIZES) {
                        String what =
                                "attention packed %dx%dx3x%dx%d"
                                        .formatted(batch, time, heads, size);
                        all.add(OpCases.packed(what, d, batch, time, heads, size).cancelling(1));
                    }
                }
            }
        }
    }

    private static void decode(List<OpCase> all, DType d) {
        for (int[] held : new int[][] {{0}, {7}, {15, 0}, {63, 64, 130}}) {
            for (int[] h : HEADS) {
                for (int t : new int[] {1, 2, 17}) {
                    for (int slots : new int[] {1, 16, 64}) {
                        for (int size : HEAD_SIZES) {
                            int most = Arrays.stream(held).max().orElseThrow();
                            int pages = (most + t + slots - 1) / slots;
                            String what =
                                    "attention_decode %d/%d heads %d after %s in pages of %d x %d"
                                            .formatted(
                                                    h[0],
                                                    h[1],
                                                    t,
                                                    Arrays.toString(held),
                                                    slots,
                                                    size);
                            all.add(
                                    OpCases.decode(
                                            what,
                                            d,
                                            held.length,
                                            h[0],
                                            h[1],
                                            t,
                                            pages,
                                            slots,
                                            size,
                                            held));
                        }
                    }
                }
            }
        }
    }

    private static void losses(List<OpCase> all, DType d) {
        for (int rows : new int[] {1, 2, 9}) {
            for (int v : new int[] {1, 2, 8, 33, 257, 1024, 1025, 2049, 4097, 8193}) {
                for (double smoothing : new double[] {0, 0.1}) {
                    for (double factor : new double[] {1, 20}) {
                        String what =
                                "cross_entropy %dx%d e=%s of %s"
                                        .formatted(rows, v, smoothing, factor);
                        all.add(OpCases.crossEntropy(what, d, rows, v, smoothing, factor));
                    }
                }
            }
        }
    }

    private static void embeddings(List<OpCase> all, DType d) {
        for (int batch : new int[] {1, 3}) {
            for (int time : new int[] {1, 5, 33}) {
                for (int v : new int[] {1, 11, 300}) {
                    for (int width : WIDTHS) {
                        String at = " %dx%d of %dx%d".formatted(batch, time, v, width);
                        int p = time + 4;
                        all.add(
                                OpCases.embedding(
                                        "embedding" + at, d, batch, time, v, 0, width, false));
                        for (boolean start : NO_OR_YES) {
                            String what = "embedding " + (start ? "start" : "positions") + at;
                            all.add(OpCases.embedding(what, d, batch, time, v, p, width, start));
                        }
                    }
                }
            }
        }
    }

    private static void activations(List<OpCase> all, DType d) {
        for (long[] shape :
                new long[][] {{1}, {7}, {8}, {255}, {3, 67}, {2, 1024}, {4097}, {5, 1, 1031}}) {
            String at = " " + Arrays.toString(shape);
            for (double factor : new double[] {1e-4, 1, 20}) {
                for (Gelu form : Gelu.values()) {
                    all.add(
                            OpCases.gelu(
                                    "gelu %s%s of %s".formatted(form, at, factor),
                                    d,
                                    form,
                                    factor,
                                    shape));
                }
            }
            for (double p : new double[] {0.1, 0.5, 0.9}) {
                all.add(OpCases.dropout("dropout " + p + at, d, p, shape));
            }
        }
    }

    static Stream<OpCase> sample() {
        return FAMILIES.keySet().stream()
                .flatMap(family -> {
                    List<OpCase> all = all(family);
                    return new SplittableRandom(SEED + family.hashCode())
                            .ints(SAMPLE, 0, all.size())
                            .mapToObj(all::get);
                });
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("sample")
    void someAgree(OpCase c) {
        check(c);
    }

    static Set<String> families() {
        return FAMILIES.keySet();
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("families")
    @Tag("nightly")
    void allAgree(String family) {
        List<OpCase> all = all(family);
        List<AssertionError> wrong = new ArrayList<>();
        long start = System.nanoTime();
        for (OpCase c : all) {
            try {
                check(c);
            } catch (AssertionError e) {
                wrong.add(e);
            }
        }
        System.out.printf(
                "op combinations: %,d of %s in %.0f s%n",
                all.size(), family, (System.nanoTime() - start) / 1e9);
        assertThat(wrong).isEmpty();
    }

    private void check(OpCase c) {
        long seed = SEED + c.toString().hashCode();
        OpCheck.againstOracle(cpu, c, seed);
        OpCheck.againstOracle(sim, c, seed);
        OpCheck.gradientsAgainst(cpu, sim, c, seed);
    }
}
