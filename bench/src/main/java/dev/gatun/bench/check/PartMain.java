package dev.gatun.bench.check;

import dev.gatun.kernels.Device;
import dev.gatun.kernels.GatunException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** One part of the check, in its own process. */
final class PartMain {
    private PartMain() {}

    public static void main(String[] args) throws Exception {
        Options options = Options.of(args);
        int from = 0;
        String part = "";
        for (int i = 0; i + 1 < args.length; i += 2) {
            switch (args[i]) {
                case "--part" -> part = args[i + 1];
                case "--from" -> from = Integer.parseInt(args[i + 1]);
                default -> {}
            }
        }
        switch (part) {
            case "wrappers" -> NativePrograms.wrappers(options);
            case "sanitizer" -> NativePrograms.sanitizer(options, from);
            default -> onDevice(part, options, from);
        }
    }

    /** A part in a Java of its own. */
    static Command command(Options options, String part, String... more) {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        command.add("--enable-native-access=ALL-UNNAMED");
        // where a crash of native code can be read about afterwards
        command.add("-XX:ErrorFile=" + options.report().resolveSibling("gpu-check-crash.log"));
        System.getProperties().stringPropertyNames().stream()
                .filter(name -> name.startsWith("gatun."))
                .sorted()
                .forEach(name -> command.add("-D%s=%s".formatted(name, System.getProperty(name))));
        command.add("-cp");
        command.add(System.getProperty("java.class.path"));
        command.add(PartMain.class.getName());
        command.addAll(List.of("--part", part));
        command.addAll(options.words());
        command.addAll(List.of(more));
        return new Command(command);
    }

    private static void onDevice(String part, Options options, int from) throws Exception {
        Device device;
        try {
            device = Device.open(options.device());
        } catch (GatunException e) {
            Speech.wrong("device %s: %s".formatted(options.device(), Speech.sentence(e)));
            return;
        }
        try (device) {
            Speech.say("%s: %s".formatted(device.name(), device.description()));
            Speech.say("");
            switch (part) {
                case "ops" -> OpsPart.run(options, device, from, false);
                case "some-ops" -> OpsPart.run(options, device, from, true);
                case "model" -> ModelPart.check(options, device);
                case "timings" -> TimingsPart.run(options, device, from);
                case "speed" -> ModelPart.speed(options, device);
                case "peers" -> PeersPart.run(options, device);
                default -> throw new IllegalArgumentException("there is no part " + part);
            }
        }
    }
}
