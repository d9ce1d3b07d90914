"""Runs `kedro run --pipelines=train` in the working folder and writes how many seconds its nodes took, MLflow aside."""

import json
import os
import sys
import time
from pathlib import Path

# As a user has it.
os.environ.pop("OMP_NUM_THREADS", None)
os.environ.pop("MKL_NUM_THREADS", None)

# The working folder is a project of its own.
sys.path.insert(0, str(Path(__file__).parents[2]))

from kedro.framework.cli.cli import main
from kedro.framework.hooks import hook_impl
from tests.bench.mlflow_share import Clock, put_around_mlflow


class NodeClock:
    """Adds up the seconds within nodes, less those in which they log to MLflow; loading and saving is outside."""

    def __init__(self, mlflow: Clock) -> None:
        self.mlflow, self.within = mlflow, 0.0

    def now(self) -> float:
        return time.perf_counter() - self.mlflow.wall

    @hook_impl(trylast=True)
    def before_node_run(self, node):
        self.began = self.now()

    @hook_impl(tryfirst=True)
    def after_node_run(self, node):
        self.within += self.now() - self.began


if __name__ == "__main__":
    from fisao_pipeline import settings

    calls = Clock()
    put_around_mlflow(calls)
    clock = NodeClock(calls)
    settings.HOOKS = (*settings.HOOKS, clock)
    sys.path.insert(0, str(Path.cwd() / "src"))
    report = Path(sys.argv[1])
    sys.argv = ["kedro", "run", "--pipelines=train"]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    report.write_text(json.dumps(clock.within))
