"""A few of the kills that `tests.killing.campaign` is for; a hundred and all stages are a command of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.timeout(900)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_a_run_that_is_killed_a_few_times_ends_in_the_same_bits(tmp_path):
    """In a process of its own: it forks, and pytest's threads and connections are nothing to be shared."""
    command = [sys.executable, "-m", "tests.killing.campaign", "--kills=5", "--seed=1", f"--log={tmp_path / 'log.md'}"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "src")]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    log = (tmp_path / "log.md").read_text()
    assert "5 times a stage of a small run was stopped" in log
    assert "| of these with another adapter, history, rollouts, predictions or comparison | 0 |" in log
