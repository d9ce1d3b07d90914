"""The ablation's table and images in the documents."""

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from tests.smoke_project import Smoke

from fisao_pipeline.commands.cli import cli
from fisao_pipeline.commands.study_docs import put_table
from fisao_pipeline.datasets import AtomicDataset

TABLE = "Written by …\n\n| arm |\n|-----|\n| `a` |\n"
KINDS = {
    "ablation_table.md": ("text.TextDataset", lambda: TABLE),
    "ablation_recall.png": ("matplotlib.MatplotlibDataset", Figure),
    "ablation_budget.png": ("matplotlib.MatplotlibDataset", Figure),
}


@pytest.fixture
def project(tmp_path, mlflow_template, monkeypatch):
    root = Smoke.make(tmp_path / "project", mlflow_template).root
    (root / "docs").mkdir()
    monkeypatch.chdir(root)
    return root


def save(root, version, *names):
    from kedro.io import Version

    for name in names or KINDS:
        kind, make = KINDS[name]
        path = root / "data" / "smoke" / "08_reporting" / name
        AtomicDataset(filepath=path.as_posix(), dataset=kind, version=Version(None, version)).save(make())


def test_what_is_around_the_table_stays():
    page = "# Mine\n<!-- table -->\nold\n<!-- /table -->\nprose\n"
    assert put_table(page, "new\n") == "# Mine\n<!-- table -->\nnew\n<!-- /table -->\nprose\n"


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<!-- table -->",
        "<!-- /table --><!-- table -->",
        "<!-- table --><!-- table --><!-- /table -->",
        "<!-- table --><!-- /table --><!-- /table -->",
    ],
)
def test_a_page_without_a_place_for_it_is_refused(page):
    with pytest.raises(ValueError, match="needs one line"):
        put_table(page, "new")


def test_table_and_images_of_the_latest_run_come_into_the_documents(project):
    save(project, "2026-01-01T00.00.00.000Z")
    done = CliRunner().invoke(cli, ["study-docs", "--env=smoke"])
    assert done.exit_code == 0, done.output
    assert done.output.split()[-3:] == [
        "docs/ablation.md",
        "docs/images/ablation_recall.png",
        "docs/images/ablation_budget.png",
    ]
    page = (project / "docs" / "ablation.md").read_text()
    assert TABLE in page
    for name in ("ablation_recall.png", "ablation_budget.png"):
        assert f"](images/{name})" in page
        assert (project / "docs" / "images" / name).read_bytes().startswith(b"\x89PNG")


def test_table_and_images_of_two_runs_are_not_mixed(project):
    save(project, "2026-01-01T00.00.00.000Z")
    save(project, "2026-01-02T00.00.00.000Z", "ablation_table.md")
    done = CliRunner().invoke(cli, ["study-docs", "--env=smoke"])
    assert done.exit_code == 1 and "of different runs" in done.output
    assert not (project / "docs" / "ablation.md").exists()


def test_without_an_ablation_it_says_what_makes_one(project):
    done = CliRunner().invoke(cli, ["study-docs", "--env=smoke"])
    assert done.exit_code == 1
    assert "`kedro run --env=smoke --pipelines=ablation` makes one" in done.output
