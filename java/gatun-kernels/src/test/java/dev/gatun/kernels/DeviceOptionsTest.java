package dev.gatun.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;

class DeviceOptionsTest {

    @Test
    void sizesAreReadAsWritten() {
        assertThat(DeviceOptions.bytes("1048576")).isEqualTo(1 << 20);
        assertThat(DeviceOptions.bytes("4GiB")).isEqualTo(4L << 30);
        assertThat(DeviceOptions.bytes("1.5 GB")).isEqualTo(1_500_000_000L);
        assertThat(DeviceOptions.bytes("500MB")).isEqualTo(500_000_000L);
        assertThat(DeviceOptions.bytes("512k")).isEqualTo(512 << 10);
        assertThat(DeviceOptions.bytes("7b")).isEqualTo(7);
        double whole = DeviceOptions.bytes("100%");
        assertThat(DeviceOptions.bytes("50%") / whole).isCloseTo(0.5, within(0.1));
        for (String wrong : new String[] {"", "much", "-1", "0", "101%", "0%", "1e9", "5 TB"}) {
            assertThatIllegalArgumentException()
                    .as(wrong)
                    .isThrownBy(() -> DeviceOptions.bytes(wrong))
                    .withMessageStartingWith("gatun.memory.budget: wanted");
        }
    }

    @Test
    void propertiesAreTheDefaults() {
        System.setProperty("gatun.cpu.simd", "plain");
        System.setProperty("gatun.cpu.threads", "1");
        System.setProperty("gatun.memory.budget", "256MiB");
        try (Device device = Device.open("cpu")) {
            assertThat(device.simd()).isEqualTo(DeviceOptions.Simd.PLAIN);
            assertThat(device.threads()).isOne();
            assertThat(device.memory().budgetBytes()).isEqualTo(256L << 20);
            System.setProperty("gatun.cpu.threads", "none");
            assertThatIllegalArgumentException()
                    .isThrownBy(DeviceOptions::defaults)
                    .withMessage("gatun.cpu.threads: wanted a number above 0, had 'none'");
            System.setProperty("gatun.cpu.threads", "2");
            System.setProperty("gatun.cpu.simd", "sse9");
            assertThatIllegalArgumentException()
                    .isThrownBy(DeviceOptions::defaults)
                    .withMessage("gatun.cpu.simd: wanted plain, avx2 or avx512, had 'sse9'");
        } finally {
            System.clearProperty("gatun.cpu.simd");
            System.clearProperty("gatun.cpu.threads");
            System.clearProperty("gatun.memory.budget");
        }
        assertThatIllegalArgumentException()
                .isThrownBy(() -> DeviceOptions.defaults().withThreads(-1));
    }

    @Test
    void cudaSaysWhyItIsNotHere() {
        boolean gpu =
                Device.available().stream().anyMatch(a -> a.here() && !a.name().equals("cpu"));
        try (Device best = Device.best()) {
            assertThat(best.reason()).isNotBlank();
            if (gpu) {
                // whichever it took, it says why
                assertThat(best.reason()).containsAnyOf("there is a GPU", "has no kernel yet");
                return;
            }
            assertThat(best.name()).isEqualTo("cpu");
            assertThat(best.reason()).startsWith("cuda: ");
        }
        assertThatThrownBy(() -> Device.open("cuda"))
                .isInstanceOfSatisfying(
                        GatunException.class,
                        e -> assertThat(e.status()).isEqualTo(GatunException.Status.UNAVAILABLE))
                .hasMessageStartingWith("cuda: ");
        assertThat(Device.available())
                .anySatisfy(a -> {
                    assertThat(a.name()).isEqualTo("cuda");
                    assertThat(a.here()).isFalse();
                    assertThat(a.description()).isNotBlank();
                });
    }
}
