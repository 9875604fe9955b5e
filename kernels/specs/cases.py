"""The sizes at which kernels are checked against the oracle, and the reason for each."""

from .base import Case


def with_options(cases: tuple[Case, ...], options: tuple[str, ...]) -> tuple[Case, ...]:
    """Return every case under every option."""
    return tuple(Case(case.dims, case.why, option) for case in cases for option in options)


EDGES = (
    Case((1, 1, 1), "the smallest"),
    Case((0, 3, 2), "no rows"),
    Case((3, 0, 2), "an empty sum is 0, not what the output held"),
    Case((3, 2, 0), "no columns"),
    Case((1, 64, 64), "one row, as in single-sample training"),
    Case((64, 1, 64), "one term: nothing is summed"),
    Case((64, 64, 1), "one column, as in regression"),
    Case((5, 7, 15), "one less than a vector of 16 floats"),
    Case((6, 9, 16), "exactly a vector"),
    Case((7, 8, 17), "one more than a vector"),
    Case((4, 33, 31), "one less than two vectors"),
    Case((8, 31, 33), "one more than two vectors"),
    Case((13, 130, 65), "one more than a tile of 64 columns; odd rows"),
    Case((37, 93, 41), "odd everywhere"),
    Case((129, 70, 66), "many tiles and an edge on every side"),
    Case((3, 9, 513), "one more than a block of 512 columns"),
    Case((65, 2, 1030), "blocks in both directions, and an edge"),
)
"""Products: (M, K, N), or (B, n, k) of a layer."""

VECTORS = (
    Case((0,), "nothing to do"),
    Case((1,), "less than any vector"),
    Case((15,), "one less than a vector of 16 floats"),
    Case((16,), "exactly a vector"),
    Case((17,), "one more than a vector"),
    Case((63,), "one less than an unrolled loop of vectors"),
    Case((65,), "one more than an unrolled loop of vectors"),
    Case((1003,), "odd and longer than any unrolling"),
)
"""Elementwise operations and updates: number of elements."""

BATCHES = (
    Case((1, 1), "one number"),
    Case((1, 10), "one row"),
    Case((16, 1), "one output, as in regression"),
    Case((17, 3), "fewer columns than a vector"),
    Case((32, 10), "the digits' batch"),
    Case((33, 17), "one more than a vector on both sides"),
    Case((5, 100), "more columns than rows"),
    Case((50, 285), "long rows: one sum over all elements loses more bits than sums of rows"),
)
BATCH_BENCHES = (Case((32, 10), "the digits' batch"), Case((1024, 128), "fits L2"))
"""Losses: (B, k)."""
