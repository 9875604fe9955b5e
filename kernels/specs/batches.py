"""How sums over the rows of a batch are split. The split depends only on the number of rows, not on threads or CPUs."""

MICRO_BATCH_ROWS = 1024
"""Rows processed at a time, and the most rows that the gradient sums in one chain."""

GROUP_ROWS = 128 * MICRO_BATCH_ROWS
"""Rows of a group of micro-batches. The gradient of a larger batch adds up the sums of its groups, since a single chain
of 16 000 float32 micro-batches would have an error of 1e-5."""
