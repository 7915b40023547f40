package dev.gatun.transformers;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.gatun.kernels.DType;
import dev.gatun.kernels.Device;
import dev.gatun.kernels.Ops;
import dev.gatun.kernels.Tensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** A model whose matrices and activations have 16 bits: copies beside f32 weights, or alone. */
class HalfPrecisionTest {
    private static final Gpt2Config CONFIG = Gpt2Config.of(61, 32, 2, 2, 32).endId(3);

    @TempDir private Path folder;
    private Device device;

    @BeforeEach
    void open() {
        device = Device.open("cpu");
    }

    @AfterEach
    void close() {
        assertThat(device.memory().buffers()).as("buffers left").isZero();
        device.close();
    }

    private static float[] logits(Gpt2 model) {
        int[] ids = new Random(5).ints(2 * 17, 0, CONFIG.vocabulary()).toArray();
        try (Ops ops = model.device().ops()) {
            Tensor logits = model.forward(ops, ops.ids(ids, CONFIG.vocabulary(), 2, 17));
            assertThat(logits.dtype()).isEqualTo(model.dtype());
            return logits.toFloats();
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"BF16", "F16"})
    void copiesComputeWhatAModelLoadedSoComputes(DType dtype) throws IOException {
        try (Gpt2 model = Gpt2.create(CONFIG, device, 11, null)) {
            model.save(folder);
            byte[] file = Files.readAllBytes(folder.resolve("model.safetensors"));
            float[] whole = logits(model);
            long buffers = device.memory().buffers();

            model.computeIn(dtype);
            assertThat(model.dtype()).isEqualTo(dtype);
            float[] halved = logits(model);
            float range = 0;
            for (float x : whole) {
                range = Math.max(range, Math.abs(x));
            }
            double bits = dtype == DType.BF16 ? 8 : 11;
            for (int i = 0; i < whole.length; i++) {
                assertThat(Math.abs(halved[i] - whole[i]))
                        .as("logit %d", i)
                        .isLessThan((float) (8 * range * Math.pow(2, -bits)));
            }
            try (Gpt2 loaded = Gpt2.open(folder, device, dtype)) {
                assertThat(loaded.dtype()).isEqualTo(dtype);
                assertThat(logits(loaded)).isEqualTo(halved).isNotEqualTo(whole);
            }

            model.save(folder);
            assertThat(Files.readAllBytes(folder.resolve("model.safetensors")))
                    .as("the f32 weights are saved")
                    .isEqualTo(file);

            model.computeIn(DType.F32);
            assertThat(logits(model)).isEqualTo(whole);
            assertThat(device.memory().buffers()).as("buffers without copies").isEqualTo(buffers);
        }
    }

    @Test
    void copiesAreOfTheValuesOfNow() {
        try (Gpt2 model = Gpt2.create(CONFIG, device, 11, null);
                Gpt2 other = Gpt2.create(CONFIG, device, 12, null)) {
            model.computeIn(DType.BF16);
            other.computeIn(DType.BF16);
            for (int i = 0; i < model.parameters().size(); i++) {
                model.parameters()
                        .get(i)
                        .weight()
                        .write(other.parameters().get(i).weight().toFloats());
            }
            assertThat(logits(model)).as("stale copies").isNotEqualTo(logits(other));
            model.computeIn(DType.BF16);
            assertThat(logits(model)).isEqualTo(logits(other));
        }
    }

    @ParameterizedTest
    @EnumSource(names = {"BF16", "F16"})
    void aHalvedModelKeepsItsDtypeInTheFile(DType dtype) throws IOException {
        try (Gpt2 model = Gpt2.create(CONFIG, device, 11, null)) {
            model.save(folder);
        }
        float[] first;
        try (Gpt2 model = Gpt2.open(folder, device, dtype)) {
            first = logits(model);
            model.save(folder);
        }
        Json config = Json.read(folder.resolve("config.json"), 1 << 20);
        assertThat(config.text("dtype")).contains(dtype == DType.BF16 ? "bfloat16" : "float16");
        try (Safetensors file = Safetensors.open(folder.resolve("model.safetensors"))) {
            assertThat(file.entries().get("transformer.wte.weight").dtype())
                    .isEqualTo(dtype.name());
            assertThat(file.entries().get("transformer.ln_f.weight").dtype()).isEqualTo("F32");
        }
        try (Gpt2 model = Gpt2.open(folder, device, dtype)) {
            assertThat(logits(model)).isEqualTo(first);
            assertThatThrownBy(() -> model.computeIn(DType.BF16))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessageContaining("transformer.wte.weight is %s[61, 32]", dtype)
                    .hasMessageContaining("open the model as f32");
        }
    }

    /** One token after the other over a 16-bit cache, as the whole text says it. */
    @ParameterizedTest
    @EnumSource(names = {"BF16", "F16"})
    void writesOverACacheOfItsDtype(DType dtype) {
        int[] prompt = {7, 2, 40, 9};
        var config = GenerationConfig.of().greedy().maxNewTokens(20).endIds(List.of());
        try (Gpt2 model = Gpt2.create(CONFIG, device, 11, null)) {
            model.computeIn(dtype);
            List<Integer> written = model.generate(prompt, config, _ -> {}).ids();
            assertThat(written).hasSize(20);
            int[] ids = new int[prompt.length + written.size()];
            System.arraycopy(prompt, 0, ids, 0, prompt.length);
            for (int i = 0; i < written.size(); i++) {
                ids[prompt.length + i] = written.get(i);
            }
            try (Ops ops = device.ops()) {
                Tensor logits_BTV =
                        model.forward(ops, ops.ids(ids, CONFIG.vocabulary(), 1, ids.length));
                float[] logits = logits_BTV.toFloats();
                int v = CONFIG.vocabulary();
                for (int i = 0; i < written.size(); i++) {
                    int row = (prompt.length + i - 1) * v;
                    float best = Float.NEGATIVE_INFINITY;
                    for (int id = 0; id < v; id++) {
                        best = Math.max(best, logits[row + id]);
                    }
                    // the order of sums differs, so a tie of a few ulp may go the other way
                    assertThat(logits[row + written.get(i)])
                            .as("token %d", i)
                            .isGreaterThan(best - 0.02f * Math.abs(best));
                }
            }
            try (KvCache cache = model.cache(3, 5)) {
                long kib = device.memory().usedBytes();
                try (KvCache twice = new KvCache(device, DType.F32, 2, 3, 2, 5, 16)) {
                    assertThat(twice.slots()).isEqualTo(cache.slots());
                    assertThat(device.memory().usedBytes()).isGreaterThan(kib);
                }
            }
        }
    }
}
