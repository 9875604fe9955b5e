"""The micro-kernel: a register tile of C in LLVM vector instructions, and the copies that feed it.

Imports `_jit` only. A tile is ``rows`` x ``columns`` elements of C, at most MR x NR, that stay in vector
registers while k runs once over a slice of A and B::

    C[i, j] = start[i, j] + scale * sum over k of A[i, k] B[k, j]

where start is nothing, a bias or C's former value; then, where wanted, ReLU, or zeros where ReLU's derivative is 0.

    for k:   load NV vectors of B's row k          NV loads
             for each row i of the tile:
                 broadcast A[i, k]                 MR loads
                 acc[i, :] += A[i, k] * B[k, :]    MR x NV FMAs, no two of which wait for each other

Why registers: each FMA of a plain loop loads B and C and stores C; here MR x NV of them share MR + NV
loads, so the FMA units, not the load ports, decide. Why LLVM and not a Python loop: Numba's own loops
leave it to LLVM's heuristics which sums live in registers; an explicit tile of vectors does not.

All addresses and strides are integers in bytes, of NumPy's intp; so one compiled kernel serves every
layout of array. Who calls must keep the arrays alive. Nothing here allocates.

A is read one element at a time, by any strides. The rows of B and C are contiguous vectors, and nothing beyond
``columns`` is read or written.

Order of the sums: an element of C is one chain of FMAs over ascending k that starts at zero. That depends
neither on the tile's height or width nor on where in the tile the element lies.

The last columns: tiles are 4, 2 and 1 vectors wide (one of a single row 16), and only those of one vector are masked;
3 vectors are a tile of 2 and one of 1. Masks and widths for everything: the code of the tiles was 2.5 times longer.

What was measured (Zen 4 and Zen 5, share of the register-only FMA limit):

- 6 x 4 and 8 x 3 vectors reach the limit in L1; 14 x 2 too, but rows of A that lie a power of two apart
  share one cache set, and at 2048 cubed 14 of them do not fit (0.80 to 0.87). MR x NV accumulators, NV
  vectors of B and a broadcast must fit the registers: 7 x 4 of 32 spills (0.40).
- Every height from 1 to MR has a kernel: clamping a 14-row tile at the last rows capped 128 rows at 0.914.
- The epilogue is chosen by arguments after the k loop. One kernel for each would compile twice as long.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import types as _types
from numba.extending import intrinsic as _intrinsic
from numba.np import arrayobj as _arrayobj

from ._jit import registers, vector_bytes

cgutils: Any = _cgutils  # no types
types: Any = _types
arrayobj: Any = _arrayobj


def intrinsic(function: Callable[..., Any]) -> Any:
    """Make a generator of LLVM code a function of compiled code, which leaves out the typing context."""
    return _intrinsic(function)


VECTOR = vector_bytes()
"""Bytes in a vector register."""

MR = 6
"""Rows of the largest tile."""

NV = 4 if registers() >= 32 else 2
"""Vectors in a row of the largest tile.  6 x 4 + 4 + 1 = 29 registers of 32;  6 x 2 + 2 + 1 = 15 of 16."""

WIDTHS = tuple(2**i for i in range(NV.bit_length()))
"""Vectors in a row of a tile: 1, 2, 4.  Only tiles of one vector are masked."""

WIDE = 16 if VECTOR == 64 else 8
"""Vectors in a tile of a single row: B is read once, so long stretches of its rows are what counts. 1,512,512 takes
12 us, in tiles of 4 vectors 14 to 18. 16 sums fit where an FMA reads B from memory; ARM's needs registers for B too."""

STRETCH = 64
"""Iterations of k between which the micro-kernel asks for memory that will be wanted next."""

LINE = 64
"""Bytes of a cache line."""

_BYTE = ir.IntType(8)
_INT32 = ir.IntType(32)
POINTER = ir.PointerType()
VOID = ir.VoidType()


