package dev.gatun.trainer;

import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.stream.Collectors.groupingBy;
import static java.util.stream.Collectors.mapping;
import static java.util.stream.Collectors.toList;
import static org.assertj.core.api.Assertions.assertThat;

import dev.gatun.kernels.Device;
import dev.gatun.kernels.DeviceOptions;
import dev.gatun.transformers.GenerationConfig;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Tokenizer;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * The resident memory of a process that trains and generates stays where it is after warm-up. The
 * process is one of its own whose Java heap is fixed and touched and whose code is interpreted
 * (with C1 the code cache alone was seen to grow by 360 to 800 KB), so that what still grows is
 * native: allocations of the library and of what it links, arenas that nobody closes.
 */
class ResidentMemoryTest {
    private static final int WARM_UP = 200;
    private static final int ROUNDS = 200;
    private static final int EVERY = 10;

    /** Between the first sample and the last; the JVM itself was seen to need 24 KB. */
    private static final long ALLOWED = 192 << 10;

    @TempDir private Path folder;

    @Test
    void should_stay_flat_over_two_hundred_steps_and_two_hundred_generations() throws Exception {
        for (var samples : samples(0).entrySet()) {
            assertThat(growth(samples.getValue()))
                    .as("bytes grown, by %s: %s", samples.getKey(), samples.getValue())
                    .isLessThan(ALLOWED);
        }
    }

    @Test
    void should_notice_two_kilobytes_lost_in_each_round() throws Exception {
        for (var samples : samples(2 << 10).entrySet()) {
            assertThat(growth(samples.getValue()))
                    .as("bytes grown, by %s: %s", samples.getKey(), samples.getValue())
                    .isGreaterThan(ALLOWED);
        }
    }

    private static long growth(List<Long> samples) {
        return samples.getLast() - samples.getFirst();
    }

    /** What {@link Rounds} prints, by the kind of the round. */
    private Map<String, List<Long>> samples(long lost) throws Exception {
        Process child =
                TinyRun.child(
                        List.of(),
                        List.of(
                                "-Xms64m",
                                "-Xmx64m",
                                "-XX:+AlwaysPreTouch",
                                "-XX:+UseSerialGC",
                                "-Xint"),
                        Rounds.class,
                        folder.toString(),
                        String.valueOf(lost));
        String output = new String(child.getInputStream().readAllBytes(), UTF_8);
        assertThat(child.waitFor(1, TimeUnit.MINUTES)).isTrue();
        assertThat(child.exitValue()).as(output).isZero();
        Map<String, List<Long>> samples =
                output.lines()
                        .map(line -> line.split(" "))
                        .collect(
                                groupingBy(
                                        words -> words[0],
                                        mapping(words -> Long.valueOf(words[1]), toList())));
        assertThat(samples).containsOnlyKeys("step", "generation");
        assertThat(samples.values()).allMatch(s -> s.size() == ROUNDS / EVERY + 1);
        return samples;
    }

    /**
     * Prints the resident bytes, every ten rounds, of 200 training steps and of 200 generations,
     * each after 200 that do not count. With a second argument each round loses that many bytes.
     */
    static final class Rounds {
        private Rounds() {}

        public static void main(String[] args) throws IOException {
            long lost = args.length > 1 ? Long.parseLong(args[1]) : 0;
            Tokenizer tokenizer = TinyRun.tokenizer();
            try (Device device = Device.open("cpu", DeviceOptions.defaults().withThreads(1));
                    Gpt2 model = TinyRun.model(device, tokenizer, 0.1)) {
                var settings = TinyRun.arguments(Path.of(args[0]), WARM_UP + ROUNDS).saveSteps(0);
                new Trainer(model, settings)
                        .train(
                                TinyRun.data(tokenizer),
                                null,
                                new TrainingListener() {
                                    @Override
                                    public void stepped(Step step) {
                                        round("step", step.step(), lost);
                                    }
                                });
                var greedy = GenerationConfig.of().greedy().maxNewTokens(12);
                for (int i = 1; i <= WARM_UP + ROUNDS; i++) {
                    model.generate(List.of(new int[] {i % 50, 2, 3}, new int[] {7}), greedy);
                    round("generation", i, lost);
                }
            }
        }

        private static void round(String what, long n, long lost) {
            if (lost > 0) {
                Arena.global().allocate(lost).fill((byte) 1);
            }
            if (n >= WARM_UP && n % EVERY == 0) {
                System.out.println(what + " " + residentBytes());
            }
        }

        private static long residentBytes() {
            try {
                for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
                    if (line.startsWith("VmRSS:")) {
                        return Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024;
                    }
                }
                throw new AssertionError("/proc/self/status has no VmRSS");
            } catch (IOException e) {
                throw new java.io.UncheckedIOException(e);
            }
        }
    }
}
