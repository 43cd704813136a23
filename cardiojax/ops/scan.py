"""`jax.lax.scan` by platform."""

from collections.abc import Callable
from typing import Any

import jax


def scan(step: Callable[[Any, Any], tuple[Any, Any]], start: Any, xs: Any) -> tuple[Any, Any]:
    """On a GPU unrolled: there a loop's condition is asked for at each step."""
    return jax.lax.scan(step, start, xs, unroll=True if jax.default_backend() == "gpu" else 1)
