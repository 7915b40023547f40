package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assertions.fail;

import dev.gatun.kernels.Fixtures.Case;
import dev.gatun.kernels.Fixtures.Values;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * The ops, on the cpu and as the GPU's kernels, against values of PyTorch in float64. Cases are
 * found in the fixtures' folder; what is not supported yet is printed as SKIPPED with its reason.
 */
class OpsParityTest {
    // the tolerances that the fixtures state for single operations
    private static final double ABSOLUTE = 2e-6;
    private static final double RELATIVE = 1e-5;
    private static final double RELATIVE_OF_SUMS = 1e-4;
    // and for gradients, times the largest of the tensor
    private static final double RELATIVE_OF_LARGEST = 1e-5;

    static Stream<Arguments> cases() {
        List<Case> all = Fixtures.ops();
        if (all.isEmpty()) {
            System.out.println("SKIPPED fixture ops: no fixtures folder");
        }
        return Stream.of("cpu", "sim")
                .flatMap(device -> all.stream().map(c -> Arguments.of(device, c)));
    }

    @ParameterizedTest(name = "{0} {1}", allowZeroInvocations = true)
    @MethodSource("cases")
    void agrees(String name, Case c) {
        Optional<String> missing = unsupported(c);
        if (missing.isPresent()) {
            System.out.printf("SKIPPED fixture %s: kind not supported yet: %s%n", c, missing.get());
            Assumptions.abort("kind not supported yet: " + missing.get());
        }
        try (Device device = name.equals("cpu") ? Cpu.open() : Device.open(name);
                Uploads in = new Uploads(device, c)) {
            switch (c.group()) {
                case "attention" -> attention(device, c, in);
                case "norm" -> norm(device, c, in);
                case "activation" -> gelu(device, c, in);
                case "loss" -> crossEntropy(device, c, in);
                case "embedding" -> embedding(device, c, in);
                case "linear" -> linear(device, c, in);
                case "optimizer" -> optimizer(device, c, in);
                default -> throw new AssertionError(c.group());
            }
        }
    }

    /** What of a case this library does not have yet. */
    private static Optional<String> unsupported(Case c) {
        String name = c.name();
        return Optional.ofNullable(
                switch (c.group()) {
                    case "attention" ->
                            c.arguments().has("window")
                                    ? "attention window"
                                    : c.arguments().has("bias")
                                            ? "attention bias"
                                            : c.arguments().has("alibi")
                                                    ? "attention ALiBi"
                                                    : c.arguments().has("softcap")
                                                            ? "attention soft cap"
                                                            : c.arguments().has("left")
                                                                    ? "attention left padding"
                                                                    : null;
                    case "norm" -> name.startsWith("layer_norm") ? null : "rms_norm";
                    case "activation" ->
                            name.equals("gelu_erf") || name.equals("gelu_tanh")
                                    ? null
                                    : name.replaceAll("_(large|one)$", "");
                    case "loss" -> name.startsWith("cross_entropy") ? null : kind(name);
                    case "embedding" ->
                            c.arguments().has("padding_idx") ? "embedding padding_idx" : null;
                    case "linear" -> null;
                    case "optimizer" ->
                            c.arguments().has("amsgrad")
                                    ? "adamw amsgrad"
                                    : name.startsWith("adamw") || name.startsWith("clip")
                                            ? null
                                            : kind(name);
                    default -> c.group();
                });
    }

    // adafactor_matrix and adafactor_vector are one kind
    private static String kind(String name) {
        return name.startsWith("kl_") || name.startsWith("bce_") || name.startsWith("log_")
                ? name.replaceAll("\\..*", "")
                : name.replaceAll("[_.].*", "");
    }

    private static void attention(Device device, Case c, Uploads in) {
        Tensor q = in.leaf("q");
        Tensor k = in.leaf("k");
        Tensor v = in.leaf("v");
        boolean causal = c.arguments().path("causal").asBoolean();
        Mask mask = causal ? Mask.CAUSAL : Mask.NONE;
        if (c.arguments().has("lengths")) {
            List<Integer> lengths = new ArrayList<>();
            c.arguments().get("lengths").forEach(l -> lengths.add(l.asInt()));
            Tensor visible =
                    in.own(
                            Tensor.of(
                                    device,
                                    lengths.stream().mapToInt(l -> l).toArray(),
                                    lengths.size()));
            mask = causal ? Mask.causal(visible) : Mask.lengths(visible);
        }
        try (Tape tape = device.tape()) {
            Tensor out = tape.attention(q, k, v, mask, c.number("scale", 0));
            near(c, "out", out, RELATIVE);
            tape.backward(out, in.tensor("dout"));
            // dq and dk are scale times differences that cancel where a row sees one key only
            double absolute = ABSOLUTE * Math.max(1, c.number("scale", 0));
            near(c, "dq", q.gradient().orElseThrow(), RELATIVE_OF_SUMS, absolute);
            near(c, "dk", k.gradient().orElseThrow(), RELATIVE_OF_SUMS, absolute);
            near(c, "dv", v.gradient().orElseThrow(), RELATIVE_OF_SUMS);
        }
    }

