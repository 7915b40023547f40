package dev.gatun.cli;

import picocli.CommandLine;
import picocli.CommandLine.Option;

/** The options that every verb has. */
@SuppressWarnings("UnusedVariable") // picocli sets the fields and acts on them
class HelpOptions {
    @Option(
            names = "--stacktrace",
            order = 100,
            description = "show where in the program a failure came from")
    private boolean stackTrace;

    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            order = 101,
            description = "show this text")
    private boolean help;

    /** Whether the failed command was asked to show where it failed. */
    static boolean wantsStackTrace(CommandLine command) {
        var result = command.getParseResult();
        return result != null && result.hasMatchedOption("--stacktrace");
    }
}
