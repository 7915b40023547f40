package dev.gatun.bench.check;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.gatun.bench.Gpt2Training;
import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.GatunException;
import dev.gatun.transformers.GenerationConfig;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.function.Consumer;

/** A whole model on the device: a tiny GPT-2 as the cpu device has it, then the speed of GPT-2. */
final class ModelPart {
    private static final long SEED = 20_261_125;
    private static final int STEPS = 5;

    private ModelPart() {}

    /** Losses of a few steps, and the tokens that a model then writes. */
    private record Run(double[] losses, List<Integer> tokens) {
        static Run on(Device device, DType dtype) {
            Gpt2Config config = Gpt2Config.of(263, 64, 2, 4, 64);
            try (var training = new Gpt2Training(device, config, dtype, 2, 24, SEED)) {
                double[] losses = new double[STEPS];
                for (int i = 0; i < STEPS; i++) {
                    losses[i] = training.step();
                }
                List<Integer> tokens = new ArrayList<>();
                training.model()
                        .generate(
                                new int[] {5, 6, 7},
                                GenerationConfig.of().greedy().maxNewTokens(16),
                                tokens::add);
                return new Run(losses, tokens);
            }
        }
    }

    static void check(Options options, Device device) throws IOException {
        if (!options.only().isEmpty()) {
            Speech.notRun("only " + options.only() + " was asked for");
            return;
        }
        if (inEachDtype(dtype -> compare(device, dtype))) {
            reference(options, device);
        }
    }

    /** Whether all ops were there; says which one is not. */
    private static boolean inEachDtype(Consumer<DType> work) {
        for (DType dtype : List.of(DType.F32, DType.BF16)) {
            try {
                work.accept(dtype);
            } catch (GatunException e) {
                if (e.status() != GatunException.Status.UNSUPPORTED) {
                    throw e;
                }
                Speech.notRun(
                        "GPT-2 in %s needs an op that is not there yet: %s"
                                .formatted(dtype, Speech.sentence(e)));
                return false;
            }
        }
        return true;
    }

    private static void compare(Device device, DType dtype) {
        Run had = Run.on(device, dtype);
        Run wanted;
        try (Device cpu = Device.open("cpu")) {
            wanted = Run.on(cpu, dtype);
        }
        Speech.say(
                "- %s, losses of %d steps: %s, on cpu %s"
                        .formatted(
                                dtype,
                                STEPS,
                                Arrays.toString(had.losses()),
                                Arrays.toString(wanted.losses())));
        // sums in another order: several times what the losses differ by for that reason
        double limit = dtype == DType.F32 ? 1e-4 : 1e-2;
        for (int i = 0; i < STEPS; i++) {
            if (!(Math.abs(had.losses()[i] / wanted.losses()[i] - 1) <= limit)) {
                Speech.wrong(
                        "%s, loss of step %d: %s, on cpu %s"
                                .formatted(dtype, i + 1, had.losses()[i], wanted.losses()[i]));
            }
        }
        if (had.tokens().equals(wanted.tokens())) {
            Speech.say("- %s, the same %d greedy tokens".formatted(dtype, had.tokens().size()));
        } else if (dtype == DType.F32) {
            Speech.wrong("greedy tokens %s, on cpu %s".formatted(had.tokens(), wanted.tokens()));
        } else { // a rounding may decide between two tokens that are as likely
            Speech.say(
                    "- %s, greedy tokens %s, on cpu %s"
                            .formatted(dtype, had.tokens(), wanted.tokens()));
        }
    }

