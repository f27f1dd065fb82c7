# mypy: allow-untyped-defs, allow-incomplete-defs
"""Small dense kernels out of 16-float vectors, as functions that numba-compiled code calls.

numba hands LLVM scalar loops; what comes back for rows of a few dozen floats is mostly loop set-up, and accumulators
that travel through memory. These intrinsics write the LLVM instructions themselves: accumulators are registers, eight
rows share each load of the vector they meet, eight sums over lanes are taken together. LLVM maps a 16-float vector on
what the machine has (one AVX-512 register, two of AVX2, four of NEON).

Matrices are C-ordered float32 with a row length (stride) that is a multiple of 16, see `_layout`; columns beyond
the rank are zero, and a row count is a multiple of 8. So no kernel has a remainder. Offsets are in rows and columns.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lakefactor.kernels._layout import LANES

GROUP = 8
"""Rows that are taken together; entries are padded to a multiple of it."""

TOGETHER, STRIP = 4, 64
"""Rows and columns of a product with a matrix that are taken together."""

_FLOAT, _WIDE, _LANE = ir.FloatType(), ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
_EIGHT = ir.VectorType(ir.FloatType(), GROUP)
_FUSED = ("contract",)


class _Code:
    """Writes the instructions of one intrinsic."""

    def __init__(self, context: Any, builder: Any, signature: Any) -> None:
        self.context, self.builder, self.signature = context, builder, signature

    def pointer(self, argument: int, value: Any) -> Any:
        """Return the address of an array's first element."""
        return self.context.make_array(self.signature.args[argument])(self.context, self.builder, value).data

    def integers(self, first: int, values: Any) -> list[Any]:
        """Return integer arguments as int64."""
        kinds = self.signature.args[first : first + len(values)]
        return [self.context.cast(self.builder, v, kind, types.int64) for v, kind in zip(values, kinds, strict=True)]

    def at(self, pointer: Any, *offsets: Any) -> Any:
        """Return the address some floats further on."""
        total = offsets[0]
        for offset in offsets[1:]:
            total = self.builder.add(total, offset)
        return self.builder.gep(pointer, [total])

    def load(self, address: Any, kind: Any = _WIDE) -> Any:
        return self.builder.load(self.builder.bitcast(address, kind.as_pointer()), align=4)

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.bitcast(address, value.type.as_pointer()), align=4)

    def splat(self, scalar: Any) -> Any:
        first = self.builder.insert_element(ir.Constant(_WIDE, ir.Undefined), scalar, _LANE(0))
        return self.builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_LANE, LANES), [0] * LANES))

    def lane(self, vector: Any, i: int) -> Any:
        return self.builder.extract_element(vector, _LANE(i))

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FUSED)

    def add_product(self, total: Any, a: Any, b: Any) -> Any:
        return self.add(total, self.builder.fmul(a, b, flags=_FUSED))

    def subtract_product(self, total: Any, a: Any, b: Any) -> Any:
        return self.builder.fsub(total, self.builder.fmul(a, b, flags=_FUSED), flags=_FUSED)

    def zeros(self, count: int) -> list[Any]:
        """Return accumulators; LLVM turns these stack slots into registers."""
        slots = [cgutils.alloca_once(self.builder, _WIDE) for _ in range(count)]
        for slot in slots:
            self.builder.store(ir.Constant(_WIDE, None), slot)
        return slots

    def columns(self, width: Any) -> Any:
        """Loop over the vectors of a row."""
        return cgutils.for_range(self.builder, self.builder.ashr(width, width.type(4)))

    def column(self, loop: Any) -> Any:
        return self.builder.shl(loop.index, loop.index.type(4))

    def rows(self, pointer: Any, stride: Any, count: int) -> list[Any]:
        """Return the addresses of some rows from ``pointer`` on."""
        offsets = [self.builder.mul(stride, stride.type(i)) for i in range(count)]
        return [self.at(pointer, offset) for offset in offsets]

    def chosen(self, source: Any, stride: Any, indices: Any, first: Any) -> list[Any]:
        """Return the addresses of the eight rows of argument 0 whose int32 numbers begin at indices[first]."""
        kinds = [getattr(kind, "dtype", None) for kind in self.signature.args]
        position = kinds.index(types.int32)
        numbers, pointer = self.at(self.pointer(position, indices), first), self.pointer(0, source)
        found = [self.builder.load(self.at(numbers, ir.IntType(64)(i))) for i in range(GROUP)]
        return [self.at(pointer, self.builder.mul(self.builder.sext(f, ir.IntType(64)), stride)) for f in found]

    def prefetch(self, address: Any) -> None:
        """Ask for a cache line that is read soon."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _LANE, _LANE, _LANE])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        self.builder.call(function, [self.builder.bitcast(address, byte), _LANE(0), _LANE(3), _LANE(1)])

    def sums(self, vectors: list[Any]) -> Any:
        """Return the sums over lanes of eight vectors, as one vector of eight."""
        while True:
            pairs = list(zip(vectors[0::2], vectors[1::2], strict=False)) or [(vectors[0], vectors[0])]
            size = LANES if len(vectors) > 1 else GROUP
            even, odd = (
                ir.Constant(ir.VectorType(_LANE, size), [2 * i + o for i in range(size)]) for o in (0, 1)
            )  # fmt: skip
            vectors = [
                self.add(self.builder.shuffle_vector(a, b, even), self.builder.shuffle_vector(a, b, odd))
                for a, b in pairs
            ]
            if size == GROUP:
                return vectors[0]

    def dots(self, rows: list[Any], p: Any, width: Any) -> Any:
        """Return the products of eight rows with ``p``."""
        totals = self.zeros(len(rows))
        with self.columns(width) as loop:
            j = self.column(loop)
            right = self.load(self.at(p, j))
            for row, total in zip(rows, totals, strict=True):
                self.builder.store(
                    self.add_product(self.builder.load(total), self.load(self.at(row, j)), right), total
                )  # fmt: skip
        return self.sums([self.builder.load(total) for total in totals])

    def axpys(self, rows: list[Any], factors: Any, out: Any, width: Any) -> None:
        """Add eight rows, each times its factor, to ``out``."""
        splats = [self.splat(self.lane(factors, i)) for i in range(GROUP)]
        with self.columns(width) as loop:
            j = self.column(loop)
            address = self.at(out, j)
            even, odd = self.load(address), ir.Constant(_WIDE, None)
            for i in range(0, GROUP, 2):  # two chains of additions: half the wait
                even = self.add_product(even, splats[i], self.load(self.at(rows[i], j)))
                odd = self.add_product(odd, splats[i + 1], self.load(self.at(rows[i + 1], j)))
            self.store(self.add(even, odd), address)


@intrinsic
def dots(typing_context, matrix, row, column, stride, p, width, out, at):
    """Set out[at : at + 8] to the products of rows row .. row + 7, from ``column`` on, with p[column:], over width."""

    def generate(context, builder, signature, args):
        code = _Code(context, builder, signature)
        row, column, stride = code.integers(1, args[1:4])
        width, at = code.integers(5, args[5:6])[0], code.integers(7, args[7:8])[0]
        rows = code.rows(code.at(code.pointer(0, args[0]), builder.mul(row, stride), column), stride, GROUP)
        p = code.at(code.pointer(4, args[4]), column)
        code.store(code.dots(rows, p, width), code.at(code.pointer(6, args[6]), at))
        return context.get_dummy_value()

    return types.void(matrix, row, column, stride, p, width, out, at), generate


@intrinsic
def axpys(typing_context, matrix, row, column, stride, factors, at, out, width):
    """Add rows row .. row + 7, from ``column`` on, each times its factors[at + i], to out[column:], over width."""

    def generate(context, builder, signature, args):
        code = _Code(context, builder, signature)
        row, column, stride = code.integers(1, args[1:4])
        at, width = code.integers(5, args[5:6])[0], code.integers(7, args[7:8])[0]
        rows = code.rows(code.at(code.pointer(0, args[0]), builder.mul(row, stride), column), stride, GROUP)
        factors = code.load(code.at(code.pointer(4, args[4]), at), _EIGHT)
        code.axpys(rows, factors, code.at(code.pointer(6, args[6]), column), width)
        return context.get_dummy_value()

    return types.void(matrix, row, column, stride, factors, at, out, width), generate


@intrinsic
def subtract_products(typing_context, panel, row, stride, p, width, weights, first, out):
    """Subtract w_i (y_i'p) y_i from ``out``, with y_i = panel[row + i] and w_i = weights[first + i], i < 8."""

    def generate(context, builder, signature, args):
        code = _Code(context, builder, signature)
        row, stride = code.integers(1, args[1:3])
        width, first = code.integers(4, args[4:5])[0], code.integers(6, args[6:7])[0]
        rows = code.rows(code.at(code.pointer(0, args[0]), builder.mul(row, stride)), stride, GROUP)
        products = code.dots(rows, code.pointer(3, args[3]), width)
        weight = code.load(code.at(code.pointer(5, args[5]), first), _EIGHT)
        factors = code.subtract_product(ir.Constant(_EIGHT, None), weight, products)
        code.axpys(rows, factors, code.pointer(7, args[7]), width)
        return context.get_dummy_value()

    return types.void(panel, row, stride, p, width, weights, first, out), generate


@intrinsic
def gather_residuals(
    typing_context, source, width, indices, weights, targets, first, ahead, p, panel, row, stride, scores, out
):
    """Gather rows y_i into panel[row + i], set scores[i] to y_i'p, add (t_i - w_i y_i'p) y_i to ``out``; i < 8.

    Their numbers, weights and targets begin at ``first``; those of the rows to prefetch at ``ahead``.
    """

    def generate(context, builder, signature, args):
        code = _Code(context, builder, signature)
        (width,) = code.integers(1, args[1:2])
        first, ahead = code.integers(5, args[5:7])
        row, stride = code.integers(9, args[9:11])
        origins, later = (code.chosen(args[0], width, args[2], at) for at in (first, ahead))
        rows = code.rows(code.at(code.pointer(8, args[8]), builder.mul(row, stride)), stride, GROUP)
        p, totals = code.pointer(7, args[7]), code.zeros(GROUP)
        with code.columns(width) as loop:
            j = code.column(loop)
            right = code.load(code.at(p, j))
            for origin, next_one, goal, total in zip(origins, later, rows, totals, strict=True):
                code.prefetch(code.at(next_one, j))
                y = code.load(code.at(origin, j))
                code.store(y, code.at(goal, j))
                builder.store(code.add_product(builder.load(total), y, right), total)
        products = code.sums([builder.load(total) for total in totals])
        code.store(products, code.pointer(11, args[11]))
        weight, target = (code.load(code.at(code.pointer(i, args[i]), first), _EIGHT) for i in (3, 4))
        code.axpys(rows, code.subtract_product(target, weight, products), code.pointer(12, args[12]), width)
        return context.get_dummy_value()

    return (
        types.void(source, width, indices, weights, targets, first, ahead, p, panel, row, stride, scores, out), generate
    )  # fmt: skip


@intrinsic
def add_gathered_dots(typing_context, source, source_stride, column, width, indices, first, p, out, at):
    """Add to out[at + i] the product of source row indices[first + i], from ``column`` on, with ``p``; i < 8."""

    def generate(context, builder, signature, args):
        code = _Code(context, builder, signature)
        source_stride, column, width = code.integers(1, args[1:4])
        first, at = code.integers(5, args[5:6])[0], code.integers(8, args[8:9])[0]
        rows = [code.at(row, column) for row in code.chosen(args[0], source_stride, args[4], first)]
        goal = code.at(code.pointer(7, args[7]), at)
        products = code.dots(rows, code.pointer(6, args[6]), width)
        code.store(code.add(code.load(goal, _EIGHT), products), goal)
        return context.get_dummy_value()

    return types.void(source, source_stride, column, width, indices, first, p, out, at), generate


@intrinsic
def gather_scaled(
    typing_context,
    source,
    source_stride,
    column,
    width,
    indices,
    weights,
    targets,
    first,
    ahead,
    panel,
    row,
    stride,
    out,
):
    """Gather eight source rows y_i from ``column`` on, times sqrt(w_i), into panel[row + i]; add t_i y_i to ``out``.

    Their numbers, weights and targets begin at ``first``; those of the rows to prefetch at ``ahead``.
    """

    def generate(context, builder, signature, args):
        code = _Code(context, builder, signature)
        source_stride, column, width = code.integers(1, args[1:4])
        first, ahead = code.integers(7, args[7:9])
        row, stride = code.integers(10, args[10:12])
        origins, later = (
            [code.at(row, column) for row in code.chosen(args[0], source_stride, args[4], at)] for at in (first, ahead)
        )
        goals = code.rows(code.at(code.pointer(9, args[9]), builder.mul(row, stride)), stride, GROUP)
        out, square_root = code.pointer(12, args[12]), builder.module.declare_intrinsic("llvm.sqrt", [_FLOAT])
        weight, target = (code.load(code.at(code.pointer(i, args[i]), first), _EIGHT) for i in (5, 6))
        roots = [code.splat(builder.call(square_root, [code.lane(weight, i)])) for i in range(GROUP)]
        splats = [code.splat(code.lane(target, i)) for i in range(GROUP)]
        with code.columns(width) as loop:
            j = code.column(loop)
            sums = [code.load(code.at(out, j)), ir.Constant(_WIDE, None)]
            for i in range(GROUP):
                code.prefetch(code.at(later[i], j))
                y = code.load(code.at(origins[i], j))
                sums[i % 2] = code.add_product(sums[i % 2], splats[i], y)
                code.store(builder.fmul(roots[i], y), code.at(goals[i], j))
            code.store(code.add(*sums), code.at(out, j))
        return context.get_dummy_value()

    return (
        types.void(
            source, source_stride, column, width, indices, weights, targets, first, ahead, panel, row, stride, out
        ),
        generate,
    )


@intrinsic
def add_outer(typing_context, panel, n, stride, first, second, sign, out, out_stride):
    """Add sign sum_e panel[e, first + i] panel[e, second + j] to out[first + i, second + j], i and j up to 16.

    The sum over the first ``n`` rows is kept in 16 registers: 17 loads for 16 products of 16 floats.
    """

    def generate(context, builder, signature, args):
        code = _Code(context, builder, signature)
        n, stride, first, second = code.integers(1, args[1:5])
        (out_stride,) = code.integers(7, args[7:8])
        panel, totals = code.pointer(0, args[0]), code.zeros(LANES)
        with cgutils.for_range(builder, n) as loop:
            row = builder.mul(loop.index, stride)
            right, left = code.load(code.at(panel, row, second)), code.at(panel, row, first)
            for i, total in enumerate(totals):
                scalar = builder.load(code.at(left, ir.IntType(64)(i)))
                builder.store(code.add_product(builder.load(total), code.splat(scalar), right), total)
        sign = code.splat(args[5])
        goal = code.at(code.pointer(6, args[6]), builder.mul(first, out_stride), second)
        for total, row in zip(totals, code.rows(goal, out_stride, LANES), strict=True):
            code.store(code.add_product(code.load(row), sign, builder.load(total)), row)
        return context.get_dummy_value()

    return types.void(panel, n, stride, first, second, types.float32, out, out_stride), generate


@intrinsic
def add_combinations(typing_context, matrix, column, stride, first, n, p, p_stride, out):
    """Add sum_e p[i, e] matrix[e, column + j] over e = first .. first + n - 1 to out[i, column + j]; i < 4, j < 64.

    The sums are kept in 16 registers: 8 loads for 16 products of 16 floats. The rows of ``out`` are as long as p's.
    """

    def generate(context, builder, signature, args):
        code = _Code(context, builder, signature)
        column, stride, first, n = code.integers(1, args[1:5])
        (p_stride,) = code.integers(6, args[6:7])
        start = code.at(code.pointer(0, args[0]), builder.mul(first, stride), column)
        factors = code.rows(code.at(code.pointer(5, args[5]), first), p_stride, TOGETHER)
        offsets = [ir.IntType(64)(j) for j in range(0, STRIP, LANES)]
        totals = [code.zeros(len(offsets)) for _ in factors]
        with cgutils.for_range(builder, n) as loop:
            address = code.at(start, builder.mul(loop.index, stride))
            vectors = [code.load(code.at(address, j)) for j in offsets]
            for factor, sums in zip(factors, totals, strict=True):
                scalar = code.splat(builder.load(code.at(factor, loop.index)))
                for total, vector in zip(sums, vectors, strict=True):
                    builder.store(code.add_product(builder.load(total), scalar, vector), total)
        goals = code.rows(code.at(code.pointer(7, args[7]), column), p_stride, TOGETHER)
        for goal, sums in zip(goals, totals, strict=True):
            for total, j in zip(sums, offsets, strict=True):
                address = code.at(goal, j)
                code.store(code.add(code.load(address), builder.load(total)), address)
        return context.get_dummy_value()

    return types.void(matrix, column, stride, first, n, p, p_stride, out), generate


@intrinsic
def factorize_block(typing_context, matrix, first, stride, pivots, inverses):
    """Overwrite the 16 x 16 block on the diagonal at ``first`` with its Cholesky factor U (U'U = block).

    Sets pivots[first:] to the squares of U's diagonal, inverses[first:] to its reciprocals. Below the diagonal the
    block is undefined afterwards.
    """

    def generate(context, builder, signature, args):
        code = _Code(context, builder, signature)
        first, stride = code.integers(1, args[1:3])
        root = builder.module.declare_intrinsic("llvm.sqrt", [_FLOAT])
        start = code.at(code.pointer(0, args[0]), builder.mul(first, stride), first)
        pivots, inverses = (code.at(code.pointer(i, args[i]), first) for i in (3, 4))
        addresses = code.rows(start, stride, LANES)
        rows = [code.load(address) for address in addresses]
        for i in range(LANES):
            pivot, position = code.lane(rows[i], i), ir.IntType(64)(i)
            inverse = builder.fdiv(_FLOAT(1.0), builder.call(root, [pivot]))
            builder.store(pivot, code.at(pivots, position))
            builder.store(inverse, code.at(inverses, position))
            rows[i] = builder.fmul(rows[i], code.splat(inverse))
            code.store(rows[i], addresses[i])
            for later in range(i + 1, LANES):
                rows[later] = code.subtract_product(rows[later], code.splat(code.lane(rows[i], later)), rows[i])
        return context.get_dummy_value()

    return types.void(matrix, first, stride, pivots, inverses), generate


@intrinsic
def solve_strip(typing_context, matrix, first, column, stride, inverses):
    """Overwrite the 16 x 16 block right of the diagonal block U at ``first`` with (U')^-1 of it."""

    def generate(context, builder, signature, args):
        code = _Code(context, builder, signature)
        first, column, stride = code.integers(1, args[1:4])
        start = code.at(code.pointer(0, args[0]), builder.mul(first, stride))
        inverses = code.at(code.pointer(4, args[4]), first)
        triangle, addresses = (code.rows(code.at(start, j), stride, LANES) for j in (first, column))
        rows = [code.load(address) for address in addresses]
        for i in range(LANES):
            position = ir.IntType(64)(i)
            rows[i] = builder.fmul(rows[i], code.splat(builder.load(code.at(inverses, position))))
            code.store(rows[i], addresses[i])
            for later in range(i + 1, LANES):
                element = code.splat(builder.load(code.at(triangle[i], ir.IntType(64)(later))))
                rows[later] = code.subtract_product(rows[later], element, rows[i])
        return context.get_dummy_value()

    return types.void(matrix, first, column, stride, inverses), generate
