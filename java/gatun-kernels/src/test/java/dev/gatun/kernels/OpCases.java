package dev.gatun.kernels;

import dev.gatun.kernels.OpCase.Operand;
import dev.gatun.kernels.OpCase.Source;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.function.DoubleUnaryOperator;
import org.jspecify.annotations.Nullable;

/** The op cases: sizes 1, odd, prime, one past a tile, empty; plain, large and tiny values. */
public final class OpCases {
    private static final List<DType> FLOATS = List.of(DType.F32, DType.BF16, DType.F16);

    private OpCases() {}

    /** Small cases, for the tests. */
    public static List<OpCase> all() {
        List<OpCase> all = new ArrayList<>();
        for (DType dtype : FLOATS) {
            values(all, dtype);
            products(all, dtype);
            layers(all, dtype);
            attention(all, dtype);
            losses(all, dtype);
            choices(all, dtype);
        }
        integers(all);
        optimizers(all);
        return all;
    }

    /** The shapes of a training step of GPT-2 124M at batch 2 × 256, for the benchmark. */
    public static List<OpCase> gpt2() {
        List<OpCase> all = new ArrayList<>();
        for (DType dtype : List.of(DType.F32, DType.BF16)) {
            all.add(linear("linear qkv", dtype, 512, 768, 2304, false, false));
            all.add(linear("linear proj", dtype, 512, 3072, 768, false, false));
            all.add(linearGelu("linear_gelu fc", dtype, 512, 768, 3072, Gelu.TANH));
            all.add(logits("head", dtype, 512, 768, 50257));
            all.add(logits("decode head", dtype, 1, 768, 50257));
            all.add(layerNorm("layer_norm", dtype, 1, 512, 768));
            all.add(layerNormResidual("layer_norm residual", dtype, 1, 512, 768));
            all.add(gelu("gelu", dtype, Gelu.TANH, 1, 512, 3072));
            all.add(attention("attention", dtype, 2, 12, 12, 256, 256, 64, true, null));
            all.add(attention("attention 1024", dtype, 1, 12, 12, 1024, 1024, 64, true, null));
            all.add(decode("attention_decode", dtype, 1, 12, 12, 1, 8, 128, 64, 600));
            all.add(crossEntropy("cross_entropy", dtype, 512, 50257, 0, 1));
            all.add(embedding("embedding", dtype, 2, 256, 50257, 1024, 768, true));
            all.add(add("add", dtype, 1, 512, 768));
            all.add(dropout("dropout", dtype, 0.1, 512, 768));
            all.add(layerNormDropout("layer_norm dropout", dtype, 0.1, 512, 768));
            all.add(cast("cast", dtype, dtype == DType.F32 ? DType.BF16 : DType.F32, 512, 768));
            all.add(permuted("contiguous heads", dtype, new int[] {0, 2, 1, 3}, 2, 256, 12, 64));
        }
        all.add(adamw("adamw 768x3072", 1, 768L * 3072));
        all.add(globalNorm("global_norm", 4, 768 * 768));
        return all;
    }

    // ---- Families -------------------------------------------------------------------------

    private static void values(List<OpCase> all, DType d) {
        for (long[] shape : new long[][] {{1}, {}, {7}, {0}, {3, 0, 5}, {2, 3, 67}, {1000, 3}}) {
            String at = Arrays.toString(shape);
            all.add(add("add " + at, d, 1, shape));
            all.add(fill("fill " + at, d, shape));
            for (DType to : FLOATS) {
                all.add(cast("cast to " + to + " " + at, d, to, shape));
            }
        }
        all.add(add("add large", d, 1e4, 5, 13));
        all.add(permuted("contiguous transpose", d, new int[] {1, 0}, 5, 7));
        all.add(permuted("contiguous heads", d, new int[] {0, 2, 1, 3}, 2, 3, 5, 4));
        all.add(permuted("contiguous inner", d, new int[] {0, 3, 1, 2}, 2, 3, 5, 4));
        all.add(sliced("contiguous slice", d, 3, 11));
        all.add(dropout("dropout", d, 0.3, 5, 67));
        all.add(dropout("dropout one", d, 0.5, 1));
    }

    private static void integers(List<OpCase> all) {
        for (DType dtype : List.of(DType.I32, DType.I64)) {
            all.add(
                    new OpCase(
                            "increment",
                            Set.of("increment"),
                            dtype,
                            List.of(new Operand("x", dtype, Source.below(1000), false, 7)),
                            (ops, in) -> {
                                ops.increment(in.getFirst(), -3);
                                return in;
                            },
                            (_, x) ->
                                    new double[][] {Arrays.stream(x[0]).map(v -> v - 3).toArray()},
                            14.0 * dtype.bytes(),
                            0));
            DType other = dtype == DType.I32 ? DType.I64 : DType.I32;
            all.add(
                    new OpCase(
                            "cast to " + other,
                            Set.of("copy"),
                            dtype,
                            List.of(new Operand("x", dtype, Source.below(1 << 30), false, 3, 5)),
                            (ops, in) -> List.of(ops.cast(in.getFirst(), other)),
                            (_, x) -> new double[][] {x[0]},
                            15 * 12,
                            0));
        }
    }

