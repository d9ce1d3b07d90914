"""Runs a Kedro pipeline in the working folder and tells what share of the run MLflow took.

    cd PROJECT && python -m tests.bench.mlflow_share kedro run --pipelines=train

Counted is what happens within MLflow's client and functions and within kedro-mlflow's hook, whoever calls them, and of
calls within calls the outermost. MLflow is imported before the clock starts, and the database should be there.
"""

import sys
import time
from collections import Counter
from functools import wraps
from pathlib import Path

from kedro.framework.cli.cli import main


class Clock:
    """Seconds on the wall and of this thread's processor within functions that it was put around."""

    def __init__(self) -> None:
        self.depth, self.wall, self.processor = 0, 0.0, 0.0
        self.calls: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def around(self, owner: object, name: str) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def timed(*arguments, **options):
            if self.depth:
                return function(*arguments, **options)
            self.depth = 1
            wall, processor = time.perf_counter(), time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                self.depth = 0
                self.wall += time.perf_counter() - wall
                self.seconds[name] += time.perf_counter() - wall
                self.processor += time.thread_time() - processor
                self.calls[name] += 1

        setattr(owner, name, timed)


def put_around_mlflow(clock: Clock) -> None:
    import mlflow
    from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook

    for owner in (mlflow.MlflowClient, MlflowHook):
        for name in [name for name, each in vars(owner).items() if callable(each) and name != "__init_subclass__"]:
            clock.around(owner, name)
    for name in (
        "start_run",
        "end_run",
        "active_run",
        "log_metric",
        "log_metrics",
        "log_params",
        "log_dict",
        "set_tags",
    ):
        clock.around(mlflow, name)


if __name__ == "__main__":
    clock = Clock()
    put_around_mlflow(clock)
    sys.path.insert(0, str(Path.cwd() / "src"))
    sys.argv = sys.argv[1:]
    wall, processor = time.perf_counter(), time.process_time()
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"wall: MLflow {clock.wall:.2f} of {wall:.1f} s, {clock.wall / wall:.2%}")  # noqa: T201
    print(f"processor: MLflow {clock.processor:.2f} of {processor:.1f} s, {clock.processor / processor:.2%}")  # noqa: T201
    for name, seconds in clock.seconds.most_common(8):
        print(f"{seconds:6.2f} s in {clock.calls[name]} times {name}")  # noqa: T201
