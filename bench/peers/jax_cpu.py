"""JAX on the CPU: single convolutions, compiled once, and their gradients as its own differentiation makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.peers.library import BACKWARD, Library, Operands
from bench.problems import Problem
from bench.timing import Contender

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Jax(Library):
    name = "jax"

    def environment(self) -> dict[str, str]:
        return {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}

    def start(self, threads: int) -> dict[str, str]:
        """JAX has no option for its threads: it takes the CPUs that the process may use."""
        import os

        import jax

        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        jax.devices()  # starts the threads
        return {"JAX": jax.__version__}

    def contender(self, problem: Problem, op: str, operands: Operands) -> Contender:
        import jax

        def convolve(x: jax.Array, weight: jax.Array) -> jax.Array:
            return jax.lax.conv_general_dilated(
                x,
                weight,
                window_strides=problem.stride,
                padding=[(p, p) for p in problem.padding],
                rhs_dilation=problem.dilation,
                feature_group_count=problem.groups,
                dimension_numbers=("NCHW", "OIHW", "NCHW"),
            )

        x, weight, grad_output = map(jax.numpy.asarray, (operands.input, operands.weight, operands.grad_output))
        gradients = {
            "grad_input": lambda x, weight, g: jax.vjp(lambda x: convolve(x, weight), x)[1](g)[0],
            "grad_weight": lambda x, weight, g: jax.vjp(lambda weight: convolve(x, weight), weight)[1](g)[0],
        }
        gradients[BACKWARD] = lambda x, weight, g: jax.vjp(convolve, x, weight)[1](g)
        function, arrays = jax.jit(gradients.get(op, convolve)), (x, weight) if op == "forward" else (x, weight, grad_output)

        def call() -> jax.Array | tuple[jax.Array, ...]:
            return jax.block_until_ready(function(*arrays))

        return Contender(self.name, call)
