package dev.gatun.bench;

import static org.assertj.core.api.Assertions.assertThat;

import dev.gatun.kernels.DType;
import dev.gatun.transformers.Generation;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.openjdk.jmh.results.ScalarResult;

/** The benchmark's own work, once, of the demo's shape. */
class GenerateBenchmarkTest {
    @ParameterizedTest
    @CsvSource({"cpu, F32", "sim, BF16"})
    void textsOfABatchCountTogether(String device, DType dtype) {
        List<Generation> one = written(device, dtype, 1);
        List<Generation> eight = written(device, dtype, 8);
        if (dtype == DType.F32) {
            assertThat(eight.getFirst().ids())
                    .as("the same prompt in a batch")
                    .isEqualTo(one.getFirst().ids());
        }
    }

    private static List<Generation> written(String device, DType dtype, int batch) {
        var benchmark = new GenerateBenchmark();
        benchmark.device = device;
        benchmark.dtype = dtype;
        benchmark.batch = batch;
        benchmark.size = "demo";
        benchmark.open();
        try {
            List<Generation> written = benchmark.write();
            benchmark.rates();
            assertThat(written).hasSize(batch);
            assertThat(written).allMatch(w -> w.ids().size() == GenerateBenchmark.TOKENS);
            Generation first = written.getFirst();
            assertThat(rates())
                    .containsOnlyKeys("firstToken", "decode")
                    .containsEntry("firstToken", first.prefillSeconds() * 1e3)
                    .containsEntry("decode", batch * first.tokensPerSecond());
            return written;
        } finally {
            benchmark.close();
        }
    }

    private static Map<String, Double> rates() {
        return new Rates()
                .afterIteration(null, null, null).stream()
                        .collect(Collectors.toMap(ScalarResult::getLabel, ScalarResult::getScore));
    }
}
