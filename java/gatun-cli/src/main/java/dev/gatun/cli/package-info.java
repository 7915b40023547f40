/** One class a verb; {@link dev.gatun.cli.Main} starts them. */
@NullMarked
package dev.gatun.cli;

import org.jspecify.annotations.NullMarked;
