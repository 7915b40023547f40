package dev.gatun.bench.check;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.gatun.bench.Gpt2Training;
import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.GatunException;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import java.io.BufferedReader;
import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.Set;
import java.util.SplittableRandom;
import java.util.function.DoubleSupplier;
import java.util.function.Supplier;
import jcuda.CudaException;

/** The same work by cuBLAS and by PyTorch, in the same minutes on the same GPU. */
final class PeersPart {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int SAMPLES = 7;

    private PeersPart() {}

    static void run(Options options, Device device) throws IOException, InterruptedException {
        if (options.kind().equals("sim")) {
            Speech.notRun("the simulator has no peers");
            return;
        }
        TimingsPart.Ceiling ceiling = TimingsPart.Ceiling.of(options, device);
        if (options.kind().equals("cpu")) {
            Speech.notRun("cuBLAS, JCuda and JCublas are no peers of cpu");
            pytorch(options, device, ceiling);
            return;
        }
        jcuda(device);
        if ("matmul".startsWith(options.only()) || options.only().startsWith("matmul")) {
            cublas(device, ceiling);
            jcublas(device);
        }
        pytorch(options, device, ceiling);
        Speech.say("Just after: " + Facts.clocks());
    }

    private static void cublas(Device device, TimingsPart.Ceiling ceiling) {
        try (Cuda cuda = new Cuda()) {
            String found = cuda.openCublas();
            if (!cuda.hasCublas()) {
                Speech.notRun("cuBLAS: " + found);
                return;
            }
            Speech.say("cuBLAS from " + found);
            Speech.say("");
            Speech.say(
                    "| n x n x n | Gatun TFLOP/s | cuBLAS TFLOP/s | ratio | largest difference |");
            Speech.say("|---|---|---|---|---|");
            for (int n : List.of(4096, 8192)) {
                for (DType d : List.of(DType.BF16, DType.F32)) {
                    product(device, cuda, ceiling, n, d);
                }
            }
            Speech.say("");
        } catch (IllegalArgumentException | IllegalStateException e) {
            Speech.notRun("cuBLAS: " + Speech.sentence(e));
        }
    }

    private static void jcuda(Device device) {
        try {
            JCudaPeer.checkInterop(device);
            Speech.say("JCuda: its memory as a tensor and a tensor as its pointer: right.");
        } catch (LinkageError | CudaException e) {
            Speech.notRun("JCuda: " + Speech.sentence(e));
        } catch (IllegalStateException | GatunException e) {
            Speech.wrong("JCuda: " + Speech.sentence(e));
        }
        Speech.say("");
    }

    private static void jcublas(Device device) {
        int n = 4096;
        SplittableRandom random = new SplittableRandom(n);
        try (Cuda cuda = new Cuda();
                JCudaPeer peer = new JCudaPeer();
                Tensor a = Workload.random(device, DType.BF16, random, n, n);
                Tensor b = Workload.random(device, DType.BF16, random, n, n);
                Tensor c = Tensor.empty(device, DType.BF16, Purpose.OTHER, n, n)) {
            device.await(); // cuBLAS is on another stream
            double millis = cuda.median(5, () -> peer.gemm(c, a, b, n, true));
            double tflops = 2.0 * n * n * n / millis / 1e9;
            Speech.say(
                    "JCublas %d bf16: %.1f TFLOP/s, largest difference from ours %.2g"
                            .formatted(n, tflops, difference(device, a, b, c)));
            Speech.figure("matmul bf16 4096 by JCublas", Map.of("tflops", tflops));
        } catch (LinkageError | CudaException e) {
            Speech.notRun("JCublas: " + Speech.sentence(e));
        }
        Speech.say("");
    }

    private static void product(
            Device device, Cuda cuda, TimingsPart.Ceiling ceiling, int n, DType d) {
        SplittableRandom random = new SplittableRandom(n);
        try (Tensor a = Workload.random(device, d, random, n, n);
                Tensor b = Workload.random(device, d, random, n, n);
                Tensor c = Tensor.empty(device, d, Purpose.OTHER, n, n)) {
            device.await(); // cuBLAS is on another stream
            double peer =
                    cuda.gemmMillis(
                            c.deviceAddress(),
                            a.deviceAddress(),
                            b.deviceAddress(),
                            n,
                            d == DType.BF16);
            String ours = "not on this device";
            String ratio = "";
            String difference = "";
            double flops = 2.0 * n * n * n;
            Map<String, Object> figure = new LinkedHashMap<>();
            figure.put("cublasTflops", flops / peer / 1e9);
            try {
                double millis = Workload.matmul(d, n).millis(device, ceiling.cacheBytes());
                // once more, so that neither has only the warmer GPU
                peer =
                        (peer
                                        + cuda.gemmMillis(
                                                c.deviceAddress(),
                                                a.deviceAddress(),
                                                b.deviceAddress(),
                                                n,
                                                d == DType.BF16))
                                / 2;
                ours = "%.1f".formatted(flops / millis / 1e9);
                ratio = "%.2f".formatted(peer / millis);
                difference = "%.2g".formatted(difference(device, a, b, c));
                figure.put("cublasTflops", flops / peer / 1e9);
                figure.put("tflops", flops / millis / 1e9);
            } catch (GatunException e) {
                if (e.status() != GatunException.Status.UNSUPPORTED) {
                    throw e;
                }
            }
            Speech.say(
                    "| %d %s | %s | %.1f | %s | %s |"
                            .formatted(n, d, ours, flops / peer / 1e9, ratio, difference));
            Speech.figure("matmul %s %d beside cuBLAS".formatted(d, n), Map.copyOf(figure));
        }
    }

