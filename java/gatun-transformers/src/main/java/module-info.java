/** Models, checkpoints, tokenizers and generation on top of {@code dev.gatun.kernels}. */
module dev.gatun.transformers {
    requires transitive dev.gatun.kernels;
    requires com.fasterxml.jackson.databind;
    requires static transitive org.jspecify;

    exports dev.gatun.transformers;
}