    private static void norm(Device device, Case c, Uploads in) {
        Tensor x = in.leaf("x");
        Tensor weight = in.leaf("weight");
        Tensor bias = in.leaf("bias");
        try (Tape tape = device.tape()) {
            Tensor y = tape.layerNorm(x, weight, bias, c.number("eps", 0));
            // the GPU's mean is f32, the cpu's double: of a mean far from 0, an ulp is seen in xhat
            double ulp = device.name().startsWith("cpu") ? 0 : ulpOfMeanInXhat(c);
            near(c, "y", y, RELATIVE, ABSOLUTE + ulp * largest(c, "y"));
            tape.backward(y, in.tensor("dy"));
            near(
                    c,
                    "dx",
                    x.gradient().orElseThrow(),
                    RELATIVE_OF_SUMS,
                    ABSOLUTE + ulp * largest(c, "dx"));
            near(
                    c,
                    "dweight",
                    weight.gradient().orElseThrow(),
                    RELATIVE_OF_SUMS,
                    ABSOLUTE + ulp * largest(c, "dweight"));
            near(c, "dbias", bias.gradient().orElseThrow(), RELATIVE_OF_SUMS);
        }
    }

    private static double ulpOfMeanInXhat(Case c) {
        double[] mean = c.tensor("mean").values();
        double[] rstd = c.tensor("rstd").values();
        double ulp = 0;
        for (int row = 0; row < mean.length; row++) {
            ulp = Math.max(ulp, Math.ulp((float) mean[row]) * rstd[row]);
        }
        return ulp;
    }

    private static double largest(Case c, String tensor) {
        return largest(c.tensor(tensor).values());
    }

    private static double largest(double[] values) {
        return Arrays.stream(values).filter(Double::isFinite).map(Math::abs).max().orElse(0);
    }

    private static void gelu(Device device, Case c, Uploads in) {
        Gelu form = c.name().equals("gelu_erf") ? Gelu.ERF : Gelu.TANH;
        Tensor x = in.leaf("x");
        try (Tape tape = device.tape()) {
            Tensor y = tape.gelu(x, form);
            near(c, "y", y, RELATIVE);
            tape.backward(y, in.tensor("dy"));
            near(c, "dx", x.gradient().orElseThrow(), RELATIVE);
        }
    }

    private static void crossEntropy(Device device, Case c, Uploads in) {
        Tensor logits = in.leaf("logits");
        Values labels = c.tensor("labels");
        CrossEntropy.Options options =
                new CrossEntropy.Options(
                        (int) c.number("ignore_index", -100), c.number("label_smoothing", 0));
        String reduction = c.arguments().path("reduction").asText("sum");
        try (Tape tape = device.tape()) {
            Tensor targets = tape.upload(labels.ints(), labels.shape());
            if (reduction.equals("none")) {
                near(c, "loss", CrossEntropy.rows(tape, logits, targets, options), RELATIVE);
                return;
            }
            long counted =
                    Arrays.stream(labels.values()).filter(l -> l != options.ignoreIndex()).count();
            Tensor factor = tape.full(DType.F32, reduction.equals("mean") ? 1.0 / counted : 1);
            Tensor loss = tape.crossEntropy(logits, targets, options, factor);
            near(c, "loss", loss, RELATIVE);
            if (c.has("dlogits")) {
                tape.backward(loss);
                near(c, "dlogits", logits.gradient().orElseThrow(), RELATIVE_OF_SUMS);
            }
        }
    }

    private static void embedding(Device device, Case c, Uploads in) {
        Tensor table = in.leaf("weight");
        Values ids = c.tensor("ids");
        try (Tape tape = device.tape()) {
            Tensor y = tape.embedding(tape.upload(ids.ints(), ids.shape()), table);
            near(c, "y", y, 0);
            tape.backward(y, in.tensor("dy"));
            near(c, "dweight", table.gradient().orElseThrow(), RELATIVE_OF_SUMS);
        }
    }

    private static void linear(Device device, Case c, Uploads in) {
        Tensor x = in.leaf("x");
        Tensor weight = in.leaf("weight");
        Tensor bias = c.has("bias") ? in.leaf("bias") : null;
        try (Tape tape = device.tape()) {
            Tensor y = tape.linearTransposed(x, weight, bias);
            near(c, "y", y, RELATIVE);
            tape.backward(y, in.tensor("dy"));
            near(c, "dx", x.gradient().orElseThrow(), RELATIVE_OF_SUMS);
            near(c, "dweight", weight.gradient().orElseThrow(), RELATIVE_OF_SUMS);
            if (bias != null) {
                near(c, "dbias", bias.gradient().orElseThrow(), RELATIVE_OF_SUMS);
            }
        }
    }

