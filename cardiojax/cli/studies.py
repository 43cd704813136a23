"""The studies that a command line names, and reading them ahead."""

import collections
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cardiojax.errors import InputError

log = logging.getLogger("cardiojax")


def found(arguments: Iterable[Path]) -> list[Path]:
    """Every study and archive that the arguments name, once."""
    from cardiojax.readers import find_studies

    roots = []
    for path in arguments:
        if path.suffix == ".txt" and path.is_file():
            roots += [Path(line.strip()) for line in path.read_text().splitlines() if line.strip()]
        else:
            roots.append(path)
    return list(dict.fromkeys(p for root in roots for p in find_studies(root)))


def check_names(paths: list[Path], distinct: bool):
    """Raises InputError where `distinct` and two studies have the same name; else that is a warning."""
    from cardiojax.readers import study_id_of

    twice = [n for n, count in collections.Counter(map(study_id_of, paths)).items() if count > 1]
    if twice:
        many = f"several studies are called {', '.join(twice[:3])}{' …' if len(twice) > 3 else ''}"
        if distinct:
            raise InputError(f"{many}, so --resume cannot tell which of them are measured")
        log.warning("%s; their rows are told apart by their order alone", many)


def ahead(read: Callable, paths: list[Path], workers: int) -> Iterator[Callable]:
    """`read` of each path, in order, by threads that stay a few studies ahead; what it raises comes when called."""
    with ThreadPoolExecutor(workers) as pool:
        queue: collections.deque = collections.deque()
        for path in paths:
            queue.append(pool.submit(read, path))
            if len(queue) > 2 * workers:
                yield queue.popleft().result
        while queue:
            yield queue.popleft().result
