package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.Consumer;

/**
 * A step that is captured once and then launched as often as wanted, each time for the price of one
 * call: its ops, in their order, on the same tensors.
 *
 * <p>What changes from launch to launch is a value on the device: write the ids, positions or the
 * learning rate into their tensors, then launch. What the step makes lies in memory of the graph's
 * own; a tensor that it {@link Ops#keep}s is written anew by each launch. Nothing runs during the
 * capture, so the step can neither upload nor read values. A backward pass has its {@link
 * Ops#tape}.
 *
 * <pre>{@code
 * Tensor[] y = new Tensor[1];
 * try (Graph graph = Graph.capture(device, Rng.of(0), ops -> y[0] = ops.keep(ops.gelu(x, TANH)))) {
 *     x.write(values);
 *     graph.launch();
 *     float[] result = y[0].toFloats();
 * }
 * }</pre>
 */
public final class Graph implements AutoCloseable {
    private final Device device;
    private final long handle;
    private boolean closed;

    private Graph(Device device, long handle) {
        this.device = device;
        this.handle = handle;
        device.leaks.made(this);
    }

    /**
     * Captures what a step does.
     *
     * @throws GatunException INVALID_ARGUMENT where it copies to or from the host, or waits
     */
    public static Graph capture(Device device, Rng rng, Consumer<Ops> step) {
        Stream stream = device.takeCapturing();
        Native.check(GatunH.gatun_graph_begin(stream.handle()), "graph_begin");
        try (Ops ops = new Ops(stream, rng)) {
            step.accept(ops);
        } catch (Throwable e) {
            new Graph(device, end(stream)).close();
            throw e;
        }
        return new Graph(device, end(stream));
    }

    /** The native graph; the stream may be used again. */
    private static long end(Stream stream) {
        stream.adopt(Thread.currentThread());
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment result = arena.allocate(ValueLayout.JAVA_LONG);
            Native.check(GatunH.gatun_graph_end(stream.handle(), result), "graph_end");
            return result.get(ValueLayout.JAVA_LONG, 0);
        } finally {
            stream.device.giveCapturing(stream);
        }
    }

    /**
     * Enqueues the step behind all work of the device so far.
     *
     * @throws GatunException INVALID_HANDLE where a tensor from outside that it uses was closed
     */
    public void launch() {
        if (closed) {
            throw new IllegalStateException("launch: the graph is closed");
        }
        Native.check(GatunH.gatun_graph_launch(device.stream(), handle), "graph_launch");
    }

    /**
     * Waits for the device's work, then frees the graph; tensors that the step kept live on.
     *
     * @throws IllegalStateException the second time
     */
    @Override
    public void close() {
        if (closed) {
            throw new IllegalStateException("close: the graph is closed already");
        }
        closed = true;
        device.leaks.gone(this);
        if (device.isOpen()) {
            Native.check(GatunH.gatun_graph_destroy(handle), "graph_destroy");
        }
    }
}