    private static void products(List<OpCase> all, DType d) {
        int[][] sizes = {
            {1, 1, 1},
            {1, 17, 33},
            {3, 5, 7},
            {13, 1, 9},
            {17, 31, 1},
            {33, 65, 67},
            {64, 48, 96},
            {0, 3, 4},
            {3, 0, 4},
            {3, 4, 0}
        };
        for (int[] s : sizes) {
            for (int t = 0; t < 4; t++) {
                all.add(
                        matmul(
                                "matmul%s%s %s"
                                        .formatted(
                                                (t & 1) != 0 ? " aT" : "",
                                                (t & 2) != 0 ? " bT" : "",
                                                Arrays.toString(s)),
                                d,
                                0,
                                false,
                                s[0],
                                s[1],
                                s[2],
                                transposes(t)));
            }
        }
        for (int t = 0; t < 4; t++) {
            MatMul.Options options = transposes(t);
            MatMul.Options half = options.withAlpha(0.5);
            all.add(matmul("matmul batched " + t, d, 3, true, 5, 7, 9, half));
            all.add(matmul("matmul batch over one b " + t, d, 3, false, 5, 7, 9, options));
            for (Finish finish : Finish.values()) {
                OpCase product =
                        matmul("matmul %s %d".formatted(finish, t), d, 0, false, 13, 29, 37, half);
                all.add(finished(product, half, d, finish));
            }
        }
        OpCase batch = matmul("matmul batched into f32", d, 3, true, 5, 7, 9, MatMul.Options.PLAIN);
        for (Finish finish : Finish.values()) {
            all.add(finished(batch, MatMul.Options.PLAIN, DType.F32, finish));
        }
        for (boolean transposed : new boolean[] {false, true}) {
            for (boolean bias : new boolean[] {false, true}) {
                String what = (transposed ? "linear_transposed" : "linear") + (bias ? " bias" : "");
                all.add(linear(what + " row", d, 1, 96, 40, transposed, bias));
                all.add(linear(what, d, 13, 37, 29, transposed, bias));
                all.add(linear(what + " empty", d, 0, 5, 3, transposed, bias));
            }
        }
        for (Gelu form : Gelu.values()) {
            all.add(linearGelu("linear_gelu " + form, d, 13, 37, 29, form));
            all.add(linearGelu("linear_gelu row " + form, d, 1, 64, 33, form));
            all.add(mlp("linear of linear_gelu " + form, d, 13, 16, 29, 24, form));
        }
        for (boolean transposed : new boolean[] {false, true}) {
            for (boolean bias : new boolean[] {false, true}) {
                String what = (transposed ? "linear_transposed" : "linear") + " residual";
                all.add(
                        linearResidual(
                                what + (bias ? " bias" : ""), d, 13, 37, 29, transposed, bias));
                all.add(
                        linearResidual(
                                what + (bias ? " bias" : "") + " row",
                                d,
                                1,
                                96,
                                40,
                                transposed,
                                bias));
            }
        }
        all.add(logits("logits", d, 13, 37, 29));
        all.add(logits("logits row", d, 1, 40, 65));
        all.add(logits("logits whole", d, 3, 8, 64));
        if (d == DType.F32) {
            for (int t = 0; t < 4; t++) {
                all.add(bf16x3("matmul bf16x3 " + t, 0, false, 33, 65, 67, transposes(t)));
            }
        }
    }

    private static void layers(List<OpCase> all, DType d) {
        for (Gelu form : Gelu.values()) {
            all.add(gelu("gelu " + form, d, form, 2, 3, 67));
            all.add(gelu("gelu wide " + form, d, form, 20, 1, 129));
            all.add(gelu("gelu tiny " + form, d, form, 1e-4, 1, 33));
            all.add(gelu("gelu empty " + form, d, form, 1, 0));
        }
        long[][] shapes = {{1, 1}, {5, 1}, {3, 61}, {2, 768}, {4, 33}, {0, 8}, {9, 1024}};
        for (long[] s : shapes) {
            all.add(layerNorm("layer_norm " + Arrays.toString(s), d, 1, (int) s[0], (int) s[1]));
        }
        all.add(layerNorm("layer_norm large", d, 1e3, 3, 67));
        all.add(layerNorm("layer_norm tiny", d, 1e-3, 3, 67));
        all.add(layerNormResidual("layer_norm residual", d, 1, 5, 67));
        all.add(layerNormResidual("layer_norm residual one", d, 1, 1, 1));
        for (long[] s : new long[][] {{5, 67}, {3, 96}, {2, 520}, {1, 1}, {0, 8}}) {
            String at = Arrays.toString(s);
            all.add(layerNormDropout("layer_norm dropout " + at, d, 0.3, (int) s[0], (int) s[1]));
        }
        all.add(embedding("embedding", d, 2, 7, 13, 0, 10, false));
        all.add(embedding("embedding positions", d, 3, 5, 11, 9, 8, false));
        all.add(embedding("embedding start", d, 3, 5, 11, 9, 8, true));
        all.add(embedding("embedding one", d, 1, 1, 1, 1, 1, false));
    }

    private static void attention(List<OpCase> all, DType d) {
        for (boolean causal : new boolean[] {false, true}) {
            String c = causal ? "attention causal " : "attention ";
            // one key: its weight is 1 whatever q and k are
            all.add(attention(c + "one", d, 1, 1, 1, 1, 1, 8, causal, null).cancelling(1));
            all.add(attention(c + "small", d, 2, 2, 2, 5, 5, 16, causal, null));
            all.add(attention(c + "odd head", d, 1, 3, 3, 7, 7, 13, causal, null));
            all.add(attention(c + "Tq<Tk", d, 2, 2, 2, 3, 11, 8, causal, null));
            all.add(attention(c + "grouped", d, 1, 6, 2, 7, 7, 8, causal, null));
            all.add(attention(c + "lengths", d, 3, 2, 1, 6, 6, 8, causal, new int[] {6, 2, 4}));
            all.add(attention(c + "masked rows", d, 2, 2, 2, 4, 5, 8, causal, new int[] {5, 0}));
        }
        // only as forward: the oracle's differences would take too long
        all.add(frozen(attention("attention tile", d, 1, 2, 2, 65, 97, 64, true, null)));
        all.add(frozen(attention("attention long", d, 1, 1, 1, 130, 200, 80, false, null)));
        all.add(packed("attention packed", d, 2, 5, 2, 8));
        for (boolean causal : new boolean[] {false, true}) {
            String c = causal ? "attention causal sequences" : "attention sequences";
            int[] starts = {0, 3, 3, 8};
            all.add(sequences(c, d, 2, 2, 8, causal, false, starts, starts, 8, 8));
            // none of one side, longer than the other, rows behind the last
            int[] q = {0, 2, 5, 5, 6};
            int[] k = {0, 4, 4, 7, 9};
            all.add(sequences(c + " ragged", d, 4, 2, 13, causal, true, q, k, 8, 10));
            int[] one = {0, 1};
            all.add(sequences(c + " one", d, 1, 1, 8, causal, true, one, one, 2, 1).cancelling(1));
        }
        int[] tiles = {0, 65, 70, 199};
        all.add(
                frozen(
                        sequences(
                                "attention sequences tiles",
                                d,
                                2,
                                1,
                                64,
                                true,
                                true,
                                tiles,
                                tiles,
                                210,
                                200)));
        all.add(decode("attention_decode", d, 2, 4, 2, 1, 3, 4, 8, 7));
        all.add(decode("attention_decode several", d, 2, 2, 2, 3, 5, 3, 16, 9));
        all.add(decode("attention_decode first", d, 1, 2, 1, 4, 1, 16, 8, 0));
        all.add(decode("attention_decode long", d, 1, 4, 4, 1, 16, 16, 64, 200));
        all.add(decode("attention_decode ragged", d, 3, 4, 2, 2, 3, 8, 16, 17, 0, 8));
    }

