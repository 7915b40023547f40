/** Tensors and transformer ops on a native device, bound through the Foreign Function API. */
module dev.gatun.kernels {
    requires static transitive org.jspecify;

    exports dev.gatun.kernels;
}
