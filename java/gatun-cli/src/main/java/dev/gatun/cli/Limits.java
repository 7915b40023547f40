package dev.gatun.cli;

import picocli.CommandLine;
import picocli.CommandLine.ParameterException;

/** Refuses numbers that an option cannot have; the message names option, value and limit. */
record Limits(CommandLine line) {
    /** A whole number from {@code least} to {@code most}. */
    int whole(String option, int value, int least, int most) {
        return (int) whole(option, (long) value, least, most);
    }

    /** A whole number from {@code least} to {@code most}. */
    long whole(String option, long value, long least, long most) {
        if (value < least || value > most) {
            throw refused(option, value, "from %,d to %,d".formatted(least, most));
        }
        return value;
    }

    /** A number from {@code least} to {@code most}, both included. */
    double number(String option, double value, double least, double most) {
        if (!(value >= least && value <= most)) {
            throw refused(option, value, "from %s to %s".formatted(plain(least), plain(most)));
        }
        return value;
    }

    /** A number above {@code bound}, at most {@code most}. */
    double above(String option, double value, double bound, double most) {
        if (!(value > bound && value <= most)) {
            throw refused(
                    option, value, "above %s and at most %s".formatted(plain(bound), plain(most)));
        }
        return value;
    }

    /** A number from {@code least} on, below {@code bound}. */
    double below(String option, double value, double least, double bound) {
        if (!(value >= least && value < bound)) {
            throw refused(
                    option,
                    value,
                    "at least %s and below %s".formatted(plain(least), plain(bound)));
        }
        return value;
    }

    private ParameterException refused(String option, double value, String wanted) {
        return new ParameterException(
                line, "%s is %s; it must be %s".formatted(option, plain(value), wanted));
    }

    private ParameterException refused(String option, long value, String wanted) {
        return new ParameterException(
                line, "%s is %d; it must be %s".formatted(option, value, wanted));
    }

    private static String plain(double x) {
        return x == Math.rint(x) && Math.abs(x) < 1e15
                ? "%,d".formatted((long) x)
                : String.valueOf(x);
    }
}
