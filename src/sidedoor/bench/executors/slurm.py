"""Cells as an array of Slurm jobs by submitit: a job for each model, so that no two jobs train the same one.

A job is a sweep of its own on the store's folder, which all nodes share. It has no state: started again after it was
preempted or ran out of time, it goes on with what the store does not have yet.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidedoor.bench.executors.base import THREADS, Cell, Jobs
from sidedoor.bench.executors.errand import Errand
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.run import broken, finished
from sidedoor.bench.shards import by_model
from sidedoor.bench.store import Store
from sidedoor.errors import CannotComplete, ConfigError

log = logging.getLogger("sidedoor")
AGAIN = 3
"""Times that a job is started again after it has run out of time."""
POLL = 5.0
"""Seconds between two looks at the jobs."""

MINUTES = 720
"""That a job may take before it is started again, unless --slurm says so; submitit's own default is 5."""
PLAIN = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
"""Parameters that submitit has for clusters of any kind; others are Slurm's own."""


def submitter(folder: Path, given: Mapping[str, Any], most: int | None) -> Any:
    """submitit's executor.

    Args:
        folder: of its own files and the logs of jobs, which all nodes share.
        given: its parameters, such as partition; `cluster` is "slurm", or "local" for processes of this machine.
        most: jobs at a time; None: as submitit has it.

    Raises:
        CannotComplete: submitit is not installed, or there is no Slurm here.
        ConfigError: submitit does not know a parameter.
    """
    try:
        import submitit
    except ImportError as error:
        raise CannotComplete("the executor slurm needs submitit; pip install 'sidedoor[slurm]'") from error
    parameters = {"name": "sidedoor", "cpus_per_task": THREADS, "timeout_min": MINUTES, **given}
    cluster = parameters.pop("cluster", "slurm")
    if most is not None:
        parameters["slurm_array_parallelism"] = most
    named = {key if key in PLAIN or key.startswith("slurm_") else f"slurm_{key}": value
             for key, value in parameters.items()}
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=AGAIN)
        executor.update_parameters(**named)
    except RuntimeError as error:
        raise CannotComplete(f"cannot submit jobs to {cluster}: {error}") from error
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(f"--slurm {' '.join(f'{k}={v}' for k, v in given.items())} given: {error}") from error
    return executor


class Part:
    """The cells of one model, as a job."""

    def __call__(self, errands: Sequence[dict[str, Any]], timeout: float | None) -> int:
        """Run those that the store does not have; how many there are with a result then."""
        from sidedoor.bench.sweep import sweep

        given = [Errand.from_json(errand) for errand in errands]
        for errand in given:
            errand.check()
        first = given[0]
        records = sweep([errand.cell() for errand in given], first.place(), first.machine(), workers=1, timeout=timeout)
        return sum(record.finished for record in records)

    def checkpoint(self, errands: Sequence[dict[str, Any]], timeout: float | None) -> Any:
        """The same again: what is done is in the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, errands, timeout)


@dataclass
class Slurm(Jobs):
    """Submits the parts of a sweep as jobs and waits for them.

    Args:
        submitter: submitit's executor.
        timeout: seconds after which a job gives up a cell.
        sleep: waits for so many seconds.
    """

    store: Store
    machine: Machine
    submitter: Any
    timeout: float | None = None
    sleep: Callable[[float], None] = time.sleep

    def run(self, cells: Sequence[Cell]) -> Iterator[Record]:
        """The records of cells as their jobs end.

        Raises:
            CannotComplete: jobs cannot be submitted.
        """
        parts = by_model(cells)
        errands = [[Errand.of(cell, self.store, self.machine).to_json() for cell in part] for part in parts]
        self.store.root.mkdir(parents=True, exist_ok=True)
        try:
            jobs = self.submitter.map_array(Part(), errands, [self.timeout] * len(parts)) if parts else []
        except (RuntimeError, OSError) as error:
            raise CannotComplete(f"jobs cannot be submitted: {error}") from error
        waiting = list(zip(jobs, parts, strict=True))
        if jobs:
            log.info("%d jobs: %s ...", len(jobs), jobs[0].job_id)
        while waiting:
            ended = [(job, part) for job, part in waiting if job.done()]
            waiting = [each for each in waiting if each not in ended]
            for job, part in ended:
                yield from self._records(job, part)
            if waiting and not ended:
                self.sleep(POLL)

    def _records(self, job: Any, part: Sequence[Cell]) -> Iterator[Record]:
        """Of the cells of a job that has ended; those of its death, if it wrote none."""
        died = job.exception()
        for cell in part:
            record = self.store.record(cell.key) if died is None else finished(self.store, cell.key)
            if record is None:
                why = f"job {job.job_id} ended: {_last(died)}" if died else f"job {job.job_id} ended without a record"
                record = broken(cell.spec, cell.key, "error", f"{why}; its log is in {job.paths.stderr}")
                self.store.put(record)
            yield record


def _last(error: Exception) -> str:
    """The last line of what a job raised, which is a traceback in words."""
    lines = [line for line in str(error).strip().splitlines() if line.strip(" -")]
    return lines[-1] if lines else type(error).__name__