    /** Of our product from cuBLAS's, over the size of its elements, which is sqrt(n). */
    private static double difference(Device device, Tensor a, Tensor b, Tensor peer) {
        try (Ops ops = device.ops()) {
            float[] had = ops.matmul(a, b).toFloats();
            float[] wanted = peer.toFloats();
            double largest = 0;
            for (int i = 0; i < had.length; i++) {
                largest = Math.max(largest, Math.abs(had[i] - wanted[i]));
            }
            double relative = largest / Math.sqrt(a.size(0));
            // bf16 keeps 8 bits of elements of up to six standard deviations
            double limit = a.dtype() == DType.BF16 ? 6 * 0x1p-7 : 1e-3;
            if (!(relative <= limit)) {
                Speech.wrong(
                        "matmul %s %d differs from cuBLAS by %.3g of sqrt(n), at most %.3g can be"
                                .formatted(a.dtype(), a.size(0), relative, limit));
            }
            return relative;
        }
    }

    private static void pytorch(Options options, Device device, TimingsPart.Ceiling ceiling)
            throws IOException, InterruptedException {
        Optional<String> torch =
                Facts.output("python3", "-c", "import torch; print(torch.__version__)");
        if (torch.isEmpty()) {
            Speech.notRun("PyTorch: python3 has no torch");
            return;
        }
        Speech.say("PyTorch %s".formatted(torch.get().strip()));
        Speech.say("");
        Speech.say("| op | Gatun µs | PyTorch µs | ratio |");
        Speech.say("|---|---|---|---|");
        try (PyTorch peer = new PyTorch(options, ceiling)) {
            for (Workload work : Workload.all(options.kind())) {
                if (work.op().startsWith(options.only())) {
                    beside(
                            peer,
                            work.name(),
                            () -> {
                                Workload.Sampler ours =
                                        work.new Sampler(device, ceiling.cacheBytes());
                                return new Ours(() -> ours.millis() * 1e3, ours::close);
                            });
                }
            }
            if (options.only().isEmpty()) {
                boolean gpu = options.kind().equals("cuda");
                training(peer, device, gpu ? 8 : 2, gpu ? 1024 : 64);
            }
            Speech.say("");
            peer.missing.forEach(Speech::notRun);
        } catch (IOException e) {
            Speech.say("");
            Speech.notRun("PyTorch, from here on: " + Speech.sentence(e));
        }
        Speech.say("");
    }

    private static void training(PyTorch peer, Device device, int batch, int time)
            throws IOException {
        beside(
                peer,
                "gpt2-124m training f32 B=%d T=%d".formatted(batch, time),
                () -> {
                    var ours =
                            new Gpt2Training(
                                    device, Gpt2Training.GPT2_124M, DType.F32, batch, time, 1);
                    ours.step();
                    ours.step();
                    return new Ours(
                            () -> {
                                long begun = System.nanoTime();
                                ours.step(); // reads the loss, so it waits
                                return (System.nanoTime() - begun) / 1e3;
                            },
                            ours::close);
                });
    }

    /** Microseconds of one sample of ours, and what it holds. */
    private record Ours(DoubleSupplier micros, Runnable closing) implements AutoCloseable {
        @Override
        public void close() {
            closing.run();
        }
    }

    /** A row: samples in turn, so that what slows the machine down slows both down. */
    private static void beside(PyTorch peer, String name, Supplier<Ours> make) throws IOException {
        if (peer.micros(name).isEmpty()) { // its operands are there from now on
            return;
        }
        double[] theirs = new double[SAMPLES];
        double[] micros = new double[SAMPLES];
        try (Ours ours = make.get()) {
            for (int i = 0; i < SAMPLES; i++) {
                micros[i] = ours.micros().getAsDouble();
                theirs[i] = peer.micros(name).orElse(Double.NaN);
            }
        } catch (GatunException e) {
            if (e.status() != GatunException.Status.UNSUPPORTED) {
                throw e;
            }
            double had = peer.micros(name).orElse(Double.NaN);
            Speech.say("| %s | not on this device | %,.1f | |".formatted(name, had));
            return;
        }
        double a = Workload.median(micros);
        double b = Workload.median(theirs);
        Speech.say("| %s | %,.1f | %,.1f | %.2f |".formatted(name, a, b, b / a));
        Speech.figure(name + " beside PyTorch", Map.of("micros", a, "pytorchMicros", b));
    }

    /** The script that answers with a sample of the op that it is asked for. */
    private static final class PyTorch implements AutoCloseable {
        private final Process process;
        private final BufferedReader answers;
        private final Set<String> missing = new LinkedHashSet<>(); // for behind the table

        PyTorch(Options options, TimingsPart.Ceiling ceiling) throws IOException {
            process =
                    new ProcessBuilder(
                                    "python3",
                                    options.home().resolve("bench/peers/pytorch_gpu.py").toString(),
                                    "--device",
                                    options.kind(),
                                    "--cache",
                                    String.valueOf(ceiling.cacheBytes()))
                            .redirectError(ProcessBuilder.Redirect.DISCARD) // warnings
                            .start();
            answers = process.inputReader();
        }

        /** Empty where it has no such op, or no room for it. */
        OptionalDouble micros(String name) throws IOException {
            process.outputWriter().write(name + "\n");
            process.outputWriter().flush();
            String line = answers.readLine();
            if (line == null) {
                throw new IOException("it ended at " + name);
            }
            JsonNode answer = JSON.readTree(line);
            if (answer.has("micros")) {
                return OptionalDouble.of(answer.get("micros").asDouble());
            }
            missing.add("PyTorch: %s: %s".formatted(name, answer.get("missing").asText()));
            return OptionalDouble.empty();
        }

        @Override
        public void close() {
            process.destroy();
        }
    }
}
