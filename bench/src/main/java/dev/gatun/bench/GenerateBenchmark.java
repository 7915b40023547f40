package dev.gatun.bench;

import dev.gatun.bench.Rates.Rate;
import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.transformers.Generation;
import dev.gatun.transformers.GenerationConfig;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * Writing with GPT-2 124M's shape, or the demo's ({@code -p size=demo}), greedily and as {@code
 * generate} does it, each step after the first a captured one: JMH's time is that of all tokens;
 * {@link Rates} has the time to the first token of a prompt, and the further tokens a second, of
 * all texts of the batch together.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.SingleShotTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Warmup(iterations = 2)
@Measurement(iterations = 7)
@Fork(1)
public class GenerateBenchmark {
    private static final int PROMPT = 128;
    static final int TOKENS = 32;

    @Param("best")
    public String device;

    @Param({"F32", "BF16"})
    public DType dtype;

    @Param({"1", "8"})
    public int batch;

    @Param("124M")
    public String size;

    private Device opened;
    private Gpt2 model;
    private List<int[]> prompts;
    private List<Generation> written = List.of();

    @Setup
    public void open() {
        opened = device.equals("best") ? Device.best() : Device.open(device);
        Gpt2Config config = Gpt2Training.config(size);
        model = Gpt2.create(config, opened, 1, null);
        model.computeIn(dtype);
        Random random = new Random(1);
        prompts =
                Stream.generate(() -> random.ints(PROMPT, 0, config.vocabulary()).toArray())
                        .limit(batch)
                        .toList();
    }

    @Benchmark
    public List<Generation> write() {
        // no end of text, so that every run is as long as it should be
        GenerationConfig config = GenerationConfig.of().greedy().maxNewTokens(TOKENS).endIds();
        written = model.generate(prompts, config);
        return written;
    }

    @TearDown(Level.Iteration)
    public void rates() {
        Generation first = written.getFirst();
        Rates.of(
                new Rate("firstToken", first.prefillSeconds() * 1e3, "ms"),
                new Rate("decode", batch * first.tokensPerSecond(), "tokens/s"));
    }

    @TearDown
    public void close() {
        System.out.printf("%npeak device memory: %,d bytes%n", opened.memory().peakBytes());
        model.close();
        opened.close();
    }
}
