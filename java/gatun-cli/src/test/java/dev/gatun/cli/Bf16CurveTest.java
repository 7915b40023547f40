package dev.gatun.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.gatun.kernels.Device;
import dev.gatun.trainer.Batches;
import dev.gatun.trainer.TextFiles.Document;
import dev.gatun.trainer.TokenDataset;
import dev.gatun.trainer.Trainer;
import dev.gatun.trainer.TrainingListener;
import dev.gatun.transformers.BpeTrainer;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Tokenizer;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The demo's model, recipe and data, trained in f32 and in bf16: the losses go together. */
class Bf16CurveTest {
    private static final int STEPS = 200;
    private static final int WINDOW = 20;
    private static final double TOLERANCE = 0.01;

    @TempDir private Path folder;

    /** A part of what the demo learns from: enough for the steps, encoded in no time. */
    private static List<String> texts() throws IOException {
        var texts = new ArrayList<String>();
        if (Files.exists(JdkSources.archive())) {
            List<Document> documents = JdkSources.read();
            for (int i = 0; i < documents.size(); i += 12) {
                texts.add(documents.get(i).text());
            }
        } else {
            for (int i = 0; i < 40; i++) {
                texts.add(Run.text(i, 5_000));
            }
        }
        return texts;
    }

    private double[] losses(
            boolean bf16, Demo.Recipe recipe, TokenDataset data, Tokenizer tokenizer)
            throws IOException {
        var losses = new double[STEPS];
        try (Device device = Device.open("cpu");
                Gpt2 model = Gpt2.create(Demo.config(recipe, tokenizer), device, 1, tokenizer)) {
            var args =
                    recipe.arguments(folder.resolve("bf16-" + bf16), 1).maxSteps(STEPS).bf16(bf16);
            new Trainer(model, args)
                    .train(
                            new Batches(data, recipe.batch(), 1, recipe.context(), 1),
                            null,
                            new TrainingListener() {
                                @Override
                                public void stepped(Step step) {
                                    losses[(int) step.step() - 1] = step.loss();
                                }
                            });
        }
        return losses;
    }

    @Test
    void lossInBf16StaysWithinOnePercent() throws IOException {
        Demo.Recipe recipe = Demo.Recipe.of(3);
        List<String> texts = texts();
        Tokenizer tokenizer = BpeTrainer.of(recipe.vocabulary()).train(texts);
        TokenDataset data = TokenDataset.of(texts, tokenizer);
        double[] f32 = losses(false, recipe, data, tokenizer);
        double[] bf16 = losses(true, recipe, data, tokenizer);
        assertThat(bf16).as("another arithmetic").isNotEqualTo(f32);
        assertThat(mean(f32, STEPS - 50, STEPS))
                .as("the model learns")
                .isLessThan(0.75 * mean(f32, 0, WINDOW));
        double worst = 0;
        for (int from = 0; from < STEPS; from += WINDOW) {
            worst = Math.max(worst, apart(f32, bf16, from, from + WINDOW));
        }
        double end = apart(f32, bf16, STEPS - 50, STEPS);
        System.out.printf(
                "loss in bf16 against f32: %.3f %% apart over the last 50 of %d steps, %.3f %% in"
                        + " the worst %d%n",
                100 * end, STEPS, 100 * worst, WINDOW);
        assertThat(Math.max(worst, end)).isLessThan(TOLERANCE);
    }

    private static double apart(double[] f32, double[] bf16, int from, int to) {
        return Math.abs(mean(bf16, from, to) / mean(f32, from, to) - 1);
    }

    private static double mean(double[] losses, int from, int to) {
        return Arrays.stream(losses, from, to).average().orElseThrow();
    }
}
