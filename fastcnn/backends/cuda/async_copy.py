"""Copies from global to shared memory that pass no registers, and that nobody waits for until `arrived`: cp.async, of compute capability 8.0 and later.

numba has no function for it, so it is PTX in an intrinsic. In the simulator and on earlier GPUs the same kernels run with plain copies, which are waited for.

Source: PTX ISA, "Data Movement and Conversion Instructions: Asynchronous copy".
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.cuda.extending import intrinsic

from ._jit import inlined
from ._memory import SIMULATED, cuda

FIRST = (8, 0)  # compute capability that has it

_WORD, _ADDRESS = ir.IntType(32), ir.IntType(64)


def copies() -> tuple[Any, Any]:
    """(copy_async, arrived), as the current GPU has them. Where there is none, kernels are only compiled, for capabilities that have them."""
    if SIMULATED or (cuda.is_available() and tuple(cuda.get_current_device().compute_capability[:2]) < FIRST):
        return copy_plainly, nothing_to_wait_for
    return copy_async, arrived


@inlined
def copy_plainly(target, at, source, index, inside):
    """target[at] = source[index], or 0 where the place is not inside the source, which is not read there."""
    value = target.dtype.type(0)
    if inside:
        value = source[index]
    target[at] = value


@inlined
def nothing_to_wait_for():
    return None


def _as(builder: Any, number: Any, kind: Any) -> Any:
    """An unsigned integer in another width."""
    if number.type == kind:
        return number
    return builder.trunc(number, kind) if number.type.width > kind.width else builder.zext(number, kind)


@intrinsic
def copy_async(typingctx, target, at, source, index, inside):
    """The same, begun: bytes that are not to be read are filled with zeros."""

    def generate(context, builder, signature, arguments):
        target, at, source, index, inside = arguments
        to_array, from_array = (context.make_array(signature.args[i])(context, builder, value=array).data for i, array in ((0, target), (2, source)))
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        # Where the tile lies in shared memory is the same all the time; without a side effect the compiler takes the question out of loops.
        in_shared = ir.InlineAsm(ir.FunctionType(_ADDRESS, [_ADDRESS]), "cvta.to.shared.u64 $0, $1;", "=l,l")
        tile = builder.trunc(builder.call(in_shared, [builder.ptrtoint(to_array, _ADDRESS)]), _WORD)
        to = builder.add(tile, builder.mul(_as(builder, at, _WORD), ir.Constant(_WORD, size)))
        place = builder.ptrtoint(builder.gep(from_array, [_as(builder, index, _ADDRESS)]), _ADDRESS)
        read = builder.select(inside, ir.Constant(_WORD, size), ir.Constant(_WORD, 0))
        text = f"{{ .reg .u64 from; cvta.to.global.u64 from, $1; cp.async.ca.shared.global [$0], [from], {size}, $2; }}"
        copy = ir.InlineAsm(ir.FunctionType(ir.VoidType(), [_WORD, _ADDRESS, _WORD]), text, "r,l,r,~{memory}", side_effect=True)
        builder.call(copy, [to, place, read])
        return context.get_dummy_value()

    return types.void(target, at, source, index, types.boolean), generate


@intrinsic
def arrived(typingctx):
    """Waits for all copies that this thread has begun. Other threads see them behind the next barrier."""

    def generate(context, builder, signature, arguments):
        builder.call(ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), "cp.async.wait_all;", "~{memory}", side_effect=True), [])
        return context.get_dummy_value()

    return types.void(), generate
