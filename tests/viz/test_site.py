"""What is done to Kedro-Viz's page, and where the site may be written."""

import json
import re
from pathlib import Path

import kedro_viz
import pytest
from click.testing import CliRunner

from fisao_pipeline.commands.cli import cli
from fisao_pipeline.viz.site import MARKER, mended

PAGE = (Path(kedro_viz.__file__).parent / "html" / "index.html").read_text(encoding="utf-8")


def test_the_page_asks_for_nothing_from_elsewhere_and_may_not():
    assert "https://" in PAGE, "if Kedro-Viz no longer does, nothing needs to be removed"
    page = mended(PAGE)
    assert "https://" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy.startswith("default-src 'self';") and "*" not in policy and "http" not in policy
    # Before what it is to hold for.
    assert page.index("Content-Security-Policy") < page.index("localStorage") < page.index('<script type="module"')
    first = re.search(r"localStorage.KedroViz \?\?= '([^']*)'", page).group(1)
    assert json.loads(first)["orientation"] == "horizontal"


@pytest.mark.parametrize("name", ["photo.jpg", "api/main"])
def test_a_folder_of_others_is_not_replaced(tmp_path, monkeypatch, name):
    monkeypatch.chdir(Path(__file__).parents[2])
    mine = tmp_path / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    done = CliRunner().invoke(cli, ["viz-site", f"--output={tmp_path / 'mine'}"])
    assert done.exit_code == 1 and "is not replaced" in done.output
    assert mine.read_text() == "mine" and not (tmp_path / "mine" / MARKER).exists()


def test_outside_of_a_project_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["viz-site"])
    assert done.exit_code == 1 and "no Kedro project" in done.output
    assert list(tmp_path.iterdir()) == []
