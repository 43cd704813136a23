"""NVlabs' names and layouts ↔ ours, for a generator and a discriminator of SPADE.

Theirs are torch state dicts (`head_0.norm_0.mlp_gamma.weight`, OIHW); ours are NNX paths
(`head/norm_0/gamma_beta/kernel`, HWIO, γ and β in one).
"""

import re

import jax
import numpy as np
from flax import nnx

from cardiojax.errors import InputError

PARTS = (
    (r"^head/", "head_0/"), (r"^middle_(\d)/", r"G_middle_\1/"), (r"^up/(\d)/", r"up_\1/"), (r"^image/", "conv_img/"),
    (r"^scales/(\d)/convs/0/", r"discriminator_\1/model0/0/"),
    (r"^scales/(\d)/convs/(\d)/", r"discriminator_\1/model\2/0/0/"),
    (r"^scales/(\d)/score/", r"discriminator_\1/model4/0/"),
    (r"/shared/", "/mlp_shared/0/"), (r"/mean$", "/param_free_norm/running_mean"),
    (r"/variance$", "/param_free_norm/running_var"),
)


def leaves(module: nnx.Module) -> dict[str, nnx.Variable]:
    """The variables of a module by path, "head/conv_0/kernel"."""
    found, _ = jax.tree_util.tree_flatten_with_path(nnx.state(module, (nnx.Param, nnx.BatchStat)),
                                                    is_leaf=lambda x: isinstance(x, nnx.Variable))
    return {"/".join(str(getattr(k, "key", k)) for k in path): variable for path, variable in found}


def their_names(path: str, spectral: bool) -> list[str]:
    """The state-dict names behind one of our paths; two for γ|β."""
    for ours, theirs in PARTS:
        path = re.sub(ours, theirs, path)
    path = re.sub(r"/kernel$", "/weight_orig" if spectral else "/weight", path)
    path = re.sub(r"/([uv])$", r"/weight_\1", path)
    name = path.replace("/", ".")
    if ".gamma_beta." in name:
        return [name.replace(".gamma_beta.", f".mlp_{half}.") for half in ("gamma", "beta")]
    return [name]


def _names(module: nnx.Module) -> dict[str, list[str]]:
    paths = leaves(module)
    return {p: their_names(p, p.removesuffix("kernel") + "u" in paths) for p in paths}


def _to_ours(path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if path.endswith("/kernel") and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if path.endswith("/v"):                      # (in, side, side) flattened there, (side, side, in) here
        return array.reshape(-1, *_square(path, shape)).transpose(1, 2, 0).reshape(-1)
    return array


def _to_theirs(path: str, array: np.ndarray) -> np.ndarray:
    if path.endswith("/kernel") and array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if path.endswith("/v"):
        return array.reshape(*_square(path, array.shape), -1).transpose(2, 0, 1).reshape(-1)
    return array


def _square(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
    side = 1 if "conv_s" in path else 4 if path.startswith("scales") else 3
    return side, side


def fill(module: nnx.Module, state: dict[str, np.ndarray]):
    """Put an NVlabs state dict into a generator or discriminator. Raises InputError, naming the tensor that misfits."""
    variables = leaves(module)
    for path, names in _names(module).items():
        if missing := [n for n in names if n not in state]:
            raise InputError(f"the NVlabs weights lack {missing[0]}")
        parts = [_to_ours(path, np.asarray(state[n], np.float32), variables[path].shape) for n in names]
        array = np.concatenate(parts, axis=-1)
        if array.shape != variables[path].shape:
            raise InputError(f"the NVlabs weights' {names[0]} has shape {state[names[0]].shape}, "
                             f"which does not fit {path} {variables[path].shape}")
        variables[path].set_value(jax.numpy.asarray(array))


def to_nvlabs(module: nnx.Module) -> dict[str, np.ndarray]:
    """A generator or discriminator as an NVlabs state dict."""
    out = {}
    for path, names in _names(module).items():
        variable = leaves(module)[path]
        for name, part in zip(names, np.split(np.asarray(variable[...]), len(names), axis=-1), strict=True):
            out[name] = np.ascontiguousarray(_to_theirs(path, part))
    return out
