"""The commands beside `run`, by the names that are written everywhere."""

import re
from pathlib import Path

from fisao_pipeline.commands.cli import cli

PROJECT = Path(__file__).parents[2]
WRITTEN = ("Makefile", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "conf/**/*.yml", "src/**/*.py")
CALL = re.compile(r"python -m (fisao_pipeline[\w.]*)\s+([a-z][\w-]*)")


def test_every_command_that_is_written_somewhere_is_there():
    files = [file for pattern in WRITTEN for file in PROJECT.glob(pattern)]
    calls = {call for file in files for call in CALL.findall(file.read_text(encoding="utf-8"))}
    assert len(calls) > 9
    assert {module for module, _ in calls} == {"fisao_pipeline"}
    assert {command for _, command in calls} <= set(cli.commands)
