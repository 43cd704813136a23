"""A network's random numbers in one draw."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

Network = TypeVar("Network")


class Cut(nnx.Rngs):
    """Normal numbers from wherever `take` has them; its streams of keys are not for drawing."""

    def __init__(self, take: Callable[[tuple[int, ...]], Array]):
        super().__init__(0)
        self.take = take

    def normal(self, shape: tuple[int, ...]) -> Array:         # pyright: ignore[reportIncompatibleMethodOverride]
        return self.take(shape)


def drawn_at_once(build: Callable[[nnx.Rngs], Network], key: Array) -> Network:
    """What `build` makes, all of its normal numbers cut from one draw. A draw for each of a GauGAN's hundred arrays is
    a program that takes a CPU 17 s to compile."""
    size = 0

    def count(shape: tuple[int, ...]) -> Array:
        nonlocal size
        size += math.prod(shape)
        return jnp.zeros(shape)

    def counted() -> Any:
        build(Cut(count))

    jax.eval_shape(counted)
    numbers, at = jax.random.normal(key, (size,)), 0

    def cut(shape: tuple[int, ...]) -> Array:
        nonlocal at
        at += math.prod(shape)
        return numbers[at - math.prod(shape):at].reshape(shape)

    return build(Cut(cut))
