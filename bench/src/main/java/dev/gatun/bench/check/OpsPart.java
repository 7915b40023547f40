package dev.gatun.bench.check;

import dev.gatun.kernels.Device;
import dev.gatun.kernels.GatunException;
import dev.gatun.kernels.OpCase;
import dev.gatun.kernels.OpCases;
import dev.gatun.kernels.OpCheck;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/**
 * Every op case on the device against the float64 oracle, and its gradients against the cpu
 * device's. What the device has no kernel for is counted and named.
 */
final class OpsPart {
    private static final long SEED = 20_261_125;

    /** The cases of ops that belong together. */
    private static final class Group {
        final String ops;
        int cases;
        int agreed;
        int gradients;
        final Set<String> missing = new LinkedHashSet<>();

        Group(String ops) {
            this.ops = ops;
        }

        void print() {
            Speech.say(
                    "| %s | %d | %d | %d | %s |"
                            .formatted(
                                    ops,
                                    cases,
                                    agreed,
                                    gradients,
                                    missing.isEmpty() ? "" : "no: " + String.join("; ", missing)));
        }
    }

    private OpsPart() {}

    /** Whether the case has to do with the op that was asked for. */
    static boolean concerns(OpCase c, String only) {
        return only.isEmpty()
                || c.name().startsWith(only)
                || c.covers().stream().anyMatch(op -> op.startsWith(only));
    }

    static String ops(OpCase c) {
        return String.join(", ", new TreeSet<>(c.covers()));
    }

    /**
     * Checks cases.
     *
     * @param few only two of each set of ops, for a run that is a hundred times slower
     */
    static void run(Options options, Device device, int from, boolean few) {
        List<OpCase> cases = new ArrayList<>(OpCases.all());
        cases.removeIf(c -> !concerns(c, options.only()));
        cases.sort(Comparator.comparing(OpsPart::ops)); // stable: also after a restart
        if (few) {
            Map<String, Integer> seen = new HashMap<>();
            cases.removeIf(c -> seen.merge(ops(c), 1, Integer::sum) > 2);
        }
        if (cases.isEmpty()) {
            Speech.wrong("no op case has to do with " + options.only());
            return;
        }
        Speech.say("| ops | cases | agree | and their gradients | not on this device |");
        Speech.say("|---|---|---|---|---|");
        Group group = new Group(ops(cases.get(Math.min(from, cases.size() - 1))));
        try (Device cpu = Device.open("cpu")) {
            for (int i = from; i < cases.size(); i++) {
                OpCase c = cases.get(i);
                if (!ops(c).equals(group.ops)) {
                    group.print();
                    group = new Group(ops(c));
                }
                Speech.at(i, c.toString());
                group.cases++;
                try {
                    OpCheck.againstOracle(device, c, SEED + c.toString().hashCode());
                    group.agreed++;
                    OpCheck.gradientsAgainst(cpu, device, c, SEED + c.toString().hashCode());
                    group.gradients++;
                } catch (GatunException e) {
                    if (e.status() == GatunException.Status.UNSUPPORTED) {
                        group.missing.add(Speech.sentence(e));
                        continue;
                    }
                    Speech.wrong("%s: %s".formatted(c, Speech.sentence(e)));
                    if (e.status() == GatunException.Status.DEVICE_FAULT
                            && options.kind().equals("cuda")) {
                        group.print();
                        Speech.goOn();
                    }
                } catch (AssertionError | RuntimeException e) {
                    Speech.wrong(Speech.sentence(e));
                }
            }
        }
        group.print();
        Speech.say("");
    }
}
