/** The bindings of gatun.h, made by jextract, and the one class that loads the library. */
@NullMarked
package dev.gatun.kernels.internal;

import org.jspecify.annotations.NullMarked;
