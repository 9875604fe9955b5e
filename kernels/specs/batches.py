"""Where sums over the rows of a batch are cut. It follows from the number of rows alone, never from threads or CPUs."""

MICRO_BATCH_ROWS = 1024
"""Rows processed at a time, and the longest chain of one sum of the gradient."""

GROUP_ROWS = 128 * MICRO_BATCH_ROWS
"""Rows of a group of micro-batches. A larger batch's gradient is a sum of its groups' sums, since a single chain of
16 000 float32 micro-batches would be off by 1e-5."""
