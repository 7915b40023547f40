/** {@code gatun gpu-check}: everything that a CUDA host can say of the kernels, in one report. */
@NullMarked
package dev.gatun.bench.check;

import org.jspecify.annotations.NullMarked;
