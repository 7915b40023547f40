package dev.gatun.cli;

import java.io.PrintWriter;
import java.io.UncheckedIOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import java.util.Locale;
import java.util.logging.Level;
import java.util.logging.Logger;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.ExitCode;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;
import picocli.CommandLine.UnmatchedArgumentException;

/** {@code gatun VERB …}: exit code 0 for success, 1 for a failure, 2 for wrong usage. */
@Command(
        name = "gatun",
        versionProvider = Info.Version.class,
        customSynopsis = "gatun VERB [OPTION...]",
        description = {
            "Trains transformers and lets them write, in a JVM:",
            "on CUDA where there is a GPU, else on the processor."
        },
        commandListHeading = "%nVerbs:%n",
        optionListHeading = "%nOptions:%n",
        footer = {
            "",
            "Begin with:  ./gatun demo",
            "Then:        ./gatun VERB --help",
            "",
            "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."
        },
        subcommands = {
            Demo.class,
            Train.class,
            Generate.class,
            Info.class,
            GpuCheck.class,
            Bundle.class
        })
final class Main implements Runnable {
    private static final Logger LOG = Logger.getLogger("dev.gatun"); // held, or its level is lost

    @Spec private CommandSpec spec = CommandSpec.create();

    @SuppressWarnings("UnusedVariable") // picocli sets it and acts on it
    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this text")
    private boolean help;

    @SuppressWarnings("UnusedVariable")
    @Option(
            names = {"-V", "--version"},
            versionHelp = true,
            description = "show the version")
    private boolean version;

    @Override
    public void run() {
        throw new ParameterException(spec.commandLine(), "");
    }

    /** Runs a command line and ends the JVM with its exit code. */
    public static void main(String[] args) {
        Locale.setDefault(
                Locale.ROOT); // figures are written as JSON and people's scripts read them
        if (System.getProperty("java.util.logging.config.file") == null) {
            System.setProperty("java.util.logging.SimpleFormatter.format", "gatun: %5$s%n");
            LOG.setLevel(Level.WARNING); // which device was chosen, and why, each verb says itself
        }
        int code = execute(args);
        Interrupt.ended();
        System.exit(code);
    }

    /** Runs a command line in this process. */
    static int execute(String... args) {
        return execute(
                new PrintWriter(System.out, true, System.out.charset()),
                new PrintWriter(System.err, true, System.err.charset()),
                args);
    }

    /** Runs a command line in this process, with these in place of standard output and error. */
    static int execute(PrintWriter out, PrintWriter err, String... args) {
        CommandLine line = commandLine();
        line.setOut(out);
        line.setErr(err);
        line.setParameterExceptionHandler((e, _) -> wrongUsage(e));
        line.setExecutionExceptionHandler((e, command, _) -> failed(e, command));
        try {
            return line.execute(args);
        } catch (OutOfMemoryError e) {
            err.printf(
                    "gatun: the Java heap is full (%s); give it more with GATUN_JAVA_OPTS=-Xmx...%n",
                    e.getMessage());
            return ExitCode.SOFTWARE;
        }
    }

    /** The verbs and how they are read. */
    static CommandLine commandLine() {
        var line = new CommandLine(new Main());
        line.addSubcommand(
                new CommandLine(new Bench())
                        .setUnmatchedOptionsArePositionalParams(true)
                        .setStopAtPositional(true));
        line.setUsageHelpWidth(100);
        line.setUsageHelpLongOptionsMaxWidth(26);
        line.setCaseInsensitiveEnumValuesAllowed(true);
        line.setExpandAtFiles(false); // a prompt may begin with @
        return line;
    }

    private static int wrongUsage(ParameterException e) {
        CommandLine command = e.getCommandLine();
        PrintWriter err = command.getErr();
        String name = command.getCommandSpec().qualifiedName();
        String message = String.valueOf(e.getMessage());
        if (message.isEmpty()) {
            command.usage(err);
            return ExitCode.USAGE;
        }
        if (e instanceof UnmatchedArgumentException unmatched) {
            message = unmatched(unmatched, command);
        } else {
            // picocli speaks of Java's types
            message =
                    message.replaceFirst(
                                    "is not an? (int|long)$", "is not a whole number that fits")
                            .replaceFirst("is not a (float|double)$", "is not a number");
        }
        err.printf("%s: %s%n", name, message);
        if (e instanceof UnmatchedArgumentException u && !u.getSuggestions().isEmpty()) {
            err.printf("Did you mean %s?%n", String.join(" or ", u.getSuggestions()));
        }
        err.printf("Try: ./%s --help%n", name);
        return ExitCode.USAGE;
    }

    private static String unmatched(UnmatchedArgumentException e, CommandLine command) {
        String first = e.getUnmatched().getFirst();
        if (e.isUnknownOption()) {
            return "there is no option '%s'".formatted(first);
        }
        return command.getParent() == null
                ? "there is no verb '%s'; there are %s"
                        .formatted(first, String.join(", ", command.getSubcommands().keySet()))
                : "one argument too many: '%s'".formatted(first);
    }

    private static int failed(Exception e, CommandLine command) {
        if (HelpOptions.wantsStackTrace(command)) {
            e.printStackTrace(command.getErr());
        } else {
            command.getErr().println("gatun: " + sentence(e));
        }
        return ExitCode.SOFTWARE;
    }

    /** What a person is told of a failure. */
    static String sentence(Throwable e) {
        Throwable cause = e.getCause();
        if (e instanceof UncheckedIOException
                && cause != null
                && cause.toString().equals(e.getMessage())) {
            return sentence(cause); // of itself it says a class name and a path
        }
        return switch (e) {
            case NoSuchFileException f -> f.getFile() + ": no such file or folder";
            case AccessDeniedException f -> f.getFile() + ": permission denied";
            case FileAlreadyExistsException f -> f.getFile() + ": is a file";
            case FileSystemException f when f.getReason() == null ->
                    f.getFile() + ": cannot be read or written";
            default -> {
                String message = e.getMessage();
                yield message == null || message.isBlank()
                        ? e.getClass().getSimpleName() + " (--stacktrace shows where)"
                        : message;
            }
        };
    }
}
