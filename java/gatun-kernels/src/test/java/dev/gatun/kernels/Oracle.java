package dev.gatun.kernels;

import java.util.Arrays;
import java.util.function.DoubleUnaryOperator;

/**
 * The ops by their definitions, in plain loops that share nothing with the library. In {@link
 * #EXACT} arithmetic they are the truth; in {@link #FLOAT} they are what a plain f32 computation
 * makes of the same inputs, from which the tolerance comes.
 */
final class Oracle {
    /** float64. */
    static final DoubleUnaryOperator EXACT = x -> x;

    /** Every result is rounded to f32. */
    static final DoubleUnaryOperator FLOAT = x -> (float) x;

    private Oracle() {}

    /** alpha · op(a) · op(b) for batches of matrices; b has one matrix, or one a batch entry. */
    static double[] matmul(
            DoubleUnaryOperator r,
            double[] a,
            double[] b,
            int batch,
            int m,
            int n,
            int k,
            boolean ta,
            boolean tb,
            double alpha) {
        double[] out = new double[batch * m * n];
        boolean one = b.length == k * n;
        for (int z = 0; z < batch; z++) {
            int atA = z * m * k;
            int atB = one ? 0 : z * k * n;
            for (int i = 0; i < m; i++) {
                for (int j = 0; j < n; j++) {
                    double sum = 0;
                    for (int l = 0; l < k; l++) {
                        double x = a[atA + (ta ? l * m + i : i * k + l)];
                        double y = b[atB + (tb ? j * k + l : l * n + j)];
                        sum = r.applyAsDouble(sum + r.applyAsDouble(x * y));
                    }
                    out[(z * m + i) * n + j] = r.applyAsDouble(alpha * sum);
                }
            }
        }
        return out;
    }

    static double[] addRow(DoubleUnaryOperator r, double[] x, double[] row) {
        double[] out = new double[x.length];
        for (int i = 0; i < x.length; i++) {
            out[i] = r.applyAsDouble(x[i] + row[i % row.length]);
        }
        return out;
    }

    static double[] gelu(DoubleUnaryOperator r, double[] x, Gelu form) {
        double[] out = new double[x.length];
        for (int i = 0; i < x.length; i++) {
            out[i] = form == Gelu.ERF ? geluErf(r, x[i]) : geluTanh(r, x[i]);
        }
        return out;
    }

    private static double geluTanh(DoubleUnaryOperator r, double x) {
        double cube = r.applyAsDouble(r.applyAsDouble(x * x) * x);
        double inner = r.applyAsDouble(x + r.applyAsDouble(0.044715 * cube));
        double t = r.applyAsDouble(Math.tanh(r.applyAsDouble(Math.sqrt(2 / Math.PI) * inner)));
        double half = r.applyAsDouble(0.5 * x);
        return half == 0 ? half : r.applyAsDouble(half * r.applyAsDouble(1 + t));
    }

    private static double geluErf(DoubleUnaryOperator r, double x) {
        double half = r.applyAsDouble(0.5 * x);
        return half == 0
                ? half
                : r.applyAsDouble(
                        half * r.applyAsDouble(1 + erf(r.applyAsDouble(x / Math.sqrt(2)))));
    }

    /** The derivative of a GELU. */
    static double geluGradient(DoubleUnaryOperator r, double x, Gelu form) {
        if (form == Gelu.ERF) {
            double density = Math.exp(r.applyAsDouble(-0.5 * x * x)) / Math.sqrt(2 * Math.PI);
            double half = r.applyAsDouble(0.5 * erf(r.applyAsDouble(x / Math.sqrt(2))));
            return r.applyAsDouble(0.5 + half + r.applyAsDouble(x * r.applyAsDouble(density)));
        }
        double root = Math.sqrt(2 / Math.PI);
        double square = r.applyAsDouble(x * x);
        double inner = r.applyAsDouble(root * x * r.applyAsDouble(1 + 0.044715 * square));
        double slope = r.applyAsDouble(root * r.applyAsDouble(1 + 3 * 0.044715 * square));
        double t = r.applyAsDouble(Math.tanh(inner));
        double rest = r.applyAsDouble(1 - r.applyAsDouble(t * t));
        return r.applyAsDouble(0.5 * (1 + t) + r.applyAsDouble(0.5 * x * rest * slope));
    }

