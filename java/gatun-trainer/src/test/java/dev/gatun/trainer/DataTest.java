package dev.gatun.trainer;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.gatun.transformers.Tokenizer;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Text files, token streams and the batches made of them. */
class DataTest {
    @TempDir private Path folder;

    private final Tokenizer tokenizer = TinyRun.tokenizer();

    @Test
    void should_name_the_file_that_is_no_text() throws IOException {
        Path missing = folder.resolve("missing.txt");
        assertThatThrownBy(() -> TextFiles.read(missing))
                .hasMessage(missing + ": no such file or folder");
        Path empty = Files.createFile(folder.resolve("empty.txt"));
        assertThatThrownBy(() -> TextFiles.read(empty)).hasMessage(empty + ": is empty");
        Path binary = Files.write(folder.resolve("a.bin"), new byte[] {65, 66, 0, 67});
        assertThatThrownBy(() -> TextFiles.read(binary))
                .hasMessage(binary + ": is not text: a zero byte at offset 2");
        Path latin1 = Files.write(folder.resolve("latin1.txt"), new byte[] {65, (byte) 0xe9, 65});
        assertThatThrownBy(() -> TextFiles.read(latin1)).hasMessage(latin1 + ": is not UTF-8 text");
        assertThatThrownBy(() -> TextFiles.read(folder))
                .hasMessageContaining("no text among its 3 files (for one, ");
    }

    @Test
    void should_read_a_folder_in_the_order_of_its_paths() throws IOException {
        Files.createDirectories(folder.resolve("b"));
        Files.writeString(folder.resolve("b/one.txt"), "één");
        Files.writeString(folder.resolve("a.txt"), "two");
        Files.writeString(folder.resolve(".hidden"), "no");
        assertThat(TextFiles.read(folder))
                .containsExactly(
                        new TextFiles.Document("a.txt", "two"),
                        new TextFiles.Document("b/one.txt", "één"));
    }

    @Test
    void should_keep_validation_apart_and_choose_by_name() {
        List<TextFiles.Document> documents =
                java.util.stream.IntStream.range(0, 50)
                        .mapToObj(i -> new TextFiles.Document("f" + i, "x".repeat(100 + i)))
                        .toList();
        TextFiles split = TextFiles.split(documents, 0.1, 0);
        var both = new HashSet<>(split.train());
        both.addAll(split.validation());
        assertThat(both).hasSize(50);
        assertThat(split.train().size() + split.validation().size()).isEqualTo(50);
        assertThat(split.validation()).isNotEmpty();
        TextFiles fewer = TextFiles.split(documents.subList(1, 50), 0.1, 0);
        assertThat(fewer.train()).doesNotContainAnyElementsOf(split.validation().subList(0, 1));
    }

    @Test
    void should_cut_a_single_document_between_code_points() {
        var document = new TextFiles.Document("one", "😀".repeat(50));
        TextFiles split = TextFiles.split(List.of(document), 0.13, 0);
        String train = split.train().getFirst().text();
        String held = split.validation().getFirst().text();
        assertThat(train + held).isEqualTo(document.text());
        assertThat(Character.isLowSurrogate(held.charAt(0))).isFalse();
        assertThat(held).isNotEmpty();
    }

    @Test
    void should_refuse_data_shorter_than_a_context() {
        TokenDataset data = TokenDataset.of(List.of("the canal"), tokenizer);
        assertThatThrownBy(() -> new Batches(data, 2, 1, 64, 1))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("fewer than one context of 64");
    }

    @Test
    void should_see_every_window_once_an_epoch_in_another_order() {
        TokenDataset data = TokenDataset.of(TinyRun.documents(2), tokenizer);
        int time = 16;
        var batches = new Batches(data, 3, 2, time, 5);
        int windows = data.windows(time);
        int[][] seen = new int[2][];
        for (int epoch = 0; epoch < 2; epoch++) {
            var firsts = new java.util.ArrayList<String>();
            int rows = 0;
            for (long s = 0; s < batches.stepsPerEpoch(); s++) {
                List<Batch> window = batches.window(epoch * batches.stepsPerEpoch() + s);
                assertThat(window).hasSizeBetween(1, 2);
                for (Batch batch : window) {
                    rows += batch.rows();
                    assertThat(batch.targets()).isEqualTo((long) batch.rows() * time);
                    for (int r = 0; r < batch.rows(); r++) {
                        int[] row = Arrays.copyOfRange(batch.ids(), r * time, (r + 1) * time);
                        int[] next = Arrays.copyOfRange(batch.labels(), r * time, (r + 1) * time);
                        assertThat(Arrays.copyOfRange(next, 0, time - 1))
                                .isEqualTo(Arrays.copyOfRange(row, 1, time));
                        firsts.add(Arrays.toString(row));
                    }
                }
            }
            assertThat(rows).isEqualTo(windows);
            seen[epoch] = firsts.stream().mapToInt(String::hashCode).toArray();
        }
        assertThat(seen[0]).isNotEqualTo(seen[1]);
        Arrays.sort(seen[0]);
        Arrays.sort(seen[1]);
        assertThat(seen[0]).isEqualTo(seen[1]);
        assertThat(batches.window(3).getFirst().ids())
                .isEqualTo(new Batches(data, 3, 2, time, 5).window(3).getFirst().ids());
    }

    @Test
    void should_predict_every_token_of_an_evaluation_once() {
        TokenDataset data = TokenDataset.of(List.of("the lake and the lock"), tokenizer);
        List<Batch> batches = data.inOrder(2, 4);
        var predicted = new java.util.ArrayList<Integer>();
        for (Batch batch : batches) {
            for (int label : batch.labels()) {
                if (label != Batch.IGNORED) {
                    predicted.add(label);
                }
            }
        }
        var wanted = new java.util.ArrayList<Integer>();
        for (int i = 1; i < data.size(); i++) {
            wanted.add(data.id(i));
        }
        assertThat(predicted).isEqualTo(wanted);
    }
}