    private static void losses(List<OpCase> all, DType d) {
        for (double smoothing : new double[] {0, 0.1}) {
            all.add(crossEntropy("cross_entropy e=" + smoothing, d, 8, 13, smoothing, 2));
            all.add(crossEntropy("cross_entropy wide e=" + smoothing, d, 3, 257, smoothing, 4));
        }
        all.add(crossEntropy("cross_entropy one", d, 1, 1, 0, 1));
        all.add(crossEntropy("cross_entropy large", d, 5, 33, 0, 40));
        all.add(crossEntropy("cross_entropy empty", d, 0, 5, 0, 1));
    }

    private static void choices(List<OpCase> all, DType d) {
        for (int[] s : new int[][] {{1, 1}, {3, 7}, {5, 1031}, {0, 4}}) {
            all.add(
                    new OpCase(
                            "argmax " + Arrays.toString(s),
                            Set.of("argmax"),
                            d,
                            List.of(operand("logits", d, 1, false, s[0], s[1])),
                            (ops, in) -> List.of(ops.argmax(in.getFirst())),
                            (_, in) -> new double[][] {Oracle.argmax(in[0], s[0])},
                            s[0] * (double) s[1] * d.bytes(),
                            0));
        }
        all.add(
                new OpCase(
                        "sample of one likely token",
                        Set.of("sample"),
                        d,
                        List.of(
                                new Operand(
                                        "logits", d, Source.of(0, 0, 90, 0, 90, 0), false, 2, 3)),
                        (ops, in) ->
                                List.of(
                                        ops.sample(
                                                in.getFirst(),
                                                new Sampling(0.7, 2, 0.9, 0.05),
                                                Rng.of(5))),
                        (_, _) -> new double[][] {{2, 1}},
                        6.0 * d.bytes(),
                        0));
    }

    private static void optimizers(List<OpCase> all) {
        all.add(adamw("adamw", 1, 23));
        all.add(adamw("adamw later", 100, 1031));
        all.add(adamw("adamw one", 2, 1));
        all.add(globalNorm("global_norm", 3, 37));
        all.add(globalNorm("global_norm one", 1, 1));
        all.add(globalNorm("global_norm many", 70, 129));
        for (DType dtype : FLOATS) {
            all.add(unscale("unscale", dtype, 3, 37, 1));
            all.add(unscale("unscale one", dtype, 1, 1, 1));
            all.add(unscale("unscale nothing", dtype, 2, 0, 1));
            all.add(unscale("unscale many", dtype, 150, 129, 1));
            all.add(unscale("unscale an infinity", dtype, 3, 37, Double.POSITIVE_INFINITY));
            all.add(unscale("unscale not a number", dtype, 3, 37, Double.NaN));
        }
    }

    // ---- Makers ---------------------------------------------------------------------------

    private static Operand operand(String name, DType d, double factor, boolean g, long... shape) {
        return new Operand(name, d, Source.normal(factor), g, shape);
    }

    private static OpCase frozen(OpCase c) {
        return new OpCase(
                c.name(),
                c.covers(),
                c.dtype(),
                c.operands().stream().map(OpCases::frozen).toList(),
                c.forward(),
                c.oracle(),
                c.bytes(),
                c.backwardBytes(),
                c.flops(),
                c.approximation(),
                c.cancelled());
    }

    private static Operand frozen(Operand o) {
        return new Operand(o.name(), o.dtype(), o.source(), false, o.shape());
    }

    private static long count(long... shape) {
        return Arrays.stream(shape).reduce(1, (a, b) -> a * b);
    }

    private static OpCase add(String name, DType d, double factor, long... shape) {
        return new OpCase(
                        name,
                        Set.of("add"),
                        d,
                        List.of(
                                operand("a", d, factor, true, shape),
                                operand("b", d, factor, true, shape)),
                        (ops, in) -> List.of(ops.add(in.get(0), in.get(1))),
                        (r, in) -> new double[][] {Oracle.addRow(r, in[0], in[1])},
                        3.0 * count(shape) * d.bytes(),
                        count(shape))
                // dy is the gradient of both
                .backward(0);
    }

    private static OpCase fill(String name, DType d, long... shape) {
        double[] out = new double[(int) count(shape)];
        Arrays.fill(out, OpCase.rounded(0.1, d));
        return new OpCase(
                name,
                Set.of("fill"),
                d,
                List.of(),
                (ops, _) -> List.of(ops.full(d, 0.1, shape)),
                (_, _) -> new double[][] {out},
                (double) count(shape) * d.bytes(),
                0);
    }

    private static OpCase cast(String name, DType from, DType to, long... shape) {
        double bytes = (double) count(shape) * (from.bytes() + to.bytes());
        return new OpCase(
                        name,
                        Set.of("copy"),
                        from,
                        List.of(operand("x", from, 1, true, shape)),
                        (ops, in) -> List.of(ops.cast(in.getFirst(), to)),
                        (_, in) -> new double[][] {in[0]},
                        bytes,
                        0)
                .backward(bytes);
    }

    private static OpCase permuted(String name, DType d, int[] order, long... shape) {
        return new OpCase(
                name,
                Set.of("copy"),
                d,
                List.of(operand("x", d, 1, true, shape)),
                (ops, in) -> List.of(ops.contiguous(in.getFirst().permute(order))),
                (_, in) -> new double[][] {permute(in[0], shape, order)},
                2.0 * count(shape) * d.bytes(),
                0);
    }

    static double[] permute(double[] x, long[] shape, int... order) {
        long[] stride = Shapes.strides(shape);
        double[] out = new double[x.length];
        long[] at = new long[order.length];
        for (int i = 0; i < out.length; i++) {
            long from = 0;
            for (int j = 0; j < order.length; j++) {
                from += at[j] * stride[order[j]];
            }
            out[i] = x[(int) from];
            for (int j = order.length - 1; j >= 0 && ++at[j] == shape[order[j]]; j--) {
                at[j] = 0;
            }
        }
        return out;
    }

    private static OpCase sliced(String name, DType d, int rows, int columns) {
        return new OpCase(
                name,
                Set.of("copy"),
                d,
                List.of(operand("x", d, 1, true, rows, columns)),
                (ops, in) -> List.of(ops.contiguous(in.getFirst().slice(1, 2, columns - 3))),
                (_, in) -> {
                    double[][] parts = new double[rows][];
                    for (int i = 0; i < rows; i++) {
                        parts[i] =
                                Arrays.copyOfRange(in[0], i * columns + 2, (i + 1) * columns - 3);
                    }
                    return new double[][] {Oracle.concat(parts)};
                },
                2.0 * rows * (columns - 5) * d.bytes(),
                0);
    }

