package dev.gatun.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.NoSuchFileException;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class MainTest {
    private static final String[] VERBS = {
        "demo", "train", "generate", "info", "gpu-check", "bundle", "bench"
    };

    @Test
    void withoutArgumentsTheHelpIsShownAsWrongUsage() {
        Run run = Run.of();
        assertThat(run.code()).isEqualTo(2);
        assertThat(run.err()).contains("Usage: gatun VERB", "./gatun demo").contains(VERBS);
        assertThat(run.out()).isEmpty();
    }

    @Test
    void helpNamesEachVerbWithAWholeSentence() {
        Run run = Run.of("--help").ok();
        for (String verb : VERBS) {
            assertThat(run.out().lines().filter(line -> line.startsWith("  " + verb + " ")))
                    .as(verb)
                    .singleElement()
                    .asString()
                    .endsWith(".");
        }
        assertThat(run.err()).isEmpty();
    }

    @Test
    void versionIsALine() {
        assertThat(Run.of("--version").ok().out().strip()).startsWith("gatun ").hasLineCount(1);
    }

    @ParameterizedTest
    @ValueSource(strings = {"demo", "train", "generate", "info", "gpu-check", "bundle", "bench"})
    void helpOfEachVerb(String verb) {
        Run run = Run.of(verb, "--help").ok();
        assertThat(run.out()).startsWith("Usage: gatun " + verb).contains("show this text");
        assertThat(run.out().lines()).allSatisfy(line -> assertThat(line.length()).isLessThan(101));
        var options =
                Main.commandLine().getSubcommands().get(verb).getCommandSpec().options().stream()
                        .filter(option -> !option.hidden())
                        .toList();
        assertThat(options)
                .allSatisfy(option -> {
                    assertThat(option.description()).as(option.longestName()).isNotEmpty();
                    assertThat(run.out()).contains(option.names());
                });
        assertThat(run.err()).isEmpty();
    }

    @ParameterizedTest
    @ValueSource(strings = {"demo", "train", "generate"})
    void whatComputesHasTheSameOptions(String verb) {
        assertThat(Run.of(verb, "-h").ok().out())
                .contains("--device", "--profile", "--seed", "--stacktrace", "Examples:");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "frob | there is no verb 'frob'; there are demo, train, generate, info, gpu-check, bundle,",
                "trian | Did you mean train?",
                "--frob | there is no option '--frob'",
                "info --jsn | there is no option '--jsn'",
                "info --jsn | Did you mean --json?",
                "demo --step 3 | Did you mean --steps",
                "demo x | one argument too many: 'x'",
                "demo --minutes NaN | --minutes is NaN; it must be above 0",
                "demo --minutes 0 | --minutes is 0; it must be above 0",
                "demo --minutes Infinity | --minutes is Infinity; it must be above 0",
                "demo --minutes soon | 'soon' is not a number",
                "demo --steps 0 | --steps is 0; it must be from 1",
                "demo --steps -4 | --steps is -4; it must be from 1",
                "demo --steps 1.5 | '1.5' is not a whole number",
                "train | Missing required options: '--data=FILE|DIR', '--out=DIR'",
                "train --data x | Missing required option: '--out=DIR'",
                "train --data x --out y --batch-size -3 | --batch-size is -3; it must be from 1",
                "train --data x --out y --batch-size 99999999999 | is not a whole number that fits",
                "train --data x --out y --n-layer 0 | --n-layer is 0; it must be from 1 to 1,000",
                "train --data x --out y --n-embd 100 | must be a multiple of --n-head, which is 8",
                "train --data x --out y --context 0 | --context is 0; it must be from 1",
                "train --data x --out y --block-size -1 | --context is -1; it must be from 1",
                "train --data x --out y --vocab-size 256 | --vocab-size is 256; it must be from 257",
                "train --data x --out y --dropout 1 | --dropout is 1; it must be at least 0 and below",
                "train --data x --out y --learning-rate NaN | --learning-rate is NaN; it must be",
                "train --data x --out y --adam-beta2 1.5 | --adam-beta2 is 1.5; it must be at least 0",
                "train --data x --out y --warmup-steps -1 | --warmup-steps is -1; it must be from 0",
                "train --data x --out y --minutes 5 --warmup-steps 0.1 | give whole steps",
                "train --data x --out y --epochs 0 | --epochs is 0; it must be above 0",
                "train --data x --out y --lr-scheduler up | there is no scheduler 'up'",
                "train --data x --out y --validation-share 0.9 | above 0 and at most 0.2",
                "generate --model x --prompt y --dtype i8 | there is no dtype 'i8' for weights",
                "generate --model x | Missing required option: '--prompt=TEXT|-'",
                "bench --counters | --counters goes with --device sim",
                "bench --device cpu --counters | --counters goes with --device sim",
                "generate --model x --prompt y --temperature 0 | --temperature is 0; it must be above",
                "generate --model x --prompt y --temperature NaN | --temperature is NaN",
                "generate --model x --prompt y --top-k -1 | --top-k is -1; it must be from 0",
                "generate --model x --prompt y --top-p 1.5 | --top-p is 1.5; it must be above 0",
                "generate --model x --prompt y --min-p 1 | --min-p is 1; it must be at least 0",
                "generate --model x --prompt y --max-new-tokens 0 | --max-new-tokens is 0",
                "generate --model x --prompt y --greedy --top-k 5 | --greedy takes the most likely",
            })
    void wrongUsageNamesOptionValueAndLimit(String arguments, String words) {
        Run run = Run.of(arguments.split(" "));
        run.failed(2, words, "Try: ./gatun ", "--help");
        assertThat(run.out()).isEmpty();
    }

    /** What JMH calls -h, -l and -f is none of our business, --help before it is. */
    @Test
    void benchPassesItsArgumentsThrough() {
        List<String> arguments =
                List.of("-h", "-l", "Call.*", "-f", "1", "-jvmArgs", "-Xmx1g", "--help");
        var line = Main.commandLine();
        line.parseArgs(
                java.util.stream.Stream.concat(
                                java.util.stream.Stream.of("bench"), arguments.stream())
                        .toArray(String[]::new));
        var bench = line.getParseResult().subcommand();
        assertThat(bench.isUsageHelpRequested()).isFalse();
        List<String> passed = bench.matchedPositionalValue(0, List.of());
        assertThat(passed).isEqualTo(arguments);
    }

    @Test
    void aPromptMayBeginWithAnAt() {
        var line = Main.commandLine();
        line.parseArgs("generate", "--model", "x", "--prompt", "@Override");
        String prompt = line.getParseResult().subcommand().matchedOptionValue("--prompt", "");
        assertThat(prompt).isEqualTo("@Override");
    }

    @Test
    void infoNamesDevicesAndMachine() {
        Run run = Run.of("info").ok();
        assertThat(run.out()).contains("cpu", "cuda", "oneDNN", "cores", "memory", "java");
        assertThat(Run.of("info", "--json").ok().out()).startsWith("{").contains("\"devices\"");
    }

    @Test
    void sentencesOfFailuresThatHaveNone() {
        assertThat(Main.sentence(new NoSuchFileException("a/b")))
                .isEqualTo("a/b: no such file or folder");
        assertThat(Main.sentence(new AccessDeniedException("a/b")))
                .isEqualTo("a/b: permission denied");
        assertThat(Main.sentence(new UncheckedIOException(new NoSuchFileException("c"))))
                .isEqualTo("c: no such file or folder");
        assertThat(Main.sentence(new UncheckedIOException("c: is full", new IOException("x"))))
                .isEqualTo("c: is full");
        assertThat(Main.sentence(new NullPointerException()))
                .isEqualTo("NullPointerException (--stacktrace shows where)");
    }
}
