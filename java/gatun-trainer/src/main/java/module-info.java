/** Training of Gatun's models: the loop, its data, its checkpoints and its reports. */
module dev.gatun.trainer {
    requires transitive dev.gatun.transformers;
    requires transitive com.fasterxml.jackson.databind;
    requires static transitive org.jspecify;

    exports dev.gatun.trainer;
}