class Vectors:
    """What every generator here needs: LLVM types for one dtype, and short names for common instructions.

    Parameters
    ----------
    builder : ir.IRBuilder
        Where instructions go.
    dtype : Numba type
        Numba's float32 or float64.
    lanes : int, optional
        Elements in a vector; by default as many as fill a register.
    """

    def __init__(self, builder: ir.IRBuilder, dtype: Any, lanes: int | None = None) -> None:
        self.builder = builder
        self.dtype = dtype
        self.bits = dtype.bitwidth
        self.bytes = dtype.bitwidth // 8
        self.lanes = lanes or VECTOR // self.bytes
        self.scalar = ir.FloatType() if self.bits == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.mask = ir.VectorType(ir.IntType(1), self.lanes)
        self.zero = ir.Constant(self.vector, [ir.Constant(self.scalar, 0.0)] * self.lanes)

    def intrinsic(self, name: str, result: ir.Type, *operands: ir.Type) -> ir.Function:
        """Declare an LLVM intrinsic; llvmlite's own ``declare_intrinsic`` refuses vectors."""
        return _declared(self.builder.module, f"llvm.{name}", ir.FunctionType(result, operands))

    def at(self, pointer: ir.Value, offset: ir.Value) -> ir.Value:
        """Give the pointer ``offset`` bytes on."""
        return self.builder.gep(pointer, [offset], source_etype=_BYTE)

    def vectors_at(self, pointer: ir.Value, count: int) -> list[ir.Value]:
        """Pointers to ``count`` vectors, one behind the other."""
        return [self.at(pointer, _INT32(q * self.lanes * self.bytes)) for q in range(count)]

    def prefetch(self, pointer: ir.Value) -> None:
        """Ask for a cache line, to be read soon."""
        ask = self.intrinsic("prefetch.p0", VOID, POINTER, _INT32, _INT32, _INT32)
        self.builder.call(ask, [pointer, _INT32(0), _INT32(3), _INT32(1)])  # for reading, into L1, data

    def splat(self, scalar: ir.Value) -> ir.Value:
        """Give a vector with ``scalar`` in every lane."""
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _INT32(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, self.lanes), None))

    def shuffle(self, x: ir.Value, y: ir.Value, places: list[int]) -> ir.Value:
        """Lanes ``places`` of x followed by y."""
        return self.builder.shuffle_vector(
            x, y, ir.Constant(ir.VectorType(_INT32, self.lanes), [_INT32(p) for p in places])
        )

    def first_lanes(self, count: ir.Value) -> ir.Value:
        """Give the mask of lanes 0 to count - 1."""
        numbers = ir.Constant(ir.VectorType(_INT32, self.lanes), [_INT32(i) for i in range(self.lanes)])
        return self.builder.icmp_signed("<", numbers, self.splat(self.builder.trunc(count, _INT32)))

    def load(self, pointer: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """Read a vector; lanes outside ``mask`` are zero and their memory is not touched."""
        if mask is None:
            return self.builder.load(pointer, typ=self.vector, align=self.bytes)
        masked = self.intrinsic(
            f"masked.load.v{self.lanes}f{self.bits}.p0", self.vector, POINTER, _INT32, self.mask, self.vector
        )
        return self.builder.call(masked, [pointer, _INT32(self.bytes), mask, self.zero])

    def store(self, value: ir.Value, pointer: ir.Value, mask: ir.Value | None = None) -> None:
        """Write a vector; memory of lanes outside ``mask`` is not touched."""
        if mask is None:
            self.builder.store(value, pointer, align=self.bytes)
            return
        masked = self.intrinsic(
            f"masked.store.v{self.lanes}f{self.bits}.p0", VOID, self.vector, POINTER, _INT32, self.mask
        )
        self.builder.call(masked, [value, pointer, _INT32(self.bytes), mask])

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """X * y + z.  ``llvm.fmuladd``: where there is no FMA, ``llvm.fma`` calls libm lane by lane."""
        name = f"fmuladd.v{self.lanes}f{self.bits}"
        return self.builder.call(self.intrinsic(name, self.vector, *[self.vector] * 3), [x, y, z])

    def relu(self, x: ir.Value) -> ir.Value:
        """0 where x < 0, else x.  Not ``maxnum``, which turns NaN into 0."""
        return self.builder.select(self.builder.fcmp_ordered("<", x, self.zero), self.zero, x)

    def where_positive(self, gate: ir.Value, x: ir.Value) -> ir.Value:
        """X where gate > 0, else 0."""
        return self.builder.select(self.builder.fcmp_ordered(">", gate, self.zero), x, self.zero)

    def phi(self, *incoming: tuple[ir.Value, ir.Block]) -> ir.Value:
        """Give the value that belongs to the block from which control came."""
        phi = self.builder.phi(incoming[0][0].type)
        for value, block in incoming:
            phi.add_incoming(value, block)
        return phi

    def unless_zero(self, number: ir.Value) -> Any:
        """Context manager: what is emitted inside runs where ``number`` is not zero."""
        return self.builder.if_then(self.builder.icmp_signed("!=", number, number.type(0)))


def _declared(module: ir.Module, name: str, kind: ir.FunctionType) -> ir.Function:
    return module.globals.get(name) or ir.Function(module, kind, name)


def function(module: ir.Module, name: str, arguments: list[ir.Type]) -> tuple[ir.Function, ir.IRBuilder | None]:
    """Give a module's function of that name, which returns nothing, and where its code goes; None if it has some."""
    result = _declared(module, name, ir.FunctionType(VOID, arguments))
    if result.blocks:
        return result, None
    result.linkage = "linkonce_odr"  # one copy, however many modules are linked
    for attribute in ("noinline", "nounwind", "optsize"):
        result.attributes.add(attribute)
    return result, ir.IRBuilder(result.append_basic_block("entry"))


def _keep_small(builder: ir.IRBuilder) -> None:
    """Keep LLVM from unrolling and unswitching the loops around: nothing is gained, compiling took 2.5 s, not 1.9."""
    builder.function.attributes.add("optsize")


# ------------------------------------------------------------------------------------------- the tile


def _tile(module: ir.Module, dtype: Any, rows: int, vectors: int) -> ir.Function:
    """Give the LLVM function that computes tiles of ``rows`` x ``vectors``; generated once a module."""
    intp = ir.IntType(types.intp.bitwidth)
    scalar = ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()
    tile, builder = function(module, f"fastnet.tile.{dtype}.{rows}x{vectors}x{VECTOR}", [intp] * 17 + [scalar])
    if builder is None:
        return tile
    columns, k, tiles, a, a_row, a_step, a_next, b, b_step, *outputs, scale = tile.args
    code = Vectors(builder, dtype)
    mask = code.first_lanes(columns) if vectors == 1 else None
    places = dict(zip(("c", "start", "relu", "gate"), zip(outputs[::2], outputs[1::2], strict=True), strict=True))
    # From a tile to the one below it; address 0, which means nothing, stays 0.
    steps = [
        builder.select(builder.icmp_signed("==", at, intp(0)), intp(0), builder.mul(row, intp(rows)))
        for at, row in places.values()
    ]
    before, loop, after = builder.block, builder.append_basic_block("tile"), builder.append_basic_block("done")
    builder.branch(loop)

    builder.position_at_end(loop)
    phis = [code.phi((x, before)) for x in (tiles, a, *(at for at, _ in places.values()))]
    left, a, *now = phis
    here = {name: (at, row) for at, (name, (_, row)) in zip(now, places.items(), strict=True)}
    sums = _sums_over_k(code, rows, vectors, mask, k, (a, a_row, a_step, a_next), (b, b_step), here["c"])
    finish(code, sums, vectors, mask, here, scale)
    fewer = builder.sub(left, intp(1))
    moved = [builder.add(at, step) for at, step in zip(now, steps, strict=True)]
    for phi, value in zip(phis, (fewer, builder.add(a, a_next), *moved), strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed(">", fewer, intp(0)), loop, after)

    builder.position_at_end(after)
    builder.ret_void()
    return tile


def _sums_over_k(
    code: Vectors,
    rows: int,
    vectors: int,
    mask: ir.Value | None,
    k: ir.Value,
    a: tuple[ir.Value, ...],
    b: tuple[ir.Value, ...],
    c: tuple[ir.Value, ...],
) -> list[ir.Value]:
    """Emit the loop; gives rows x vectors sums, row by row.  No iteration where k is 0.

    In stretches of STRETCH iterations, between which it asks for what will be wanted next: another row of C, and of
    the tile below the part of A that is as far on as the last stretch; so where A's rows are contiguous. Where they are
    not, packed slivers for one, it asks for some lines of that part, which the CPU foresees by itself (no difference).
    """
    builder, intp = code.builder, k.type
    (a, a_row, a_step, a_next), (b, b_step) = a, b
    offsets = [builder.mul(intp(i), a_row) for i in range(rows)]
    a0, b0 = builder.inttoptr(a, POINTER), builder.inttoptr(b, POINTER)
    before = builder.block
    stretch, loop, stretched, ask, after = (
        builder.append_basic_block(name) for name in ("stretch", "k", "stretched", "ask", "sums")
    )
    builder.cbranch(builder.icmp_signed(">", k, intp(0)), stretch, after)

    builder.position_at_end(stretch)
    starts = [code.phi((start, before)) for start in (k, a0, b0, c[0], *[code.zero] * (rows * vectors))]
    rest = builder.sub(starts[0], intp(STRETCH))
    rest = builder.select(builder.icmp_signed("<", rest, intp(0)), intp(0), rest)
    builder.branch(loop)

    builder.position_at_end(loop)
    left, a_k, b_k = (code.phi((start, stretch)) for start in starts[:3])
    sums = [code.phi((start, stretch)) for start in starts[4:]]
    b_vectors = [code.load(p, mask) for p in code.vectors_at(b_k, vectors)]
    new = []
    for i in range(rows):
        a_ik = code.splat(builder.load(code.at(a_k, offsets[i]), typ=code.scalar, align=code.bytes))
        new += [code.fma(a_ik, b_vectors[q], sums[i * vectors + q]) for q in range(vectors)]
    fewer = builder.sub(left, intp(1))
    advanced = (fewer, code.at(a_k, a_step), code.at(b_k, b_step))
    for phi, value in zip((left, a_k, b_k, *sums), (*advanced, *new), strict=True):
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed(">", fewer, rest), loop, stretched)

    builder.position_at_end(stretched)
    builder.cbranch(builder.icmp_signed(">", fewer, intp(0)), ask, after)

    builder.position_at_end(ask)
    for place in code.vectors_at(builder.inttoptr(starts[3], POINTER), vectors):
        code.prefetch(place)
    below = code.at(starts[1], a_next)
    for offset in offsets:
        for line in range(0, STRETCH * code.bytes, LINE):
            code.prefetch(code.at(below, builder.add(offset, intp(line))))
    for phi, value in zip(starts, (*advanced, builder.add(starts[3], c[1]), *new), strict=True):
        phi.add_incoming(value, ask)
    builder.branch(stretch)

    builder.position_at_end(after)
    return [code.phi((code.zero, before), (x, stretched)) for x in new]