    /** The error function: its Taylor series near 0, its continued fraction (Lentz) further out. */
    static double erf(double x) {
        if (Double.isNaN(x)) {
            return x;
        }
        double z = Math.abs(x);
        if (z > 6) {
            return Math.signum(x);
        }
        if (z < 3) {
            double term = x;
            double sum = x;
            for (int n = 1; n < 200 && Math.abs(term) > 1e-20 * Math.abs(sum); n++) {
                term *= -x * x / n;
                sum += term / (2 * n + 1);
            }
            return sum * 2 / Math.sqrt(Math.PI);
        }
        double f = 0;
        for (int n = 200; n > 0; n--) {
            f = n / 2.0 / (z + f);
        }
        return Math.signum(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + f));
    }

    static double[] layerNorm(
            DoubleUnaryOperator r, double[] x, double[] weight, double[] bias, double eps) {
        int d = weight.length;
        double[] out = new double[x.length];
        for (int row = 0; row < x.length / Math.max(1, d); row++) {
            double sum = 0;
            for (int i = 0; i < d; i++) {
                sum = r.applyAsDouble(sum + x[row * d + i]);
            }
            double mean = r.applyAsDouble(sum / d);
            double squares = 0;
            for (int i = 0; i < d; i++) {
                double c = r.applyAsDouble(x[row * d + i] - mean);
                squares = r.applyAsDouble(squares + r.applyAsDouble(c * c));
            }
            double rstd =
                    r.applyAsDouble(
                            1 / Math.sqrt(r.applyAsDouble(r.applyAsDouble(squares / d) + eps)));
            for (int i = 0; i < d; i++) {
                double normed = r.applyAsDouble(r.applyAsDouble(x[row * d + i] - mean) * rstd);
                double scaled = r.applyAsDouble(normed * weight[i]);
                out[row * d + i] = bias.length == 0 ? scaled : r.applyAsDouble(scaled + bias[i]);
            }
        }
        return out;
    }

    static double[] embedding(
            DoubleUnaryOperator r,
            double[] ids,
            int time,
            double[] table,
            double[] positions,
            double[] start,
            int d) {
        double[] out = new double[ids.length * d];
        for (int i = 0; i < ids.length; i++) {
            int first = start.length == 0 ? 0 : (int) start[i / time];
            int at = first + i % time;
            int row = (int) ids[i];
            for (int j = 0; j < d; j++) {
                double x = table[row * d + j];
                out[i * d + j] =
                        positions.length == 0 ? x : r.applyAsDouble(x + positions[at * d + j]);
            }
        }
        return out;
    }

    /**
     * Attention. q [B, H, Tq, D], k and v [B, Hkv, Tk, D]; query i sees keys j &le; i + diagonal[b]
     * (if causal) and j &lt; lengths[b].
     */
    static double[] attention(
            DoubleUnaryOperator r,
            double[] q,
            double[] k,
            double[] v,
            int batch,
            int heads,
            int kvHeads,
            int tq,
            int tk,
            int d,
            boolean causal,
            int[] diagonal,
            int[] lengths,
            double scale) {
        double[] out = new double[batch * heads * tq * d];
        double[] scores = new double[tk];
        for (int b = 0; b < batch; b++) {
            for (int h = 0; h < heads; h++) {
                int kv = b * kvHeads + h / (heads / kvHeads);
                for (int i = 0; i < tq; i++) {
                    int atQ = ((b * heads + h) * tq + i) * d;
                    int seen = lengths[b];
                    if (causal) {
                        seen = Math.min(seen, i + diagonal[b] + 1);
                    }
                    seen = Math.max(0, Math.min(seen, tk));
                    double largest = Double.NEGATIVE_INFINITY;
                    for (int j = 0; j < seen; j++) {
                        double dot = 0;
                        for (int l = 0; l < d; l++) {
                            dot =
                                    r.applyAsDouble(
                                            dot
                                                    + r.applyAsDouble(
                                                            q[atQ + l] * k[(kv * tk + j) * d + l]));
                        }
                        scores[j] = r.applyAsDouble(scale * dot);
                        largest = Math.max(largest, scores[j]);
                    }
                    double sum = 0;
                    for (int j = 0; j < seen; j++) {
                        scores[j] = r.applyAsDouble(Math.exp(r.applyAsDouble(scores[j] - largest)));
                        sum = r.applyAsDouble(sum + scores[j]);
                    }
                    for (int j = 0; j < seen; j++) {
                        double p = r.applyAsDouble(scores[j] / sum);
                        for (int l = 0; l < d; l++) {
                            out[atQ + l] =
                                    r.applyAsDouble(
                                            out[atQ + l]
                                                    + r.applyAsDouble(
                                                            p * v[(kv * tk + j) * d + l]));
                        }
                    }
                }
            }
        }
        return out;
    }

    /** Row losses. */
    static double[] crossEntropy(
            DoubleUnaryOperator r,
            double[] logits,
            double[] targets,
            double smoothing,
            int ignore) {
        int rows = targets.length;
        int vocabulary = rows == 0 ? 0 : logits.length / rows;
        double[] out = new double[rows];
        for (int i = 0; i < rows; i++) {
            if (targets[i] == ignore) {
                continue;
            }
            double largest = Double.NEGATIVE_INFINITY;
            double mean = 0;
            for (int j = 0; j < vocabulary; j++) {
                largest = Math.max(largest, logits[i * vocabulary + j]);
                mean = r.applyAsDouble(mean + logits[i * vocabulary + j]);
            }
            mean = r.applyAsDouble(mean / vocabulary);
            double sum = 0;
            for (int j = 0; j < vocabulary; j++) {
                sum =
                        r.applyAsDouble(
                                sum
                                        + r.applyAsDouble(
                                                Math.exp(
                                                        r.applyAsDouble(
                                                                logits[i * vocabulary + j]
                                                                        - largest))));
            }
            double lse = r.applyAsDouble(largest + r.applyAsDouble(Math.log(sum)));
            double nll = r.applyAsDouble(lse - logits[i * vocabulary + (int) targets[i]]);
            double spread = r.applyAsDouble(lse - mean);
            out[i] = r.applyAsDouble((1 - smoothing) * nll + smoothing * spread);
        }
        return out;
    }

    static double sum(DoubleUnaryOperator r, double[] x) {
        double sum = 0;
        for (double value : x) {
            sum = r.applyAsDouble(sum + value);
        }
        return sum;
    }

    static double norm(DoubleUnaryOperator r, double[]... all) {
        double sum = 0;
        for (double[] x : all) {
            for (double value : x) {
                sum = r.applyAsDouble(sum + r.applyAsDouble(value * value));
            }
        }
        return r.applyAsDouble(Math.sqrt(sum));
    }

    /** One AdamW step; gives the new weight, m and v. */
    static double[][] adamw(
            DoubleUnaryOperator r,
            double[] weight,
            double[] gradient,
            double[] m,
            double[] v,
            double rate,
            long step,
            double clip,
            AdamW.Options o,
            double decay) {
        double[][] out = {weight.clone(), m.clone(), v.clone()};
        double correction1 = 1 - Math.pow(o.beta1(), (double) step);
        double correction2 = 1 - Math.pow(o.beta2(), (double) step);
        for (int i = 0; i < weight.length; i++) {
            double g = r.applyAsDouble(gradient[i] * clip);
            double w =
                    r.applyAsDouble(
                            weight[i] - r.applyAsDouble(r.applyAsDouble(rate * decay) * weight[i]));
            out[1][i] =
                    r.applyAsDouble(
                            r.applyAsDouble(o.beta1() * m[i])
                                    + r.applyAsDouble((1 - o.beta1()) * g));
            out[2][i] =
                    r.applyAsDouble(
                            r.applyAsDouble(o.beta2() * v[i])
                                    + r.applyAsDouble(r.applyAsDouble((1 - o.beta2()) * g) * g));
            double root = r.applyAsDouble(Math.sqrt(r.applyAsDouble(out[2][i] / correction2)));
            double update =
                    r.applyAsDouble(
                            r.applyAsDouble(out[1][i] / correction1)
                                    / r.applyAsDouble(root + o.eps()));
            out[0][i] = r.applyAsDouble(w - r.applyAsDouble(rate * update));
        }
        return out;
    }

    static double[] argmax(double[] logits, int rows) {
        double[] out = new double[rows];
        int vocabulary = logits.length / Math.max(1, rows);
        for (int i = 0; i < rows; i++) {
            int best = -1;
            for (int j = 0; j < vocabulary; j++) {
                double x = logits[i * vocabulary + j];
                if (!Double.isNaN(x) && (best < 0 || x > logits[i * vocabulary + best])) {
                    best = j;
                }
            }
            out[i] = Math.max(0, best);
        }
        return out;
    }

    /** Philox4x32-10 by its definition: the word of one element. */
    static int philox(long seed, int site, int step, int microBatch, long element) {
        int[] c = {
            (int) (element / 4),
            (int) ((element / 4) >>> 32) & 0xffff | site << 16,
            step,
            microBatch
        };
        int k0 = (int) seed;
        int k1 = (int) (seed >>> 32);
        for (int round = 0; round < 10; round++) {
            long a = (c[0] & 0xffffffffL) * 0xD2511F53L;
            long b = (c[2] & 0xffffffffL) * 0xCD9E8D57L;
            c =
                    new int[] {
                        (int) (b >>> 32) ^ c[1] ^ k0, (int) b, (int) (a >>> 32) ^ c[3] ^ k1, (int) a
                    };
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        return c[(int) (element % 4)];
    }

    /** Uniform in [0, 1) from a Philox word: its upper 24 bits. */
    static double uniform(int word) {
        return (word >>> 8) * 0x1p-24;
    }

    static double[] dropout(
            DoubleUnaryOperator r, double[] x, double p, long seed, int site, int microBatch) {
        double[] out = new double[x.length];
        for (int i = 0; i < x.length; i++) {
            boolean kept = uniform(philox(seed, site, 0, microBatch, i)) >= (float) p;
            out[i] = kept ? r.applyAsDouble(x[i] / (1 - p)) : 0;
        }
        return out;
    }

    static double[] concat(double[]... parts) {
        return Arrays.stream(parts).flatMapToDouble(Arrays::stream).toArray();
    }
}
