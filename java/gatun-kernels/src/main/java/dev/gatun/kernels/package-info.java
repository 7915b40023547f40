/**
 * Tensors, the ops of a transformer and their gradients on a native device.
 *
 * <p>{@link dev.gatun.kernels.Device} is opened once and shared. {@link dev.gatun.kernels.Ops} is a
 * stream and a scope: what it makes dies with it. {@link dev.gatun.kernels.Tape} is an Ops that
 * remembers, so that a forward pass written once serves inference and training. Every op has a
 * class of its own with its documentation, its backward pass and its limits.
 */
@NullMarked
package dev.gatun.kernels;

import org.jspecify.annotations.NullMarked;
