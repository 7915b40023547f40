/** The {@code gatun} command. */
module dev.gatun.cli {
    requires dev.gatun.trainer;
    requires com.fasterxml.jackson.databind;
    requires info.picocli;
    requires static org.jspecify;

    opens dev.gatun.cli to
            info.picocli;
}
