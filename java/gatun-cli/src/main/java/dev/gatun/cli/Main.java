package dev.gatun.cli;

import java.io.UncheckedIOException;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code gatun VERB …}: exit code 0 for success, 1 for a failure, 2 for wrong usage. */
@Command(
        name = "gatun",
        mixinStandardHelpOptions = true,
        versionProvider = Info.Version.class,
        description = "Runs and trains transformers in a JVM: on CUDA where there is a GPU, else on the CPU.",
        synopsisSubcommandLabel = "VERB",
        commandListHeading = "%nVerbs:%n",
        footer = {
            "",
            "Begin with: gatun demo",
            "Each verb has a --help. Exit codes: 0 done, 1 failed, 2 wrong usage."
        },
        subcommands = {Demo.class, Train.class, Generate.class, Info.class, Bench.class})
final class Main implements Runnable {
    @Spec private CommandSpec spec;

    private Main(CommandSpec spec) {
        this.spec = spec;
    }

    Main() {
        this(CommandSpec.create());
    }

    @Override
    public void run() {
        throw new ParameterException(spec.commandLine(), "which verb?");
    }

    public static void main(String[] args) {
        System.exit(execute(args));
    }

    /** Runs a command line in this process. */
    static int execute(String... args) {
        var line = new CommandLine(new Main());
        line.setUsageHelpWidth(100);
        line.setCaseInsensitiveEnumValuesAllowed(true);
        line.setExecutionExceptionHandler(
                (e, command, _) -> {
                    if (RunOptions.wantsStackTrace(command)) {
                        e.printStackTrace(command.getErr());
                    } else {
                        command.getErr().println("gatun: " + sentence(e));
                    }
                    return CommandLine.ExitCode.SOFTWARE;
                });
        return line.execute(args);
    }

    /** What a person is told of a failure. */
    private static String sentence(Exception e) {
        Throwable told = e instanceof UncheckedIOException && e.getCause() != null && e.getMessage() == null ? e.getCause() : e;
        String message = told.getMessage();
        return message == null || message.isBlank()
                ? told.getClass().getSimpleName() + " (--stacktrace shows where)"
                : message;
    }
}
