package dev.gatun.bench.check;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.GatunException;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import java.io.IOException;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SplittableRandom;
import jcuda.CudaException;

/** The same work by cuBLAS and by PyTorch, in the same minutes on the same GPU. */
final class PeersPart {
    private static final ObjectMapper JSON = new ObjectMapper();

    private PeersPart() {}

    static void run(Options options, Device device) throws IOException, InterruptedException {
        if (!options.kind().equals("cuda")) {
            Speech.notRun("cuBLAS and PyTorch on a GPU are no peers of " + options.device());
            return;
        }
        TimingsPart.Ceiling ceiling = TimingsPart.Ceiling.of(options, device);
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
        Path script = options.home().resolve("bench/peers/pytorch_gpu.py");
        Map<String, JsonNode> peer = new LinkedHashMap<>();
        StringBuilder rest = new StringBuilder();
        Command.Ended ended =
                Command.of("python3", script.toString(), "--only", options.only())
                        .run(
                                150,
                                line -> {
                                    try {
                                        if (line.startsWith("{")) {
                                            JsonNode node = JSON.readTree(line);
                                            peer.put(node.get("name").asText(), node);
                                        } else {
                                            rest.append(line).append('\n');
                                        }
                                    } catch (IOException e) {
                                        rest.append(line).append('\n');
                                    }
                                });
        if (ended.code() != 0) {
            Speech.notRun(
                    "PyTorch, from here on: %s: %s"
                            .formatted(ended.sentence(), rest.toString().strip()));
        }
        Speech.say("PyTorch %s".formatted(torch.get().strip()));
        Speech.say("");
        Speech.say("| op | Gatun µs | PyTorch µs | ratio |");
        Speech.say("|---|---|---|---|");
        for (Workload work : Workload.all("cuda")) {
            JsonNode node = peer.remove(work.name());
            if (node == null) {
                continue;
            }
            double theirs = node.get("micros").asDouble();
            try {
                double ours = work.millis(device, ceiling.cacheBytes()) * 1e3;
                Speech.say(
                        "| %s | %,.1f | %,.1f | %.2f |"
                                .formatted(work.name(), ours, theirs, theirs / ours));
                Speech.figure(
                        work.name() + " beside PyTorch",
                        Map.of("micros", ours, "pytorchMicros", theirs));
            } catch (GatunException e) {
                if (e.status() != GatunException.Status.UNSUPPORTED) {
                    throw e;
                }
                Speech.say("| %s | not on this device | %,.1f | |".formatted(work.name(), theirs));
            }
        }
        peer.forEach((name, node) -> {
            Speech.say("| %s | | %,.1f | |".formatted(name, node.get("micros").asDouble()));
        });
        Speech.say("");
    }
}
