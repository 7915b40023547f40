package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import dev.gatun.kernels.internal.gatun_tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.TreeSet;
import org.junit.jupiter.api.Test;

/**
 * Every native function, called through its binding with arguments that are wrong in every way a
 * Java caller can get them wrong, in a process of its own: a status and a sentence, never a signal.
 */
class MisuseTest {
    private static final int CALLS = 6_000;
    private static final long SEED = 4_711;

    /** The process that makes the calls. */
    public static final class Caller {
        private final SplittableRandom random;
        private final Arena arena = Arena.ofShared();
        private final List<Long> handles = new ArrayList<>();
        private final List<MemorySegment> tensors = new ArrayList<>();

        private Caller(long seed) {
            random = new SplittableRandom(seed);
        }

        public static void main(String[] args) throws Exception {
            Native.load();
            new Caller(Long.parseLong(args[0])).call(Integer.parseInt(args[1]));
        }

        private void call(int calls) throws Exception {
            MemorySegment result = arena.allocate(8);
            Native.check(
                    GatunH.gatun_device_open(arena.allocateFrom("cpu"), MemorySegment.NULL, result),
                    "device_open");
            long device = result.get(ValueLayout.JAVA_LONG, 0);
            Native.check(GatunH.gatun_stream_create(device, result), "stream_create");
            long stream = result.get(ValueLayout.JAVA_LONG, 0);
            Native.check(GatunH.gatun_buffer_alloc(stream, 4096, 0, result), "buffer_alloc");
            long buffer = result.get(ValueLayout.JAVA_LONG, 0);
            Native.check(GatunH.gatun_buffer_alloc(stream, 64, 0, result), "buffer_alloc");
            long freed = result.get(ValueLayout.JAVA_LONG, 0);
            Native.check(GatunH.gatun_buffer_free(freed), "buffer_free");
            handles.addAll(List.of(stream, stream, stream, device, buffer, freed, 0L, -1L, 12345L));
            for (int i = 0; i < 64; i++) {
                tensors.add(tensor(buffer, freed));
            }
            List<Method> functions = new ArrayList<>();
            for (Method method : GatunH.class.getMethods()) {
                if (method.getName().startsWith("gatun_")
                        && !method.getName().contains("$")
                        && Modifier.isStatic(method.getModifiers())
                        && method.getReturnType() == int.class
                        && method.getParameterCount() > 0
                        // closing what the other calls need is tried at the end
                        && !method.getName().contains("_close")
                        && !method.getName().contains("_destroy")) {
                    functions.add(method);
                }
            }
            functions.sort(Comparator.comparing(Method::getName));
            TreeSet<String> refused = new TreeSet<>();
            TreeSet<Integer> statuses = new TreeSet<>();
            for (int i = 0; i < calls; i++) {
                Method function = functions.get(i % functions.size());
                System.err.println(i + " " + function.getName());
                int status = invoke(function);
                statuses.add(status);
                if (status != 0) {
                    String sentence = GatunH.gatun_last_error().getString(0);
                    if (sentence.length() < 10) {
                        throw new AssertionError(function.getName() + ": " + sentence);
                    }
                    refused.add(function.getName());
                }
            }
            // pending faults of calls that were let through
            GatunH.gatun_device_wait(device);
            Native.check(GatunH.gatun_device_wait(device), "device_wait");
            Native.check(GatunH.gatun_stream_destroy(stream), "stream_destroy");
            Native.check(GatunH.gatun_device_close(device), "device_close");
            if (GatunH.gatun_stream_destroy(stream) == 0
                    || GatunH.gatun_device_close(device) == 0
                    || GatunH.gatun_event_destroy(7) == 0) {
                throw new AssertionError("closed twice");
            }
            System.out.println(
                    "functions "
                            + functions.size()
                            + " refused "
                            + refused.size()
                            + " "
                            + statuses);
        }

        private int invoke(Method function) throws IllegalAccessException {
            Object[] arguments = new Object[function.getParameterCount()];
            Class<?>[] types = function.getParameterTypes();
            String name = function.getName();
            for (int i = 0; i < arguments.length; i++) {
                if (types[i] == long.class) {
                    arguments[i] = i == 0 ? handle() : number();
                } else if (types[i] == int.class) {
                    arguments[i] = (int) number();
                } else if (types[i] == double.class) {
                    arguments[i] = real();
                } else {
                    arguments[i] = pointer(name);
                }
            }
            try {
                return (int) function.invoke(null, arguments);
            } catch (InvocationTargetException e) {
                throw new AssertionError(name, e.getCause());
            }
        }

        private long handle() {
            return handles.get(random.nextInt(handles.size()));
        }

        private long number() {
            return switch (random.nextInt(7)) {
                case 0 -> 0;
                case 1 -> -1;
                case 2 -> Long.MAX_VALUE;
                case 3 -> Long.MIN_VALUE;
                case 4 -> random.nextInt(100);
                case 5 -> handle();
                default -> 1;
            };
        }

        private double real() {
            double[] some = {0, -1, 1, Double.NaN, Double.POSITIVE_INFINITY, 1e300, 0.5};
            return some[random.nextInt(some.length)];
        }

        // Pointers must be to memory of the size that the function may write; what lies there is
        // anybody's guess, except that pointers within must be null.
        private MemorySegment pointer(String function) {
            if (random.nextInt(6) == 0) {
                return MemorySegment.NULL;
            }
            boolean takesTensors =
                    !function.matches(".*(buffer|device|stream|event|profile).*")
                            && !function.contains("global_norm")
                            && !function.contains("unscale")
                            && !function.contains("adamw");
            if (takesTensors && random.nextInt(5) != 0) {
                return tensors.get(random.nextInt(tensors.size()));
            }
            MemorySegment room = arena.allocate(1 << 16, 64);
            if (random.nextBoolean()) {
                room.set(ValueLayout.JAVA_INT, 0, (int) number());
            }
            return room;
        }

        private MemorySegment tensor(long buffer, long freed) {
            MemorySegment t = arena.allocate(gatun_tensor.layout());
            boolean plausible = random.nextBoolean();
            gatun_tensor.struct_size(t, plausible ? 128 : (int) number());
            gatun_tensor.dtype(t, random.nextInt(plausible ? 7 : 12) - (plausible ? 0 : 2));
            int rank = random.nextInt(plausible ? 5 : 9) - (plausible ? 0 : 1);
            gatun_tensor.rank(t, rank);
            gatun_tensor.buffer(t, plausible ? buffer : random.nextBoolean() ? freed : number());
            gatun_tensor.offset_bytes(t, plausible ? 4L * random.nextInt(20) : number());
            for (int i = 0; i < 6; i++) {
                boolean odd = random.nextInt(plausible ? 20 : 3) == 0;
                gatun_tensor.shape(t, i, odd ? number() : 1 + random.nextInt(3));
                gatun_tensor.stride(t, i, odd ? number() : i == rank - 1 ? 1 : random.nextInt(20));
            }
            return t;
        }
    }

    @Test
    void wrongArgumentsGetASentence() throws Exception {
        Child.Result result =
                Child.run(
                        List.of(
                                "--enable-native-access=ALL-UNNAMED",
                                "-Dgatun.library.path=" + System.getProperty("gatun.library.path")),
                        Map.of(),
                        Caller.class,
                        Long.toString(SEED),
                        Integer.toString(CALLS));
        String output = result.output();
        assertThat(result.exit())
                .as(
                        "seed %d, the end of it: %s",
                        SEED, output.substring(Math.max(0, output.length() - 2000)))
                .isZero();
        assertThat(output).containsPattern("functions (\\d+) refused \\1 ");
    }
}
