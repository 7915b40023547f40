package dev.gatun.bench;

import java.util.Collection;
import java.util.List;
import org.openjdk.jmh.infra.BenchmarkParams;
import org.openjdk.jmh.infra.IterationParams;
import org.openjdk.jmh.profile.InternalProfiler;
import org.openjdk.jmh.results.AggregationPolicy;
import org.openjdk.jmh.results.IterationResult;
import org.openjdk.jmh.results.ScalarResult;

/**
 * What a benchmark measured beside JMH's own time, in JMH's output and JSON: {@code -prof
 * dev.gatun.bench.Rates}, which {@code gatun bench} gives. Counters of JMH would be added up over
 * the iterations, and have no unit.
 */
public final class Rates implements InternalProfiler {
    /** One figure of an iteration. */
    record Rate(String name, double value, String unit) {}

    private static volatile List<Rate> last = List.of();

    /** The figures of the iteration that ends. */
    static void of(Rate... rates) {
        last = List.of(rates);
    }

    @Override
    public String getDescription() {
        return "Gatun's device times and rates";
    }

    @Override
    public void beforeIteration(BenchmarkParams benchmark, IterationParams iteration) {
        last = List.of();
    }

    @Override
    public Collection<ScalarResult> afterIteration(
            BenchmarkParams benchmark, IterationParams iteration, IterationResult result) {
        return last.stream()
                .map(r -> new ScalarResult(r.name, r.value, r.unit, AggregationPolicy.AVG))
                .toList();
    }
}