    static OpCase dropout(String name, DType d, double p, long... shape) {
        return new OpCase(
                        name,
                        Set.of("dropout"),
                        d,
                        List.of(operand("x", d, 1, true, shape)),
                        (ops, in) ->
                                List.of(
                                        ops.recording()
                                                ? ops.dropout(in.getFirst(), p)
                                                : recorded(ops, in.getFirst(), p)),
                        (r, in) -> new double[][] {Oracle.dropout(r, in[0], p, 0, 0, 0)},
                        2.0 * count(shape) * d.bytes(),
                        count(shape))
                .backward(2.0 * count(shape) * d.bytes());
    }

    // Dropout is the identity outside a tape.
    private static Tensor recorded(Ops ops, Tensor x, double p) {
        try (Tape tape = ops.device().tape()) {
            Tensor out = ops.empty(x.dtype(), x.shape());
            tape.copy(out, tape.dropout(x, p));
            return out;
        }
    }

    static OpCase matmul(
            String name,
            DType d,
            int batch,
            boolean batchedB,
            int m,
            int n,
            int k,
            MatMul.Options options) {
        boolean ta = options.transposeA();
        boolean tb = options.transposeB();
        double alpha = options.alpha();
        long[] a = ta ? new long[] {k, m} : new long[] {m, k};
        long[] b = tb ? new long[] {n, k} : new long[] {k, n};
        int z = Math.max(1, batch);
        return new OpCase(
                name,
                Set.of("matmul"),
                d,
                List.of(
                        operand("a", d, 1, true, batch == 0 ? a : new long[] {batch, a[0], a[1]}),
                        operand("b", d, 1, true, batchedB ? new long[] {batch, b[0], b[1]} : b)),
                (ops, in) -> List.of(ops.matmul(in.get(0), in.get(1), options)),
                (r, in) ->
                        new double[][] {Oracle.matmul(r, in[0], in[1], z, m, n, k, ta, tb, alpha)},
                (z * ((double) m * k + (double) m * n) + (batchedB ? z : 1) * (double) k * n)
                        * d.bytes(),
                2.0 * z * m * n * k);
    }

    /** Bit 0: a is transposed, bit 1: b. */
    static MatMul.Options transposes(int bits) {
        return new MatMul.Options((bits & 1) != 0, (bits & 2) != 0, 1, MatMul.Precision.F32);
    }

    /** What becomes of a product, with a tensor shaped as it, on its way to memory. */
    enum Finish {
        /** out += . */
        ACCUMULATED,
        /** . + residual */
        RESIDUAL,
        /** . * gelu'(preactivation) */
        TANH_GRADIENT,
        ERF_GRADIENT;

        MatMul.Epilogue epilogue(Tensor other) {
            return switch (this) {
                case ACCUMULATED -> MatMul.Epilogue.NONE;
                case RESIDUAL -> MatMul.Epilogue.plain(null, other);
                case TANH_GRADIENT -> MatMul.Epilogue.geluGradient(Gelu.TANH, other);
                case ERF_GRADIENT -> MatMul.Epilogue.geluGradient(Gelu.ERF, other);
            };
        }

        double apply(DoubleUnaryOperator r, double product, double other) {
            return r.applyAsDouble(
                    switch (this) {
                        case ACCUMULATED, RESIDUAL -> product + other;
                        case TANH_GRADIENT -> product * Oracle.geluGradient(r, other, Gelu.TANH);
                        case ERF_GRADIENT -> product * Oracle.geluGradient(r, other, Gelu.ERF);
                    });
        }
    }

    /** A product, in a result of dtype `to`, as the backward passes of layers call for it. */
    static OpCase finished(OpCase product, MatMul.Options options, DType to, Finish finish) {
        long[] a = product.operands().get(0).shape();
        long[] b = product.operands().get(1).shape();
        long[] shape = a.clone();
        shape[a.length - 2] = a[a.length - (options.transposeA() ? 1 : 2)];
        shape[a.length - 1] = b[b.length - (options.transposeB() ? 2 : 1)];
        return new OpCase(
                        product.name(),
                        product.covers(),
                        product.dtype(),
                        List.of(
                                frozen(product.operands().get(0)),
                                frozen(product.operands().get(1)),
                                operand("other", to, 1, false, shape)),
                        (ops, t) -> {
                            boolean accumulate = finish == Finish.ACCUMULATED;
                            Tensor out = accumulate ? t.get(2) : ops.empty(to, shape);
                            MatMul.run(
                                    ops.stream,
                                    out,
                                    t.get(0),
                                    t.get(1),
                                    options,
                                    accumulate,
                                    finish.epilogue(t.get(2)));
                            return List.of(out);
                        },
                        (r, v) -> {
                            double[] y = product.oracle().compute(r, v)[0];
                            for (int i = 0; i < y.length; i++) {
                                y[i] = finish.apply(r, y[i], v[2][i]);
                            }
                            return new double[][] {y};
                        },
                        product.bytes() + (double) count(shape) * to.bytes(),
                        product.flops())
                .fitted(finish == Finish.ERF_GRADIENT ? 4e-7 : 0);
    }

    public static OpCase linear(
            String name, DType d, int rows, int in, int out, boolean transposed, boolean bias) {
        List<Operand> operands = new ArrayList<>();
        operands.add(operand("x", d, 1, true, rows, in));
        operands.add(
                operand(
                        "weight",
                        d,
                        0.3,
                        true,
                        transposed ? new long[] {out, in} : new long[] {in, out}));
        if (bias) {
            operands.add(operand("bias", d, 1, true, out));
        }
        return new OpCase(
                name,
                bias ? Set.of("matmul", "bias_backward") : Set.of("matmul"),
                d,
                operands,
                (ops, t) -> {
                    Tensor b = bias ? t.get(2) : null;
                    return List.of(
                            transposed
                                    ? ops.linearTransposed(t.get(0), t.get(1), b)
                                    : ops.linear(t.get(0), t.get(1), b));
                },
                (r, v) -> {
                    double[] y =
                            Oracle.matmul(r, v[0], v[1], 1, rows, out, in, false, transposed, 1);
                    return new double[][] {bias ? Oracle.addRow(r, y, v[2]) : y};
                },
                ((double) rows * in + (double) in * out + (double) rows * out) * d.bytes(),
                2.0 * rows * in * out);
    }

