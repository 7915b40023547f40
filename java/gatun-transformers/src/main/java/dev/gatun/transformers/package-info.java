/** Models read top to bottom against their papers, their checkpoints, tokenizers and generation. */
@NullMarked
package dev.gatun.transformers;

import org.jspecify.annotations.NullMarked;
