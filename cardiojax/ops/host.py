"""Work that is small for an accelerator and long to compile for it."""

import contextlib

import jax


def on_host() -> contextlib.AbstractContextManager:
    """Within it JAX computes on the CPU, where there is one: a first state is an array after the other, each of them a
    program of its own on a GPU."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:                                   # JAX_PLATFORMS may hide it
        return contextlib.nullcontext()
