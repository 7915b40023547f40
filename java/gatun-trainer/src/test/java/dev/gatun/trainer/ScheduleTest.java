package dev.gatun.trainer;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.DynamicTest.dynamicTest;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Optional;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** Every schedule against the rates of the reference library's {@code get_scheduler}. */
class ScheduleTest {
    private static final Offset<Double> EXACT = within(1e-12);

    @Test
    void should_have_the_published_values() {
        var linear = Schedule.linear(10, 100);
        assertThat(linear.factor(5)).isEqualTo(0.5, EXACT);
        assertThat(linear.factor(55)).isEqualTo(0.5, EXACT);
        assertThat(linear.factor(99)).isEqualTo(1 / 90.0, EXACT);
        assertThat(linear.factor(1000)).isZero();
        assertThat(Schedule.cosine(10, 100).factor(55)).isEqualTo(0.5, EXACT);
        assertThat(Schedule.cosine(10, 100).factor(99)).isEqualTo(3.05e-4, within(5e-7));
        assertThat(Schedule.cosineWithRestarts(10, 100, 2).factor(55)).isEqualTo(1, EXACT);
        assertThat(Schedule.inverseSqrt(10, 0).factor(55)).isEqualTo(0.426401, within(1e-6));
        assertThat(Schedule.cosineWithMinimum(10, 100, 0.1).factor(100)).isEqualTo(0.1, EXACT);
        // Vaswani et al. 2017: d = 512, 4000 steps of warm-up
        assertThat(Schedule.noam(512, 4000, 1).factor(3999)).isEqualTo(6.98771e-4, within(1e-9));
    }

    @TestFactory
    Stream<DynamicTest> reference() throws IOException {
        Optional<Path> file = TrainingFixtures.folder().map(f -> f.resolve("schedules.json"));
        if (file.isEmpty()) {
            return Stream.of(
                    dynamicTest("schedules.json", () -> Assumptions.abort("no fixtures folder")));
        }
        JsonNode root = new ObjectMapper().readTree(Files.readAllBytes(file.get()));
        double base = root.path("base_lr").asDouble();
        return StreamSupport.stream(root.path("schedules").spliterator(), false)
                .map(c ->
                        dynamicTest(
                                "%s W=%s T=%s %s"
                                        .formatted(
                                                c.path("scheduler").asText(),
                                                c.path("num_warmup_steps"),
                                                c.path("num_training_steps"),
                                                c.path("kwargs")),
                                () -> compare(c, base)));
    }

    private static void compare(JsonNode c, double defaultBase) {
        double base = c.path("base_lr").asDouble(defaultBase);
        Schedule schedule = schedule(c, base);
        JsonNode rates = c.path("learning_rates");
        assertThat(rates).hasSizeGreaterThan(10);
        for (int step = 0; step < rates.size(); step++) {
            double wanted = rates.get(step).asDouble();
            assertThat(base * schedule.factor(step))
                    .as("step %d", step)
                    .isEqualTo(wanted, within(1e-12 * Math.max(1e-4, wanted)));
        }
    }

    private static Schedule schedule(JsonNode c, double base) {
        long w = c.path("num_warmup_steps").asLong(0);
        long t = c.path("num_training_steps").asLong(0);
        JsonNode k = c.path("kwargs");
        return switch (c.path("scheduler").asText()) {
            case "constant" -> Schedule.constant();
            case "constant_with_warmup" -> Schedule.constantWithWarmup(w);
            case "linear" -> Schedule.linear(w, t);
            case "cosine" -> Schedule.cosine(w, t, k.path("num_cycles").asDouble(0.5));
            case "cosine_with_restarts" ->
                    Schedule.cosineWithRestarts(w, t, k.path("num_cycles").asInt(1));
            case "polynomial" ->
                    Schedule.polynomial(
                            w,
                            t,
                            base,
                            k.path("lr_end").asDouble(1e-7),
                            k.path("power").asDouble(1));
            case "inverse_sqrt" -> Schedule.inverseSqrt(w, k.path("timescale").asLong(0));
            case "cosine_with_min_lr" ->
                    Schedule.cosineWithMinimum(
                            w,
                            t,
                            k.has("min_lr")
                                    ? k.path("min_lr").asDouble() / base
                                    : k.path("min_lr_rate").asDouble());
            case "cosine_warmup_with_min_lr" ->
                    Schedule.cosineWarmupWithMinimum(
                            w,
                            t,
                            k.path("min_lr_rate").asDouble(),
                            k.path("warmup_lr_rate").asDouble(-1));
            case "warmup_stable_decay" -> {
                long decay = k.path("num_decay_steps").asLong();
                yield Schedule.warmupStableDecay(
                        w,
                        k.path("num_stable_steps").asLong(t - w - decay),
                        decay,
                        ramp(k.path("warmup_type").asText("linear")),
                        ramp(k.path("decay_type").asText("cosine")),
                        k.path("min_lr_ratio").asDouble(0));
            }
            case "noam" ->
                    Schedule.noam(
                            c.path("d_model").asLong(),
                            c.path("warmup").asLong(),
                            c.path("factor").asDouble());
            default -> throw new AssertionError("a new kind of schedule: " + c.path("scheduler"));
        };
    }

    private static Schedule.Ramp ramp(String name) {
        return name.equals("1-sqrt")
                ? Schedule.Ramp.ONE_MINUS_SQRT
                : Schedule.Ramp.valueOf(name.toUpperCase(Locale.ROOT));
    }
}