    static OpCase linearGelu(String name, DType d, int rows, int in, int out, Gelu form) {
        return new OpCase(
                        name,
                        Set.of("matmul", "gelu_backward", "bias_backward"),
                        d,
                        List.of(
                                operand("x", d, 1, true, rows, in),
                                operand("weight", d, 0.3, true, in, out),
                                operand("bias", d, 1, true, out)),
                        (ops, t) -> List.of(ops.linearGelu(t.get(0), t.get(1), t.get(2), form)),
                        (r, v) -> {
                            double[] y =
                                    Oracle.matmul(r, v[0], v[1], 1, rows, out, in, false, false, 1);
                            return new double[][] {Oracle.gelu(r, Oracle.addRow(r, y, v[2]), form)};
                        },
                        ((double) rows * in + (double) in * out + (double) rows * out) * d.bytes(),
                        2.0 * rows * in * out)
                .fitted(form == Gelu.ERF ? 4e-7 : 0);
    }

    /** The second layer's backward pass takes the derivative of the first one's GELU along. */
    private static OpCase mlp(
            String name, DType d, int rows, int in, int inner, int out, Gelu form) {
        return new OpCase(
                        name,
                        Set.of("matmul", "bias_backward"),
                        d,
                        List.of(
                                operand("x", d, 1, true, rows, in),
                                operand("weight", d, 0.3, true, in, inner),
                                operand("bias", d, 1, true, inner),
                                operand("weight2", d, 0.3, true, inner, out)),
                        (ops, t) ->
                                List.of(
                                        ops.linear(
                                                ops.linearGelu(t.get(0), t.get(1), t.get(2), form),
                                                t.get(3))),
                        (r, v) -> {
                            double[] y =
                                    Oracle.matmul(
                                            r, v[0], v[1], 1, rows, inner, in, false, false, 1);
                            double[] up = Oracle.gelu(r, Oracle.addRow(r, y, v[2]), form);
                            return new double[][] {
                                Oracle.matmul(r, up, v[3], 1, rows, out, inner, false, false, 1)
                            };
                        },
                        ((double) rows * (in + 2 * inner + out)
                                        + (double) in * inner
                                        + (double) inner * out)
                                * d.bytes(),
                        2.0 * rows * inner * (in + out))
                // the activations between the layers are rounded
                .fitted(OpCase.ulp(1, d) + (form == Gelu.ERF ? 4e-7 : 0));
    }

    static OpCase linearResidual(
            String name, DType d, int rows, int in, int out, boolean transposed, boolean bias) {
        OpCase plain = linear(name, d, rows, in, out, transposed, bias);
        List<Operand> operands = new ArrayList<>(plain.operands());
        operands.add(operand("residual", d, 1, true, rows, out));
        int last = operands.size() - 1;
        return new OpCase(
                name,
                plain.covers(),
                d,
                operands,
                (ops, t) -> {
                    Tensor b = bias ? t.get(2) : null;
                    return List.of(
                            transposed
                                    ? ops.linearTransposed(t.get(0), t.get(1), b, t.get(last))
                                    : ops.linear(t.get(0), t.get(1), b, t.get(last)));
                },
                (r, v) -> {
                    double[] y = plain.oracle().compute(r, v)[0];
                    for (int i = 0; i < y.length; i++) {
                        y[i] = r.applyAsDouble(y[i] + v[last][i]);
                    }
                    return new double[][] {y};
                },
                plain.bytes() + (double) rows * out * d.bytes(),
                plain.flops());
    }

    public static OpCase logits(String name, DType d, int rows, int in, int vocabulary) {
        OpCase plain = linear(name, d, rows, in, vocabulary, true, false);
        return new OpCase(
                name,
                plain.covers(),
                d,
                plain.operands(),
                (ops, t) -> List.of(ops.logits(t.get(0), t.get(1))),
                plain.oracle(),
                plain.bytes(),
                plain.flops());
    }

    /** Three products of bf16 parts are what plain arithmetic makes of it. */
    public static OpCase bf16x3(
            String name, int batch, boolean batchedB, int m, int n, int k, MatMul.Options of) {
        MatMul.Options options = of.withPrecision(MatMul.Precision.BF16X3);
        OpCase exact = matmul(name, DType.F32, batch, batchedB, m, n, k, options);
        return new OpCase(
                        name,
                        exact.covers(),
                        DType.F32,
                        exact.operands(),
                        exact.forward(),
                        (r, v) -> {
                            if (exact(r)) {
                                return exact.oracle().compute(r, v);
                            }
                            double[][] high = {
                                rounded(v[0], DType.BF16, r), rounded(v[1], DType.BF16, r)
                            };
                            double[][] low = {low(v[0], high[0]), low(v[1], high[1])};
                            double[] sum = exact.oracle().compute(r, high)[0];
                            for (double[][] pair :
                                    new double[][][] {{high[0], low[1]}, {low[0], high[1]}}) {
                                sum = Oracle.addRow(r, sum, exact.oracle().compute(r, pair)[0]);
                            }
                            return new double[][] {sum};
                        },
                        exact.bytes(),
                        exact.flops())
                // of each term up to 2^-15 is left out, and the terms may cancel
                .cancelling(Math.sqrt(Math.max(m, Math.max(n, k))));
    }

    private static double[] low(double[] x, double[] high) {
        double[] low = new double[x.length];
        for (int i = 0; i < x.length; i++) {
            low[i] = OpCase.rounded(x[i] - high[i], DType.BF16);
        }
        return low;
    }

    static OpCase gelu(String name, DType d, Gelu form, double factor, long... shape) {
        return new OpCase(
                        name,
                        Set.of("gelu_forward", "gelu_backward"),
                        d,
                        List.of(operand("x", d, factor, true, shape)),
                        (ops, in) -> List.of(ops.gelu(in.getFirst(), form)),
                        (r, in) -> new double[][] {Oracle.gelu(r, in[0], form)},
                        2.0 * count(shape) * d.bytes(),
                        8.0 * count(shape))
                .backward(3.0 * count(shape) * d.bytes())
                // the normal distribution function is a fit, within 4e-7
                .fitted(form == Gelu.ERF ? 4e-7 : 0);
    }

    static OpCase layerNorm(String name, DType d, double factor, int rows, int width) {
        return new OpCase(
                        name,
                        Set.of("layer_norm_forward", "layer_norm_backward"),
                        d,
                        List.of(
                                operand("x", d, factor, true, rows, width),
                                operand("weight", d, 1, true, width),
                                operand("bias", d, 1, true, width)),
                        (ops, t) -> List.of(ops.layerNorm(t.get(0), t.get(1), t.get(2), 1e-5)),
                        (r, v) -> new double[][] {Oracle.layerNorm(r, v[0], v[1], v[2], 1e-5)},
                        2.0 * rows * width * d.bytes(),
                        8.0 * rows * width)
                .backward(3.0 * rows * width * d.bytes())
                // one or two elements: what is left of dy cancels, times up to 1 / sqrt(eps)
                .cancelling(width <= 2 ? 1 / Math.sqrt(1e-5) : 0);
    }

