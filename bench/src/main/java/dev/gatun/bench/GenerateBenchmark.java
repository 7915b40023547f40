package dev.gatun.bench;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Purpose;
import dev.gatun.kernels.Tensor;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import dev.gatun.transformers.KvCache;
import java.util.Arrays;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OperationsPerInvocation;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * Writing with GPT-2 124M's shape, greedily: the time to the first token after a prompt, and the
 * time of each further step, which gives one token to each of the batch's texts. Tokens a second
 * are 1000 · batch / ms.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.SingleShotTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Warmup(iterations = 2)
@Measurement(iterations = 7)
@Fork(1)
public class GenerateBenchmark {
    private static final int PROMPT = 128;
    private static final int TOKENS = 32;
    private static final Gpt2Config CONFIG = Gpt2Config.of(50257, 1024, 12, 12, 768);

    @Param("best")
    public String device;

    @Param({"F32", "BF16"})
    public DType dtype;

    @Param({"1", "8"})
    public int batch;

    private Device opened;
    private Gpt2 model;
    private Ops ops;
    private KvCache cache;
    private Tensor next_B;
    private int[] prompts;
    private int[] empty;
    private int[] prompted;

    @Setup
    public void open() {
        opened = device.equals("best") ? Device.best() : Device.open(device);
        model = Gpt2.create(CONFIG, opened, 1, null);
        model.computeIn(dtype);
        ops = opened.ops();
        cache = model.cache(batch, PROMPT + TOKENS);
        next_B = Tensor.empty(opened, DType.I32, Purpose.OTHER, batch);
        prompts = new Random(1).ints((long) batch * PROMPT, 0, CONFIG.vocabulary()).toArray();
        empty = new int[batch];
        prompted = new int[batch];
        Arrays.fill(prompted, PROMPT);
        firstToken();
    }

    /** The prompts' tokens are in the cache, and no others. */
    @Setup(Level.Invocation)
    public void forget() {
        cache.truncate(prompted);
    }

    @Benchmark
    public int[] firstToken() {
        cache.truncate(empty);
        Tensor ids_BT = ops.ids(prompts, CONFIG.vocabulary(), batch, PROMPT);
        Tensor hidden_BTD = model.hidden(ops, ids_BT, cache);
        return choose(hidden_BTD.slice(1, PROMPT - 1, PROMPT));
    }

    @Benchmark
    @OperationsPerInvocation(TOKENS)
    public int[] nextToken() {
        int[] ids = {};
        for (int i = 0; i < TOKENS; i++) {
            ids = choose(model.hidden(ops, next_B.view(batch, 1), cache));
        }
        return ids;
    }

    private int[] choose(Tensor hidden_B1D) {
        Tensor logits_BV = model.head(ops, hidden_B1D).view(batch, CONFIG.vocabulary());
        ops.copy(next_B, ops.argmax(logits_BV));
        ops.reset();
        return next_B.toInts();
    }

    @TearDown
    public void close() {
        System.out.printf("%npeak device memory: %,d bytes%n", opened.memory().peakBytes());
        next_B.close();
        cache.close();
        ops.close();
        model.close();
        opened.close();
    }
}
