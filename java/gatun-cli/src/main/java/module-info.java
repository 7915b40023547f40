/** The {@code gatun} command. */
@SuppressWarnings(
        "requires-automatic") // jline, of which the progress bar is made, has no module-info
module dev.gatun.cli {
    requires dev.gatun.trainer;
    requires com.fasterxml.jackson.databind;
    requires info.picocli;
    requires java.logging;
    requires me.tongfei.progressbar;
    requires static org.jspecify;

    opens dev.gatun.cli to
            info.picocli;
}