    static OpCase layerNormResidual(String name, DType d, double factor, int rows, int width) {
        return new OpCase(
                        name,
                        Set.of("layer_norm_forward", "layer_norm_backward", "add"),
                        d,
                        List.of(
                                operand("x", d, factor, true, rows, width),
                                operand("residual", d, factor, true, rows, width),
                                operand("weight", d, 1, true, width),
                                operand("bias", d, 1, true, width)),
                        (ops, t) -> {
                            LayerNorm.Residual out =
                                    ops.layerNorm(t.get(0), t.get(1), t.get(2), t.get(3), 1e-5);
                            return List.of(
                                    ops.add(out.sum(), out.normed()), out.sum(), out.normed());
                        },
                        (r, v) -> {
                            double[] sum = rounded(Oracle.addRow(r, v[0], v[1]), d, r);
                            double[] normed = Oracle.layerNorm(r, sum, v[2], v[3], 1e-5);
                            return new double[][] {
                                Oracle.addRow(r, sum, rounded(normed, d, r)), sum, normed
                            };
                        },
                        4.0 * rows * width * d.bytes(),
                        9.0 * rows * width)
                // the sum and its own gradient, dy; dx, which is dresidual
                .backward(4.0 * rows * width * d.bytes())
                .cancelling(width <= 2 ? 1 / Math.sqrt(1e-5) : 0);
    }

    // What is stored between two ops is rounded to the dtype in plain arithmetic.
    static OpCase layerNormDropout(String name, DType d, double p, int rows, int width) {
        return new OpCase(
                        name,
                        Set.of("layer_norm_forward", "layer_norm_backward"),
                        d,
                        List.of(
                                operand("x", d, 1, true, rows, width),
                                operand("residual", d, 1, true, rows, width),
                                operand("weight", d, 1, true, width),
                                operand("bias", d, 1, true, width)),
                        (ops, t) -> {
                            if (ops.recording()) {
                                return normedAndSum(ops, t, p);
                            }
                            try (Tape tape = ops.device().tape()) {
                                return normedAndSum(tape, t, p).stream()
                                        .map(own -> copy(ops, own))
                                        .toList();
                            }
                        },
                        (r, v) -> {
                            double[] x = rounded(Oracle.dropout(r, v[0], p, 0, 0, 0), d, r);
                            double[] sum = rounded(Oracle.addRow(r, x, v[1]), d, r);
                            return new double[][] {Oracle.layerNorm(r, sum, v[2], v[3], 1e-5), sum};
                        },
                        4.0 * rows * width * d.bytes(),
                        10.0 * rows * width)
                // the sum, dy; dx and dresidual
                .backward(4.0 * rows * width * d.bytes())
                .cancelling(width <= 2 ? 1 / Math.sqrt(1e-5) : 0);
    }

    // Through the host, so that the case needs no other op.
    private static Tensor copy(Ops ops, Tensor x) {
        Tensor copy = ops.empty(x.dtype(), x.shape());
        copy.write(x.toFloats());
        return copy;
    }

    private static List<Tensor> normedAndSum(Ops ops, List<Tensor> t, double p) {
        var out = ops.layerNorm(t.get(0), t.get(1), t.get(2), t.get(3), 1e-5, p);
        return List.of(out.normed(), out.sum());
    }

    private static double[] rounded(double[] x, DType d, DoubleUnaryOperator r) {
        return exact(r) ? x : Arrays.stream(x).map(v -> OpCase.rounded(v, d)).toArray();
    }

    private static boolean exact(DoubleUnaryOperator r) {
        return r.applyAsDouble(0.1) == 0.1;
    }

    static OpCase embedding(
            String name, DType d, int batch, int time, int v, int p, int width, boolean start) {
        List<Operand> operands = new ArrayList<>();
        operands.add(new Operand("ids", DType.I32, Source.below(v), false, batch, time));
        operands.add(operand("table", d, 1, true, v, width));
        if (p > 0) {
            operands.add(operand("positions", d, 1, true, p, width));
        }
        if (start) {
            operands.add(new Operand("start", DType.I32, Source.below(p - time + 1), false, batch));
        }
        return new OpCase(
                        name,
                        Set.of("embedding_forward", "embedding_backward"),
                        d,
                        operands,
                        (ops, t) ->
                                List.of(
                                        p == 0
                                                ? ops.embedding(t.get(0), t.get(1))
                                                : ops.embedding(
                                                        t.get(0),
                                                        t.get(1),
                                                        t.get(2),
                                                        start ? t.get(3) : null)),
                        (r, in) ->
                                new double[][] {
                                    Oracle.embedding(
                                            r,
                                            in[0],
                                            time,
                                            in[1],
                                            p == 0 ? new double[0] : in[2],
                                            start ? in[3] : new double[0],
                                            width)
                                },
                        (p == 0 ? 2.0 : 3.0) * batch * time * width * d.bytes(),
                        (double) batch * time * width)
                // dout; all of dtable and dpositions, which are zero where no token is
                .backward(((double) batch * time + v + p) * width * d.bytes());
    }

    private static OpCase attention(
            String name,
            DType d,
            int b,
            int h,
            int kv,
            int tq,
            int tk,
            int width,
            boolean causal,
            int @Nullable [] lengths) {
        Attention.Options options = Attention.Options.DEFAULT;
        return attention(name, d, b, h, kv, tq, tk, width, causal, lengths, options);
    }

    static OpCase attention(
            String name,
            DType d,
            int b,
            int h,
            int kv,
            int tq,
            int tk,
            int width,
            boolean causal,
            int @Nullable [] lengths,
            Attention.Options options) {
        List<Operand> operands = new ArrayList<>();
        operands.add(operand("q", d, 1, true, b, h, tq, width));
        operands.add(operand("k", d, 1, true, b, kv, tk, width));
        operands.add(operand("v", d, 1, true, b, kv, tk, width));
        int[] seen = new int[b];
        int[] diagonal = new int[b];
        Arrays.fill(seen, tk);
        Arrays.fill(diagonal, tk - tq);
        if (lengths != null) {
            System.arraycopy(lengths, 0, seen, 0, b);
            operands.add(new Operand("lengths", DType.I32, (_, index) -> lengths[index], false, b));
        }
        double pairs = causal ? tq * (tk - (tq - 1) / 2.0) : (double) tq * tk;
        return new OpCase(
                name,
                Set.of("attention_forward", "attention_backward"),
                d,
                operands,
                (ops, t) -> {
                    Mask mask =
                            lengths == null
                                    ? causal ? Mask.CAUSAL : Mask.NONE
                                    : causal ? Mask.causal(t.get(3)) : Mask.lengths(t.get(3));
                    return List.of(ops.attention(t.get(0), t.get(1), t.get(2), mask, options));
                },
                (r, v) ->
                        new double[][] {
                            Oracle.attention(
                                    r,
                                    v[0],
                                    v[1],
                                    v[2],
                                    b,
                                    h,
                                    kv,
                                    tq,
                                    tk,
                                    width,
                                    causal,
                                    diagonal,
                                    seen,
                                    1 / Math.sqrt(width))
                        },
                2.0 * b * (h * tq + kv * tk) * width * d.bytes(),
                4.0 * b * h * pairs * width);
    }

