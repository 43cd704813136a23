"""cardiojax: from short-axis cardiac MRI to left-ventricular volumes, in JAX. `cardiojax.load(run)` opens a run."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from cardiojax.study import Study

if TYPE_CHECKING:
    from cardiojax.models import load

try:
    __version__ = version("cardiojax")
except PackageNotFoundError:
    __version__ = "unknown"

__all__ = ["Study", "__version__", "load"]


def __getattr__(name: str):
    if name == "load":             # late: it brings JAX with it, which the readers do not need
        from cardiojax.models import load
        return load
    raise AttributeError(f"module 'cardiojax' has no attribute {name!r}")
