package dev.gatun.kernels;

/**
 * A weight of a model as an optimizer sees it.
 *
 * @param name its name in the checkpoint
 * @param weight the tensor; its gradient is {@link Tensor#gradient()}
 * @param decayed whether weight decay applies (matrices and embeddings; not biases, not norms)
 * @param trained whether it is trained at all
 */
public record Parameter(String name, Tensor weight, boolean decayed, boolean trained) {}