    /** Attention as GPT-2 takes it: q, k and v are views of one projection [B, T, 3, H, D]. */
    static OpCase packed(String name, DType d, int b, int t, int h, int width) {
        return new OpCase(
                name,
                Set.of("attention_forward", "attention_backward", "copy"),
                d,
                List.of(operand("qkv", d, 1, true, b, t, 3L * h * width)),
                (ops, in) -> {
                    // a copy, so that the packed tensor is an intermediate and not a leaf
                    Tensor qkv = ops.add(in.getFirst(), ops.zeros(d, b, t, 3L * h * width));
                    Tensor heads = qkv.view(b, t, 3, h, width);
                    Tensor out =
                            ops.attention(
                                    heads.select(2, 0).permute(0, 2, 1, 3),
                                    heads.select(2, 1).permute(0, 2, 1, 3),
                                    heads.select(2, 2).permute(0, 2, 1, 3),
                                    Mask.CAUSAL);
                    return List.of(out.permute(0, 2, 1, 3).view(b, t, (long) h * width));
                },
                (r, in) -> {
                    double[][] parts = new double[3][];
                    double[] sorted = permute(in[0], new long[] {b, t, 3, h, width}, 2, 0, 3, 1, 4);
                    int n = sorted.length / 3;
                    for (int i = 0; i < 3; i++) {
                        parts[i] = Arrays.copyOfRange(sorted, i * n, (i + 1) * n);
                    }
                    int[] seen = new int[b];
                    Arrays.fill(seen, t);
                    double[] out =
                            Oracle.attention(
                                    r,
                                    parts[0],
                                    parts[1],
                                    parts[2],
                                    b,
                                    h,
                                    h,
                                    t,
                                    t,
                                    width,
                                    true,
                                    new int[b],
                                    seen,
                                    1 / Math.sqrt(width));
                    return new double[][] {permute(out, new long[] {b, h, t, width}, 0, 2, 1, 3)};
                },
                4.0 * b * t * h * width * d.bytes(),
                2.0 * b * h * t * t * width);
    }

    /** Sequences packed into one row of tq queries and tk keys. */
    static OpCase sequences(
            String name,
            DType d,
            int h,
            int kv,
            int width,
            boolean causal,
            boolean dqAtomic,
            int[] qStarts,
            int[] kStarts,
            int tq,
            int tk) {
        int last = qStarts.length - 1;
        return new OpCase(
                name,
                Set.of("attention_forward", "attention_backward"),
                d,
                List.of(
                        operand("q", d, 1, true, 1, h, tq, width),
                        operand("k", d, 1, true, 1, kv, tk, width),
                        operand("v", d, 1, true, 1, kv, tk, width),
                        starts("q_starts", qStarts),
                        starts("k_starts", kStarts)),
                (ops, t) ->
                        List.of(
                                ops.attention(
                                        t.get(0),
                                        t.get(1),
                                        t.get(2),
                                        causal
                                                ? Mask.causalPacked(t.get(3), t.get(4))
                                                : Mask.packed(t.get(3), t.get(4)),
                                        new Attention.Options(0, dqAtomic))),
                (r, in) -> {
                    double[] out = new double[h * tq * width];
                    for (int s = 0; s < last; s++) {
                        int queries = qStarts[s + 1] - qStarts[s];
                        int keys = kStarts[s + 1] - kStarts[s];
                        double[] part =
                                Oracle.attention(
                                        r,
                                        rows(in[0], h, width, qStarts[s], queries),
                                        rows(in[1], kv, width, kStarts[s], keys),
                                        rows(in[2], kv, width, kStarts[s], keys),
                                        1,
                                        h,
                                        kv,
                                        queries,
                                        keys,
                                        width,
                                        causal,
                                        new int[] {keys - queries},
                                        new int[] {keys},
                                        1 / Math.sqrt(width));
                        int n = queries * width;
                        for (int head = 0; head < h; head++) {
                            System.arraycopy(
                                    part, head * n, out, (head * tq + qStarts[s]) * width, n);
                        }
                    }
                    return new double[][] {out};
                },
                2.0 * (h * tq + kv * tk) * width * d.bytes(),
                4.0 * h * tq * tk * width / last);
    }

    private static Operand starts(String name, int[] starts) {
        return new Operand(name, DType.I32, (_, index) -> starts[index], false, starts.length);
    }

    /** Rows first .. first + count - 1 of each head of x [heads, rows, width]. */
    private static double[] rows(double[] x, int heads, int width, int first, int count) {
        double[] part = new double[heads * count * width];
        int rows = x.length / heads / width;
        for (int head = 0; head < heads; head++) {
            System.arraycopy(
                    x, (head * rows + first) * width, part, head * count * width, count * width);
        }
        return part;
    }