    private static void optimizer(Device device, Case c, Uploads in) {
        try (Ops ops = device.ops()) {
            if (c.name().startsWith("clip")) {
                List<Tensor> gradients = new ArrayList<>();
                for (int i = 0; c.has("grad" + i); i++) {
                    gradients.add(in.tensor("grad" + i));
                }
                GlobalNorm.Norm norm = ops.globalNorm(gradients, c.number("max_norm", 0));
                near(c, "norm", norm.norm(), RELATIVE);
                double factor = norm.factor().item();
                for (int i = 0; i < gradients.size(); i++) {
                    double[] clipped = c.tensor("clipped" + i).values();
                    float[] gradient = gradients.get(i).toFloats();
                    for (int j = 0; j < clipped.length; j++) {
                        assertThat(gradient[j] * factor)
                                .as("%s clipped%d[%d]", c, i, j)
                                .isCloseTo(
                                        clipped[j],
                                        Offset.offset(ABSOLUTE + RELATIVE * Math.abs(clipped[j])));
                    }
                }
                return;
            }
            adamw(ops, c, in);
        }
    }

    private static void adamw(Ops ops, Case c, Uploads in) {
        Tensor weight = in.tensor("initial");
        Values gradients = c.tensor("grads");
        Values after = c.tensor("after_step");
        int n = (int) weight.elements();
        Tensor m = ops.zeros(DType.F32, n);
        Tensor v = ops.zeros(DType.F32, n);
        Tensor rate = ops.full(DType.F32, c.number("lr", 0));
        Tensor step = ops.zeros(DType.I64);
        var betas = c.arguments().path("betas");
        AdamW.Options options =
                new AdamW.Options(
                        betas.path(0).asDouble(0.9),
                        betas.path(1).asDouble(0.999),
                        c.number("eps", 1e-8));
        for (int i = 0; i < gradients.shape()[0]; i++) {
            float[] gradient = Arrays.copyOfRange(gradients.floats(), i * n, (i + 1) * n);
            AdamW.Entry entry = new AdamW.Entry(weight, ops.upload(gradient, n), m, v, null);
            ops.increment(step, 1);
            ops.adamw(
                    options,
                    rate,
                    step,
                    null,
                    new AdamW.Group(List.of(entry), c.number("weight_decay", 0.01)));
            double[] wanted = Arrays.copyOfRange(after.values(), i * n, (i + 1) * n);
            near(c + " after step " + (i + 1), weight.toFloats(), wanted, RELATIVE, ABSOLUTE);
        }
        near(c, "state_exp_avg", m, RELATIVE);
        near(c, "state_exp_avg_sq", v, RELATIVE);
    }

    private static void near(Case c, String tensor, Tensor had, double relative) {
        near(c, tensor, had, relative, ABSOLUTE);
    }

    private static void near(Case c, String tensor, Tensor had, double relative, double absolute) {
        near(c + " " + tensor, had.toFloats(), c.tensor(tensor).values(), relative, absolute);
    }

    private static void near(
            String what, float[] had, double[] wanted, double relative, double floor) {
        assertThat(had).as(what).hasSize(wanted.length);
        double absolute = floor;
        if (relative == RELATIVE_OF_SUMS) {
            absolute = Math.max(absolute, RELATIVE_OF_LARGEST * largest(wanted));
        }
        for (int i = 0; i < had.length; i++) {
            boolean same =
                    Double.isFinite(wanted[i])
                            ? Math.abs(had[i] - wanted[i])
                                    <= absolute + relative * Math.abs(wanted[i])
                            : Double.compare(had[i], wanted[i]) == 0;
            if (!same) {
                fail("%s[%d]: wanted %s, had %s".formatted(what, i, wanted[i], had[i]));
            }
        }
    }

    /** The tensors of a case on the device. */
    private static final class Uploads implements AutoCloseable {
        private final Device device;
        private final Case source;
        private final List<Tensor> all = new ArrayList<>();

        Uploads(Device device, Case source) {
            this.device = device;
            this.source = source;
        }

        Tensor tensor(String name) {
            Values values = source.tensor(name);
            return own(Tensor.of(device, values.floats(), values.shape()));
        }

        Tensor leaf(String name) {
            return tensor(name).requireGradient();
        }

        Tensor own(Tensor tensor) {
            all.add(tensor);
            return tensor;
        }

        @Override
        public void close() {
            all.forEach(Tensor::close);
        }
    }
}
