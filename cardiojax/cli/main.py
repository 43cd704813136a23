"""`cardiojax VERB …`: finds the verb, and turns errors into one line and an exit code."""

import gc
import importlib
import logging
import os
import select
import sys
from pathlib import Path

from cardiojax.errors import InputError, Preempted
from cardiojax.machine import usable_cores

VERBS = {
    "demo": "a phantom patient as raw DICOM, measured: a table, a page, masks, in seconds",
    "build": "write a dataset: phantom, acdc, kaggle_dsb, mnms, ukbb, reports, synthetic → TFDS",
    "train": "train a network: contours, sfera (studies → volumes), gaugan (masks → images)",
    "combine": "contours and a SFERA as one model, a hybrid",
    "local": "several processes of one machine as one training, started again where one dies",
    "evaluate": "measure a run on a split: metrics.json, predictions.csv, figures, report.html",
    "experiment": "the paper's question on two datasets: RSO, SSO, RSP, RSA, ablations, seeds",
    "bench": "throughput, latency, memory; beside PyTorch's",
    "predict": "studies on disk → a table of volumes, pages, masks, DICOM",
    "port": "weights of other libraries → ours: VGG, NVlabs/SPADE",
    "models": "list the models that come with the package",
    "export": "a run → one file to give away",
    "doctor": "versions, devices, extras and a self-test, for a bug report",
    "show": "say what a run or model is",
}
PREEMPTED = 75
UNREAD = 141               # as of a program that SIGPIPE ends


def main(argv: list[str] | None = None) -> int:
    """Run one verb. 0 success, 1 some of many studies failed, 2 the user's to mend, 75 stopped and saved, 141 nobody
    reads the output any more."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: cardiojax VERB [options]     (cardiojax VERB --help says more)\n")
        print("\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items()))
        print("\nCompiled programs are kept in ~/.cache/cardiojax/jax, or in CARDIOJAX_CACHE; --no-cache keeps none.")
        return 0 if argv else 2
    if argv[0] == "--version":
        from cardiojax import __version__
        print(__version__)
        return 0
    if argv[0] not in VERBS:
        return fail(f"no verb '{argv[0]}'; there are {', '.join(VERBS)}")
    set_up(cache="--no-cache" not in argv)
    argv = [argument for argument in argv if argument != "--no-cache"]
    try:
        code = importlib.import_module(f"cardiojax.cli.{argv[0]}").main(argv[1:])
        sys.stdout.flush()
        return code
    except InputError as error:
        return fail(str(error))
    except Preempted as stop:
        print(f"cardiojax: {stop}", file=sys.stderr)
        return PREEMPTED
    except OSError as error:              # a full disk, a folder that may not be written
        if isinstance(error, BrokenPipeError) and nobody_reads():
            return UNREAD
        if error.strerror is None:
            raise
        return fail(f"{error.strerror}: {error.filename or ''}".rstrip(": "))
    except KeyboardInterrupt:
        print("cardiojax: interrupted", file=sys.stderr)
        return 130


def fail(message: str) -> int:
    print(f"cardiojax: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def nobody_reads() -> bool:
    """Whether whoever read our output has left, as `| head` does; what is still to be written goes nowhere then."""
    output, polled = sys.stdout.fileno(), select.poll()
    polled.register(output, 0)                      # errors alone
    left = bool(polled.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return left


def with_our_flags() -> str:
    """XLA_FLAGS, by default without the trial of each fusion in Triton: a gathered sum takes it six seconds to compile,
    and comes out ten times slower (measured on an H200 with jax 0.11.2)."""
    flags, trial = os.environ.get("XLA_FLAGS", ""), "--xla_gpu_experimental_enable_fusion_autotuner"
    return flags if trial in flags else f"{flags} {trial}=false".strip()


def set_up(cache: bool = True):
    """Log lines of cardiojax on stderr, those of its libraries only where they are errors; a compilation cache, in
    CARDIOJAX_CACHE or the user's own folder: whoever may write to it can have their code run.

    The cache is one for each number of cores: XLA compiles for as many threads as a process may use, and JAX's key does
    not know of it. What was compiled on one core is a sixth slower on two than it could be.
    """
    os.environ["XLA_FLAGS"] = with_our_flags()
    if cache:
        own = os.environ.get("CARDIOJAX_CACHE") or Path.home() / ".cache" / "cardiojax" / "jax"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(own) / f"{usable_cores()}_cores"))
    else:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    gc.set_threshold(100_000, 50, 50)      # tracing makes objects by the million that stay: a seventh of its time
    logging.raiseExceptions = False        # a log that has no room left (build.log) is no reason for a traceback
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.CRITICAL)       # Orbax logs, with a traceback, what it raises as well
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = shown
    ours = logging.getLogger("cardiojax")
    ours.handlers = [handler]
    ours.propagate = False
    ours.setLevel(logging.INFO)


def shown(kind, error, trace):
    """Whatever nobody catches; but not what TensorStore shows of every array that was being written when a disk was
    full, for what happened is raised as well."""
    if str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, trace)