def finish(
    code: Vectors,
    sums: list[ir.Value],
    vectors: int,
    mask: ir.Value | None,
    places: dict[str, tuple[ir.Value, ir.Value]],
    scale: ir.Value,
    numbers: list[ir.Value] | None = None,
) -> None:
    """Emit the epilogue, as `micro_kernel` describes it.

    Places are an address and the bytes from row to row; numbers those of the rows, where they are not 0, 1, 2, ...
    """
    builder = code.builder
    intp = places["c"][0].type
    numbers = numbers or [intp(i) for i in range(len(sums) // vectors)]

    def tile(name: str) -> list[ir.Value]:
        base, row = places[name]
        rows = [code.at(builder.inttoptr(base, POINTER), builder.mul(number, row)) for number in numbers]
        return [p for row_pointer in rows for p in code.vectors_at(row_pointer, vectors)]

    before = builder.block
    with code.unless_zero(places["start"][0]):
        factor = code.splat(scale)
        added = [code.fma(factor, x, code.load(p, mask)) for p, x in zip(tile("start"), sums, strict=True)]
        inside = builder.block
    results = [code.phi((x, before), (y, inside)) for x, y in zip(sums, added, strict=True)]
    before = builder.block
    with code.unless_zero(places["gate"][0]):
        gated = [code.where_positive(code.load(p, mask), x) for p, x in zip(tile("gate"), results, strict=True)]
        inside = builder.block
    results = [code.phi((x, before), (y, inside)) for x, y in zip(results, gated, strict=True)]
    with code.unless_zero(places["c"][0]):
        for p, x in zip(tile("c"), results, strict=True):
            code.store(x, p, mask)
    with code.unless_zero(places["relu"][0]):
        for p, x in zip(tile("relu"), results, strict=True):
            code.store(code.relu(x), p, mask)


@intrinsic
def micro_kernel(
    typing_context: Any,
    dtype: Any,
    rows: Any,
    columns: Any,
    k: Any,
    tiles: Any,
    a: Any,
    b: Any,
    c: Any,
    start: Any,
    relu: Any,
    gate: Any,
    scale: Any,
) -> Any:
    """Tiles of C = start + scale A B, one below the other; of its ReLU, or of it behind a gate.

    Parameters
    ----------
    dtype : dtype
        Of all arrays: float32 or float64.
    rows, columns, k, tiles : intp
        A tile's height, 1 to MR; its width, one of WIDTHS in vectors, or less than one vector; how many products
        are summed (0 gives zeros); how many tiles of that height, at least 1.
    a : (intp, intp, intp, intp)
        Address of A[0, 0]; bytes from a row of A to the next, from a k to the next, and from a tile to the next.
    b, c : (intp, intp)
        Address of B[0, 0] and of C[0, 0]; bytes from a row to the next.  C's may be 0: it is not stored.
    start : (intp, intp)
        The same of what is added to the sums: C itself; a bias, with 0 bytes from row to row; address 0 for nothing.
    relu : (intp, intp)
        The same of an array that receives max(0, C); address 0 for none.
    gate : (intp, intp)
        The same of an array where whose elements are not above 0, C becomes 0; address 0 for none.
    scale : float
        Of the arrays' dtype; multiplies the sums where something is added to them.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, rows, columns, k, tiles, *matrices, scale = arguments
        _keep_small(builder)
        intp = rows.type
        numbers = [columns, k, tiles, *(x for matrix in matrices for x in cgutils.unpack_tuple(builder, matrix)), scale]
        lanes = VECTOR * 8 // dtype.dtype.bitwidth
        vectors = builder.sdiv(builder.add(columns, intp(lanes - 1)), intp(lanes))
        done, impossible = builder.append_basic_block("tile_done"), builder.append_basic_block("no_such_tile")
        choice = builder.switch(builder.add(builder.mul(vectors, intp(MR + 1)), rows), impossible)
        for height, width in (*product(range(1, MR + 1), WIDTHS), (1, WIDE)):
            block = builder.append_basic_block(f"tile_{height}x{width}")
            choice.add_case(intp(width * (MR + 1) + height), block)
            builder.position_at_end(block)
            builder.call(_tile(builder.module, dtype.dtype, height, width), numbers)
            builder.branch(done)
        builder.position_at_end(impossible)  # the macro-kernel cuts tiles that there are
        builder.unreachable()
        builder.position_at_end(done)
        return context.get_dummy_value()

    pair, quad = types.UniTuple(types.intp, 2), types.UniTuple(types.intp, 4)
    return types.void(dtype, *[types.intp] * 4, quad, *[pair] * 5, dtype.dtype), codegen


# --------------------------------------------------------------------------------- what packing needs


@intrinsic
def layout(typing_context: Any, array: Any) -> Any:
    """(address of the first element, the strides in bytes).  `keep` the array while that is used."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        struct = context.make_array(array)(context, builder, arguments[0])
        start = builder.ptrtoint(struct.data, context.get_value_type(types.intp))
        strides = cgutils.unpack_tuple(builder, struct.strides)
        return context.make_tuple(builder, signature.return_type, [start, *strides])

    return types.UniTuple(types.intp, 1 + array.ndim)(array), codegen


@intrinsic
def keep(typing_context: Any, array: Any) -> Any:
    """Nothing, after the last use of an array's address: Numba frees what no later line names."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.get_dummy_value()

    return types.void(array), codegen


@intrinsic
def array_at(typing_context: Any, dtype: Any, address: Any, shape: Any) -> Any:
    """The C-contiguous array of a dtype and shape, a tuple, at an address.  Who calls keeps the memory alive.

    What ``numba.carray`` gives, which compiles two functions at every use, 30 ms each.
    """
    array = types.Array(dtype.dtype, len(shape), "C")

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, address, packed = arguments
        shape = cgutils.unpack_tuple(builder, packed)
        item = dtype.dtype.bitwidth // 8
        strides = [shape[0].type(item)]
        for extent in shape[:0:-1]:
            strides.insert(0, builder.mul(strides[0], extent))
        result = context.make_array(array)(context, builder)
        data = builder.inttoptr(address, context.get_data_type(array.dtype).as_pointer())
        arrayobj.populate_array(result, data, shape, strides, shape[0].type(item), None)
        return result._getvalue()

    return array(dtype, types.intp, shape), codegen


@intrinsic
def keep_small(typing_context: Any) -> Any:
    """Compile the function around for size: what only calls kernels gains nothing from unrolled loops."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _keep_small(builder)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def item_bytes(typing_context: Any, dtype: Any) -> Any:
    """Bytes of an element, as a constant."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.intp, dtype.dtype.bitwidth // 8)

    return types.intp(dtype), codegen


@intrinsic
def copy_element(typing_context: Any, dtype: Any, target: Any, source: Any) -> Any:
    """Copy one element."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, target, source = arguments
        code = Vectors(builder, dtype.dtype, lanes=1)
        code.store(code.load(builder.inttoptr(source, POINTER)), builder.inttoptr(target, POINTER))
        return context.get_dummy_value()

    return types.void(dtype, types.intp, types.intp), codegen


@intrinsic
def allocate(typing_context: Any, size: Any) -> Any:
    """Address of so many bytes, until they are handed to `release`; MemoryError where there are none.

    Less than ``numpy.empty``: nobody counts references, 20 ns a call, and nothing is compiled for it, 0.1 s a caller.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        memory = context.nrt.allocate(builder, arguments[0])  # which raises
        return builder.ptrtoint(memory, arguments[0].type)

    return types.intp(types.intp), codegen


@intrinsic
def release(typing_context: Any, memory: Any) -> Any:
    """Give back what `allocate` gave."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        context.nrt.free(builder, builder.inttoptr(arguments[0], POINTER))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def copy_bytes(typing_context: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy so many bytes from an address to another; the two ranges lie apart."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, source, count = arguments
        cgutils.raw_memcpy(builder, *(builder.inttoptr(p, POINTER) for p in (target, source)), count, 1)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), codegen


@intrinsic
def copy_vector(typing_context: Any, dtype: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy the first ``count`` elements as one whole vector, with zeros behind them."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, target, source, count = arguments
        _keep_small(builder)
        code = Vectors(builder, dtype.dtype)
        pointer = builder.inttoptr(source, POINTER)
        with builder.if_else(builder.icmp_signed(">=", count, count.type(code.lanes))) as (full, part):
            with full:
                x, x_block = code.load(pointer), builder.block
            with part:
                y, y_block = code.load(pointer, code.first_lanes(count)), builder.block
        code.store(code.phi((x, x_block), (y, y_block)), builder.inttoptr(target, POINTER))
        return context.get_dummy_value()

    return types.void(dtype, types.intp, types.intp, types.intp), codegen


@intrinsic
def prefetch(typing_context: Any, place: Any) -> Any:
    """Ask for the cache line at an address, which need not be valid, to be read soon."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        Vectors(builder, types.float32).prefetch(builder.inttoptr(arguments[0], POINTER))
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def sum_rows(
    typing_context: Any, dtype: Any, target: Any, source: Any, source_row: Any, rows: Any, columns: Any, fresh: Any
) -> Any:
    """Target = the sum of rows, or that added to it unless ``fresh``, in order; of the first NV or of one vector.

    NV vectors where there are so many columns, else one, masked. The sums stay in registers: a loop that adds row after
    row to memory waits for its own stores: a step of 64-128-128-10 took 92 us with it, 86 without.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, target, source, source_row, rows, columns, fresh = arguments
        code = Vectors(builder, dtype.dtype)
        intp = rows.type
        to, start = builder.inttoptr(target, POINTER), builder.inttoptr(source, POINTER)

        def emit(vectors: int, mask: ir.Value | None) -> None:
            places = code.vectors_at(to, vectors)
            before = builder.block
            with builder.if_then(builder.icmp_signed("==", fresh, fresh.type(0))):
                kept = [code.load(p, mask) for p in places]
                inside = builder.block
            first = [code.phi((code.zero, before), (x, inside)) for x in kept]
            entry = builder.block
            loop, after = builder.append_basic_block("row"), builder.append_basic_block("summed")
            builder.cbranch(builder.icmp_signed(">", rows, intp(0)), loop, after)
            builder.position_at_end(loop)
            left, at = code.phi((rows, entry)), code.phi((start, entry))
            sums = [code.phi((x, entry)) for x in first]
            new = [builder.fadd(x, code.load(p, mask)) for x, p in zip(sums, code.vectors_at(at, vectors), strict=True)]
            fewer = builder.sub(left, intp(1))
            for phi, value in zip((left, at, *sums), (fewer, code.at(at, source_row), *new), strict=True):
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed(">", fewer, intp(0)), loop, after)
            builder.position_at_end(after)
            results = [code.phi((x, entry), (y, loop)) for x, y in zip(first, new, strict=True)]
            for p, x in zip(places, results, strict=True):
                code.store(x, p, mask)

        with builder.if_else(builder.icmp_signed(">=", columns, intp(NV * code.lanes))) as (wide, narrow):
            with wide:
                emit(NV, None)
            with narrow:
                emit(1, code.first_lanes(columns))
        return context.get_dummy_value()

    return types.void(dtype, *[types.intp] * 6), codegen
