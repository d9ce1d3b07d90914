"""The table that `make run` prints."""

import pytest
from click.testing import CliRunner
from tests.smoke_project import Smoke

from fisao_pipeline.commands.cli import cli


@pytest.mark.parametrize(("arguments", "env"), [(["--env=smoke"], "--env=smoke "), ([], "")])
def test_without_a_comparison_it_says_what_makes_one(tmp_path, mlflow_template, monkeypatch, arguments, env):
    monkeypatch.chdir(Smoke.make(tmp_path / "project", mlflow_template).root)
    said = CliRunner().invoke(cli, ["show", *arguments])
    assert said.exit_code == 1
    assert f"`kedro run {env}--pipelines=benchmark_evaluation` makes one" in said.output
