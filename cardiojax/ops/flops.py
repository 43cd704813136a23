"""Floating-point operations of a traced program: of its convolutions and matrix products, from their shapes.

A GPU's compiler hands convolutions to a library and counts none of them: its own count is a hundredth of what is done.
"""

import math
from typing import Any

from jax.extend import core


def flops(jaxpr: core.Jaxpr | core.ClosedJaxpr, platform: str) -> float:
    """Of one run on a "cpu", "cuda" or "tpu"; two for each multiplication with its addition.

    Of branches the cheapest counts, for the dearer ones are what a table of neighbourhoods falls back to (of
    `platform_dependent` ones the platform's); a scan as often as it is long, a `while` of unknown length once. So it is
    a lower bound where the length of a loop depends on the data: of a CPU's table, which is filled in chunks.
    """
    total = 0.0
    for equation in _needed(getattr(jaxpr, "jaxpr", jaxpr)):
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif name == "conv_general_dilated":
            total += _of_convolution(equation)
        elif name == "cond":
            branches, platforms = parameters["branches"], parameters.get("branches_platforms")
            if platforms:
                branches = [b for b, p in zip(branches, platforms, strict=True) if p is None or platform in p][:1]
            total += min(flops(b, platform) for b in branches)
        else:
            times = parameters["length"] if name == "scan" else 1
            total += times * sum(flops(inner, platform) for inner in _inner(parameters))
    return total


def _needed(jaxpr: core.Jaxpr) -> list:
    """The equations that the outputs depend on: a gradient is traced with values that the compiler drops."""
    wanted, found = {v for v in jaxpr.outvars if isinstance(v, core.Var)}, []
    for equation in reversed(jaxpr.eqns):
        if wanted.intersection(equation.outvars):
            found.append(equation)
            wanted.update(v for v in equation.invars if isinstance(v, core.Var))
    return found


def _of_convolution(equation) -> float:
    """Products with a border of zeros count, as they are done; those with the zeros that the gradient of a stride puts
    between the pixels do not."""
    _, kernel, out = (v.aval.shape for v in (*equation.invars, equation.outvars[0]))
    taps = math.prod(kernel[i] for i in equation.params["dimension_numbers"].rhs_spec[1:])      # of one output
    return 2 * math.prod(out) * taps / math.prod(equation.params["lhs_dilation"])


def _inner(parameters: dict) -> list:
    values = [v for p in parameters.values() for v in (p if isinstance(p, tuple | list) else [p])]
    return [v for v in values if isinstance(v, (core.Jaxpr, core.ClosedJaxpr))]


def platform_of(device: Any) -> str:
    """What a program is lowered for there."""
    return {"gpu": "cuda"}.get(device.platform, device.platform)