    /** A model of the reference library's, and the tokens that it writes there. */
    private static void reference(Options options, Device device) throws IOException {
        Path fixtures =
                options.home().resolve("java/gatun-transformers/src/test/resources/fixtures");
        JsonNode fixture =
                new ObjectMapper()
                        .readTree(fixtures.resolve("generation/gpt2-mini.greedy.json").toFile());
        int[] prompt = ints(fixture.get("input_ids").get(0));
        List<Integer> wanted =
                Arrays.stream(ints(fixture.get("sequences").get(0)))
                        .skip(prompt.length)
                        .boxed()
                        .toList();
        List<Integer> had = new ArrayList<>();
        try (Gpt2 model = Gpt2.open(fixtures.resolve("models/gpt2-mini"), device)) {
            model.generate(
                    prompt, GenerationConfig.of().greedy().maxNewTokens(wanted.size()), had::add);
        }
        if (had.equals(wanted)) {
            Speech.say(
                    "- gpt2-mini: the %d greedy tokens of the reference library"
                            .formatted(had.size()));
        } else {
            Speech.wrong(
                    "gpt2-mini: greedy tokens %s, the reference has %s".formatted(had, wanted));
        }
    }

    private static int[] ints(JsonNode array) {
        int[] all = new int[array.size()];
        Arrays.setAll(all, i -> array.get(i).asInt());
        return all;
    }

    static void speed(Options options, Device device) {
        if (!options.only().isEmpty()) {
            Speech.notRun("only " + options.only() + " was asked for");
            return;
        }
        if (options.kind().equals("sim")) {
            Speech.notRun("the simulator's speed says nothing of a GPU's");
            return;
        }
        inEachDtype(dtype -> speed(device, dtype, options.kind().equals("cuda")));
    }

    private static void speed(Device device, DType dtype, boolean gpu) {
        int batch = gpu ? 8 : 2;
        int time = gpu ? 1024 : 256;
        int steps = gpu ? 20 : 4;
        try (var training =
                new Gpt2Training(device, Gpt2Training.GPT2_124M, dtype, batch, time, SEED)) {
            device.resetPeak();
            training.step();
            training.step();
            double[] seconds = new double[steps];
            for (int i = 0; i < steps; i++) {
                long begun = System.nanoTime();
                double loss = training.step(); // reads the loss, so it waits
                seconds[i] = (System.nanoTime() - begun) / 1e9;
                if (!Double.isFinite(loss)) {
                    Speech.wrong("%s: the loss of step %d is %s".formatted(dtype, i + 1, loss));
                }
            }
            Arrays.sort(seconds);
            double median = seconds[steps / 2];
            double tokens = batch * time / median;
            Speech.say(
                    ("- training GPT-2 124M, %s, B=%d T=%d: %.1f ms a step, %,.0f tokens/s,"
                                    + " peak %.2f GB")
                            .formatted(
                                    dtype,
                                    batch,
                                    time,
                                    median * 1e3,
                                    tokens,
                                    device.memory().peakBytes() / 1e9));
            Speech.figure(
                    "gpt2-124m training %s B=%d T=%d".formatted(dtype, batch, time),
                    Map.of("millis", median * 1e3, "tokensPerSecond", tokens));
            int most = gpu ? 256 : 24;
            decode(training.model(), 8);
            long begun = System.nanoTime();
            decode(training.model(), 1);
            double first = (System.nanoTime() - begun) / 1e9;
            begun = System.nanoTime();
            decode(training.model(), most);
            double all = (System.nanoTime() - begun) / 1e9;
            double rate = (most - 1) / (all - first);
            Speech.say(
                    "- decoding with it, batch 1, greedy: first token %.2f ms, then %,.1f tokens/s"
                            .formatted(first * 1e3, rate));
            Speech.figure(
                    "gpt2-124m decode " + dtype,
                    Map.of("firstTokenMillis", first * 1e3, "tokensPerSecond", rate));
        }
    }

    private static void decode(Gpt2 model, int tokens) {
        int[] prompt = new Random(1).ints(16, 0, model.vocabulary()).toArray();
        // no end of text, so that every run is as long as it should be
        model.generate(
                prompt, GenerationConfig.of().greedy().maxNewTokens(tokens).endIds(), _ -> {});
    }
}