    /**
     * Append and attend over pages of `slots`, in an order that is not the natural one.
     *
     * @param held tokens that the rows have in their caches before, over and over
     */
    static OpCase decode(
            String name,
            DType d,
            int b,
            int h,
            int kv,
            int t,
            int pages,
            int slots,
            int width,
            int... held) {
        int total = pages * b;
        long[] pool = {total, kv, slots, width};
        int most = Arrays.stream(held).max().orElseThrow();
        int tk = most + t;
        return new OpCase(
                name,
                Set.of("kv_append", "attention_decode"),
                d,
                List.of(
                        operand("q", d, 1, false, b, h, t, width),
                        operand("k", d, 1, false, b, kv, tk, width),
                        operand("v", d, 1, false, b, kv, tk, width),
                        new Operand(
                                "table",
                                DType.I32,
                                // pages of the rows interleaved, last one first
                                (_, i) -> total - 1 - (i % pages * b + i / pages),
                                false,
                                b,
                                pages),
                        new Operand("held", DType.I32, (_, i) -> held[i % held.length], false, b),
                        new Operand("none", DType.I32, (_, _) -> 0, false, b)),
                (ops, in) -> {
                    Tensor k = ops.zeros(d, pool);
                    Tensor v = ops.zeros(d, pool);
                    Tensor keys = in.get(1);
                    Tensor values = in.get(2);
                    Tensor table = in.get(3);
                    if (most > 0) {
                        // what is behind a row's own tokens is not seen, or written again
                        ops.kvAppend(
                                k,
                                v,
                                keys.slice(2, 0, most),
                                values.slice(2, 0, most),
                                table,
                                in.get(5));
                    }
                    ops.kvAppend(
                            k,
                            v,
                            keys.slice(2, most, tk),
                            values.slice(2, most, tk),
                            table,
                            in.get(4));
                    return List.of(ops.attentionDecode(in.get(0), k, v, table, in.get(4), 0));
                },
                (r, in) -> {
                    int[] diagonal = new int[b];
                    int[] seen = new int[b];
                    double[] keys = in[1].clone();
                    double[] values = in[2].clone();
                    for (int row = 0; row < b; row++) {
                        diagonal[row] = held[row % held.length];
                        seen[row] = diagonal[row] + t;
                        for (int head = row * kv; head < (row + 1) * kv; head++) {
                            int from = (head * tk + most) * width;
                            int to = (head * tk + diagonal[row]) * width;
                            System.arraycopy(in[1], from, keys, to, t * width);
                            System.arraycopy(in[2], from, values, to, t * width);
                        }
                    }
                    return new double[][] {
                        Oracle.attention(
                                r,
                                in[0],
                                keys,
                                values,
                                b,
                                h,
                                kv,
                                t,
                                tk,
                                width,
                                true,
                                diagonal,
                                seen,
                                1 / Math.sqrt(width))
                    };
                },
                2.0 * b * kv * tk * width * d.bytes(),
                4.0 * b * h * t * tk * width);
    }

    static OpCase crossEntropy(
            String name, DType d, int rows, int vocabulary, double smoothing, double factor) {
        return new OpCase(
                name,
                Set.of("cross_entropy"),
                d,
                List.of(
                        operand("logits", d, factor, true, rows, vocabulary),
                        new Operand(
                                "targets",
                                DType.I32,
                                (random, i) -> i % 5 == 3 ? -100 : random.nextInt(vocabulary),
                                false,
                                rows),
                        new Operand("factor", DType.F32, Source.of(0.25), false)),
                (ops, in) ->
                        List.of(
                                ops.crossEntropy(
                                        in.get(0),
                                        in.get(1),
                                        new CrossEntropy.Options(-100, smoothing),
                                        in.get(2)),
                                CrossEntropy.rows(
                                        ops,
                                        in.get(0),
                                        in.get(1),
                                        new CrossEntropy.Options(-100, smoothing))),
                (r, in) -> {
                    double[] losses = Oracle.crossEntropy(r, in[0], in[1], smoothing, -100);
                    return new double[][] {
                        {r.applyAsDouble(in[2][0] * Oracle.sum(r, losses))}, losses
                    };
                },
                2.0 * rows * vocabulary * d.bytes(),
                6.0 * rows * vocabulary);
    }

    private static OpCase adamw(String name, long step, long n) {
        AdamW.Options options = new AdamW.Options(0.9, 0.99, 1e-8);
        return new OpCase(
                name,
                Set.of("adamw"),
                DType.F32,
                List.of(
                        operand("weight", DType.F32, 1, false, n),
                        operand("gradient", DType.F32, 0.1, false, n),
                        operand("m", DType.F32, 0.1, false, n),
                        new Operand(
                                "v",
                                DType.F32,
                                (random, _) -> 0.01 * random.nextDouble(),
                                false,
                                n),
                        new Operand("rate", DType.F32, Source.of(0.01f), false),
                        new Operand("step", DType.I64, Source.of((double) step), false),
                        new Operand("clip", DType.F32, Source.of(0.5), false)),
                (ops, in) -> {
                    AdamW.Entry entry =
                            new AdamW.Entry(in.get(0), in.get(1), in.get(2), in.get(3), null);
                    ops.adamw(
                            options,
                            in.get(4),
                            in.get(5),
                            in.get(6),
                            new AdamW.Group(List.of(entry), 0.1));
                    return List.of(in.get(0), in.get(2), in.get(3));
                },
                (r, in) ->
                        Oracle.adamw(
                                r, in[0], in[1], in[2], in[3], in[4][0], step, in[6][0], options,
                                0.1f),
                28.0 * n,
                12.0 * n);
    }

    /**
     * @param last of the last tensor, times a normal number: its last element
     */
    private static OpCase unscale(String name, DType d, int tensors, long n, double last) {
        List<Operand> operands = new ArrayList<>();
        operands.add(new Operand("inverse scale", DType.F32, Source.of(0x1p-10f), false));
        for (int i = 0; i < tensors; i++) {
            boolean ends = i == tensors - 1;
            Source normal = Source.normal(1000);
            operands.add(
                    new Operand(
                            "g" + i,
                            d,
                            (random, at) ->
                                    (ends && at == n - 1 ? last : 1) * normal.next(random, at),
                            false,
                            n));
        }
        return new OpCase(
                name,
                Set.of("unscale"),
                d,
                operands,
                (ops, in) -> {
                    List<Tensor> results = new ArrayList<>(in.subList(1, in.size()));
                    results.add(ops.unscale(in.subList(1, in.size()), in.getFirst()));
                    return results;
                },
                (r, in) -> {
                    double[][] results = new double[tensors + 1][];
                    double found = 0;
                    for (int i = 0; i < tensors; i++) {
                        results[i] = new double[in[i + 1].length];
                        for (int j = 0; j < results[i].length; j++) {
                            results[i][j] = r.applyAsDouble(in[i + 1][j] * in[0][0]);
                            found = Double.isFinite(in[i + 1][j]) ? found : 1;
                        }
                    }
                    results[tensors] = new double[] {found};
                    return results;
                },
                2.0 * tensors * n * d.bytes(),
                (double) tensors * n);
    }

    private static OpCase globalNorm(String name, int tensors, long n) {
        List<Operand> operands = new ArrayList<>();
        for (int i = 0; i < tensors; i++) {
            operands.add(operand("g" + i, DType.F32, 1, false, n));
        }
        return new OpCase(
                name,
                Set.of("global_norm"),
                DType.F32,
                operands,
                (ops, in) -> {
                    GlobalNorm.Norm norm = ops.globalNorm(in, 2);
                    return List.of(norm.norm(), norm.factor());
                },
                (r, in) -> {
                    double norm = Oracle.norm(r, in);
                    return new double[][] {
                        {norm}, {Math.min(1, r.applyAsDouble(2 / r.applyAsDouble(norm + 1e-6)))}
                    };
                },
                4.0 * tensors * n,
                2.0 * tensors * n);
    }
}
