"""Forward and backward of SFERA's layers as XLA's CPU backend does them, and as `cardiojax.ops` does.

    python benchmarks/conv_gradients.py [--json FILE]

Each figure is the median of five runs; the two are measured in turn.
"""

import argparse
import json
import platform
import statistics
import time

import jax
from flax import nnx

from cardiojax.ops.convolution import _conv, conv
from cardiojax.ops.pooling import max_pool_2x2

LAYERS = ((75, 16, 16), (37, 16, 32), (37, 32, 32), (18, 64, 64), (9, 128, 128))      # side, channels in, out
IMAGES = 96


def seconds(functions: dict, *arguments) -> dict[str, float]:
    compiled = {name: jax.jit(f) for name, f in functions.items()}
    times = {name: [] for name in functions}
    for f in compiled.values():
        jax.block_until_ready(f(*arguments))
    for _ in range(5):
        for name, f in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(f(*arguments))
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    rows = []
    file = parser.parse_args().json
    for side, fin, fout in LAYERS:
        x = jax.random.normal(jax.random.key(0), (IMAGES, side, side, fin))
        kernel = jax.random.normal(jax.random.key(1), (3, 3, fin, fout))
        gradients = {name: jax.grad(lambda x, k, f=f: (f(x, k) ** 2).sum(), argnums=(0, 1))
                     for name, f in (("xla", lambda x, k: _conv(x, k, 1, (1, 1))), ("cardiojax", conv))}
        rows.append({"what": f"conv 3x3 {side}x{side} {fin}->{fout}, both gradients", **seconds(gradients, x, kernel)})
    x = jax.random.normal(jax.random.key(0), (IMAGES, 75, 75, 16))
    pools = {"xla": lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)), "cardiojax": max_pool_2x2}
    rows.append({"what": "max-pool 75x75 16, gradient",
                 **seconds({n: jax.grad(lambda x, f=f: (f(x) ** 2).sum()) for n, f in pools.items()}, x)})
    for row in rows:
        row["ratio"] = row["xla"] / row["cardiojax"]
        print(f"{row['what']:45} xla {row['xla'] * 1e3:6.0f} ms   cardiojax {row['cardiojax'] * 1e3:6.0f} ms   "
              f"× {row['ratio']:.1f}")
    if file:
        with open(file, "w") as stream:
            json.dump({"device": jax.devices()[0].device_kind, "machine": platform.machine(), "jax": jax.__version__,
                       "dtype": "float32", "rows": rows}, stream, indent=2)


if __name__ == "__main__":
    main()
