package user;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;

import dev.gatun.kernels.Device;
import dev.gatun.transformers.Gpt2;
import dev.gatun.transformers.Gpt2Config;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The installed jars, the native library out of one of them, and nothing else. */
class UserTest {
    @TempDir Path folder;

    @Test
    void aModelIsMadeSavedAndOpened() throws Exception {
        assertNull(System.getProperty("gatun.library.path"));
        try (Device device = Device.open("cpu")) {
            float[] logits;
            try (Gpt2 model = Gpt2.create(Gpt2Config.of(61, 24, 2, 2, 16), device, 5, null)) {
                model.save(folder);
                logits = logits(model, device);
            }
            try (Gpt2 model = Gpt2.open(folder, device)) {
                assertArrayEquals(logits, logits(model, device));
            }
            assertEquals(61 * 3, logits.length);
            assertEquals(0, device.memory().buffers());
        }
    }

    private static float[] logits(Gpt2 model, Device device) {
        try (var ops = device.ops()) {
            return model.forward(ops, ops.ids(new int[] {1, 2, 3}, 61, 1, 3)).toFloats();
        }
    }
}
