"""Images to rows of figures, one after another, in this process or in several."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Self

from pixelprune.cli._requests import SUFFIXES, Attachment, attachments
from pixelprune.cli._sheets import Problem, Reader, Sheet, count_files, sheets_of
from pixelprune.images import signatures, sizes
from pixelprune.images.errors import ImageError
from pixelprune.selection.config import PruneConfig
from pixelprune.stats.costs import Geometry
from pixelprune.stats.images import Row, measure

# Images that wait for each process: enough that none waits for its next one.
_AHEAD = 4


@dataclass(frozen=True)
class Job:
    """An image to measure.

    Attributes:
        source: what holds it.
        category: what to count it under.
        done: files before it, and the share of its own file before it.
    """

    source: Sheet | Attachment
    category: str
    done: float


@dataclass
class Result:
    """What came of a job: a row, or an error; and what libraries warned about."""

    job: Job
    row: Row | None = None
    error: str = ""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """What to measure of each image."""

    model: str
    dpi: int
    transparency: str
    configs: Sequence[PruneConfig]
    geometry: Geometry | None


def is_requests(path: str) -> bool:
    """Whether a path is a file of requests, by its suffix."""
    return path.lower().endswith(SUFFIXES) and not Path(path).is_dir()


def count_inputs(paths: Sequence[str]) -> int:
    """How many files `jobs` will open."""
    return sum(1 if is_requests(path) else count_files(path) for path in paths)


def jobs(paths: Sequence[str]) -> Iterator[Job | Problem]:
    """The images that `paths` stand for, one by one, in order.

    The category of an image in a folder is the folder next below the one that was given, or that one if there is none
    between; that of another file is its parent; that of an image in a request is the file of requests.
    """
    files = 0
    for path in paths:
        if is_requests(path):
            for part in attachments(Path(path)):
                yield part if isinstance(part, Problem) else Job(part, Path(path).name, files + part.offset)
            files += 1
            continue
        last: Path | None = None
        for sheet in sheets_of(path):
            if isinstance(sheet, Problem):
                yield sheet
                continue
            files += sheet.path != last
            last = sheet.path
            yield Job(sheet, _category(Path(path), sheet.path), files)


def _category(given: Path, file: Path) -> str:
    if given == file:
        return _name(file.parent)
    between = file.relative_to(given).parts[:-1]
    return between[0] if between else _name(given)


def _name(folder: Path) -> str:
    return folder.name if folder.name not in ("", "..") else folder.resolve().name or "/"


class _Measurer:
    """Reads and measures one job after another."""

    def __init__(self, task: Task) -> None:
        self._task, self._warnings = task, list[str]()
        self._block = sizes.preset(task.model).block
        self._reader = Reader(task.model, task.dpi, task.transparency, self._warnings.append)

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.__exit__(*error)

    def __call__(self, job: Job) -> Result:
        result, source = Result(job), job.source
        try:
            result.row = self._row(job)
        except ImageError as error:  # names the file, but not the request that holds it
            result.error = str(error) if isinstance(source, Sheet) else f"{source.label}: {error}"
        except MemoryError:
            result.error = f"{source.label}: not enough memory to measure it"
        except OSError as error:
            result.error = f"{source.label}: {error.strerror or error}"
        result.warnings = [*self._warnings]
        self._warnings.clear()
        return result

    def _row(self, job: Job) -> Row:
        source = job.source
        if isinstance(source, Sheet):
            return {"image": str(source.path), "page": source.page, **self._measured(source, job)}
        with source.as_file() as path:
            try:
                measured = self._measured(Sheet(path), job)
            except ImageError as error:
                raise ImageError(self._renamed(str(error), path, source)) from None
            finally:
                self._warnings[:] = [self._renamed(text, path, source, source.label) for text in self._warnings]
        return {"image": str(source.path), "page": None, "line": source.line, "number": source.number, **measured}

    def _measured(self, sheet: Sheet, job: Job) -> Row:
        size, image = self._reader.read(sheet)
        return {
            "category": job.category,
            "width": size[1],
            "height": size[0],
            "model_width": image.shape[1],
            "model_height": image.shape[0],
            "lossy": signatures.is_lossy(sheet.path),
            **measure(image, self._task.configs, self._block, self._task.geometry),
        }

    def _renamed(self, text: str, path: Path, source: Attachment, name: str = "") -> str:
        """`text` without the name of a temporary file."""
        if source.url[:5].lower() != "data:":
            return text
        return text.replace(str(path), name, 1) if name else text.removeprefix(f"{path}: ")


def results(items: Iterator[Job | Problem], task: Task, workers: int) -> Generator[Result | Problem]:
    """What came of each job, in order.

    Args:
        items: jobs, and problems, which are handed on in their places.
        task: what to measure.
        workers: processes; with 1, this one.
    """
    if workers > 1:
        yield from _by_processes(items, task, workers)
        return
    with _Measurer(task) as measurer:
        for item in items:
            yield item if isinstance(item, Problem) else measurer(item)


def _by_processes(items: Iterator[Job | Problem], task: Task, workers: int) -> Generator[Result | Problem]:
    waiting: deque[Future[Result] | Problem] = deque()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (task,))
    try:
        for item in items:
            waiting.append(item if isinstance(item, Problem) else pool.submit(_run, item))
            if len(waiting) >= _AHEAD * workers:
                yield _finished(waiting.popleft())
        while waiting:
            yield _finished(waiting.popleft())
    except BrokenProcessPool:
        yield Problem("a process ended before its images were measured, perhaps for lack of memory; lower --workers")
    finally:
        pool.shutdown(cancel_futures=True)


def _finished(waiting: Future[Result] | Problem) -> Result | Problem:
    return waiting if isinstance(waiting, Problem) else waiting.result()


_measurer: _Measurer


def _start(task: Task) -> None:
    global _measurer
    # Only the first process decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _measurer = _Measurer(task)


def _run(job: Job) -> Result:
    return _measurer(job)
