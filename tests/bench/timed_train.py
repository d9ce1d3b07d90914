"""Runs `kedro run --pipelines=train` in the working folder and writes how many seconds its nodes took."""

import json
import os
import sys
import time
from pathlib import Path

# As a user has it.
os.environ.pop("OMP_NUM_THREADS", None)
os.environ.pop("MKL_NUM_THREADS", None)

from kedro.framework.cli.cli import main
from kedro.framework.hooks import hook_impl


class NodeClock:
    """Adds up the seconds within nodes; what is loaded and saved for them is outside."""

    def __init__(self) -> None:
        self.within = 0.0

    @hook_impl(trylast=True)
    def before_node_run(self, node):
        self.began = time.perf_counter()

    @hook_impl(tryfirst=True)
    def after_node_run(self, node):
        self.within += time.perf_counter() - self.began


if __name__ == "__main__":
    from fisao_pipeline import settings

    clock = NodeClock()
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
