"""What γ and β from a table of fixed size cost beside every pixel's, on this machine: `cardiojax.ops.lookup`.

    python benchmarks/lookup.py --json benchmarks/results/lookup.json

One layer of SPADE at 160 pixels, a batch of 32, bfloat16; masks of ellipses, as hearts are. Medians of calls that wait.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cardiojax.cli.bench import device_name
from cardiojax.files import write_text
from cardiojax.ops import lookup
from cardiojax.ops.neighbourhoods import Weights, dense, in_order
from cardiojax.provenance import commit

SIDE, CALLS, HIDDEN, CLASSES = 160, 20, 128, 4


def hearts(n: int) -> jax.Array:
    """Labels of `n` tilted hearts: LV, myocardium round it, RV beside it."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:SIDE, :SIDE]
    masks = np.zeros((n, SIDE, SIDE), np.int32)
    for mask in masks:
        dy, dx = y - SIDE / 2 - rng.normal(0, 8), x - SIDE / 2 - rng.normal(0, 8)
        angle, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.4)
        u, v = dy * np.cos(angle) + dx * np.sin(angle), squeeze * (dx * np.cos(angle) - dy * np.sin(angle))
        mask[np.hypot(u + 25, v) < 22] = 3
        mask[np.hypot(u, v) < 32] = 2
        mask[np.hypot(u, v) < 22] = 1
    return jnp.asarray(masks)


def milliseconds(f, *arguments) -> dict[str, float]:
    f, began, seconds = jax.jit(f), time.perf_counter(), []
    jax.block_until_ready(f(*arguments))
    first = time.perf_counter() - began
    for _ in range(CALLS):
        start = time.perf_counter()
        jax.block_until_ready(f(*arguments))
        seconds.append(time.perf_counter() - start)
    return {"ms": round(1000 * float(np.median(seconds)), 3), "first_call_s": round(first, 1)}


def with_gradient(f):
    return lambda x, weights, g: (f(x, weights), jax.vjp(f, x, weights)[1](g))


def layer(channels: int, labels: jax.Array, table: lookup.Lookup) -> dict[str, dict[str, float]]:
    """Forward, and forward with gradients, of one layer, either way."""
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = (3, 3, CLASSES, HIDDEN), (HIDDEN,), (3, 3, HIDDEN, 2 * channels), (2 * channels,)
    weights = Weights(*(0.1 * jax.random.normal(k, s, jnp.bfloat16) for k, s in zip(keys, shapes, strict=False)))
    x, g = (jax.random.normal(k, (*labels.shape, channels), jnp.bfloat16) for k in keys[4:])

    def densely(x, weights):
        gamma, beta = jnp.split(dense(labels, weights), 2, axis=-1)
        return x * (1 + gamma) + beta

    def looked_up(x, weights):
        return lookup.modulated(x, table, weights)

    return {f"{channels} channels, {name}{what}": milliseconds(wrapped(f), *arguments)
            for name, f in (("dense", densely), ("table", looked_up))
            for what, wrapped, arguments in ((" forward", lambda f: f, (x, weights)),
                                             (" forward and gradients", with_gradient, (x, weights, g)))}


def main():
    parser = argparse.ArgumentParser(description="γ and β from a table of fixed size, beside every pixel's.")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    labels = hearts(args.batch)
    found = int(in_order(labels, CLASSES)[1].sum())
    rows = 256 * -(-3 * found // 512)
    table = jax.jit(lookup.lookup, static_argnums=(1, 2))(labels, CLASSES, rows)
    times = {"the table itself": milliseconds(lambda labels: lookup.lookup(labels, CLASSES, rows), labels)}
    for channels in args.channels:
        times |= layer(channels, labels, table)
    write_text(args.json, json.dumps({
        "device": device_name(jax.devices()[0].device_kind), "jax": jax.__version__, "commit": commit(),
        "batch": args.batch, "side_px": SIDE, "neighbourhoods": found, "rows": rows, "times": times}, indent=1))
    for name, row in times.items():
        print(f"{name:44} {row['ms']:9.3f} ms")


if __name__ == "__main__":
    main()
