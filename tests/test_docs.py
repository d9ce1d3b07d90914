"""`docs/method.md` leads from each equation to code, test and departure: whatever it names is there."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from fisao_pipeline.params.policy_training import PolicyTrainingParams, PPOParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams

PROJECT = Path(__file__).parents[1]
METHOD = (PROJECT / "docs" / "method.md").read_text(encoding="utf-8")
DEVIATIONS = (PROJECT / "docs" / "deviations.md").read_text(encoding="utf-8")
SOURCES = sorted((PROJECT / "src" / "fisao_pipeline").rglob("*.py"))
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
FILE = re.compile(r"[\w/.-]+\.(py|yml|md|ipynb|json)")
NAME = re.compile(r"[A-Za-z_][\w.]*")
# `method.md` writes paths from these folders on.
ROOTS = ("src/fisao_pipeline/method", "src/fisao_pipeline", "tests/method", "tests", "conf/base", "docs", "")
# Words of Python, of other libraries or of the shell that stand between backticks as well.
ELSEWHERE = {"_compute_loss", "generate", "null", "d", "b", "t", "v", "m", "sigmoid"}


def names_in(files: list[Path]) -> set[str]:
    """Modules, functions, classes, fields, constants and keys that the code knows."""
    known: set[str] = set()
    for file in files:
        known |= {file.stem, file.parent.name}
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                known.add(node.name)
            elif isinstance(node, ast.arg):
                known.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                known.add(node.id)
            elif isinstance(node, ast.alias):
                known.add(node.asname or node.name)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                known.add(node.value)
    return known


def keys(value) -> set[str]:
    """All keys and texts of a configuration."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    if isinstance(value, list):
        return set().union(*map(keys, value))
    return {value} if isinstance(value, str) else set()


@pytest.fixture(scope="module")
def known() -> set[str]:
    configured = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (PROJECT / "conf").rglob("*.yml")]
    return names_in(SOURCES) | set().union(*map(keys, configured)) | ELSEWHERE


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def test_every_file_is_there():
    files = [token for token in in_backticks(METHOD) if FILE.fullmatch(token)]
    assert len(files) > 20
    missing = [name for name in files if not any((PROJECT / root / name).is_file() for root in ROOTS)]
    assert not missing


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\((?!https?://)([^)#]+)", METHOD)
    assert links
    assert [link for link in links if not (PROJECT / "docs" / link).exists()] == []


def test_every_test_is_there():
    named = [token for token in in_backticks(METHOD) if re.match(r"(Test[A-Z]|test_)", token) and "." not in token]
    assert len(named) > 30
    there = {
        node.name
        for file in TESTS
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    missing = [
        name
        for name in named
        if name not in there and not (name.endswith("…") and any(t.startswith(name[:-1]) for t in there))
    ]
    assert not missing


def test_every_function_and_setting_is_there(known):
    named = [token for token in in_backticks(METHOD) if NAME.fullmatch(token) and not FILE.fullmatch(token)]
    assert len(named) > 100
    missing = [
        token
        for token in named
        if token not in known
        and not token.startswith(("Test", "test_"))
        and not all(part in known for part in token.split("."))
    ]
    assert not missing


def test_every_function_of_the_method_is_named():
    """Each that computes something; checks, properties and what a named function is made of are not equations."""
    helpers = {
        "require_same_shape",
        "file_digest",
        "word_key",
        "plurals",
        "masked_std",
        "masked_row_means",
        "draw_model",
    }
    public = {
        node.name
        for file in SOURCES
        if file.is_relative_to(PROJECT / "src" / "fisao_pipeline" / "method")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    named = {token.split(".")[-1] for token in in_backticks(METHOD)}
    assert sorted(public - named - helpers) == []


def test_every_departure_is_in_the_list_and_every_one_of_the_list_is_referred_to():
    listed = set(re.findall(r"^\| ([A-Z]) \|", DEVIATIONS, flags=re.MULTILINE))
    lists = re.findall(r"Departures?: ([A-Z](?:(?:, | and )[A-Z])*)", METHOD)
    referred = {letter for text in lists for letter in re.findall("[A-Z]", text)}
    referred |= {letter for text in re.findall(r"\(([A-Z](?:, [A-Z])*)\)", METHOD) for letter in text.split(", ")}
    assert referred <= listed
    assert listed - referred <= {"O", "S", "W", "X"}, "those are of the project, not of an equation"


@pytest.mark.parametrize(
    ("block", "field"),
    [
        (RewardAnnotationParams, "rule"),
        (RewardAnnotationParams, "granularity"),
        (RewardAnnotationParams, "calibration"),
        (PPOParams, "advantage"),
        (PPOParams, "kl_penalty"),
        (PolicyTrainingParams, "trainer"),
    ],
)
def test_every_choice_is_explained(block, field):
    text = " ".join(in_backticks(METHOD))
    choices = get_args(block.model_fields[field].annotation)
    assert len(choices) > 1
    assert [choice for choice in choices if not re.search(rf"\b{choice}\b", text)] == []


@pytest.mark.parametrize("part", ["Theorem 3.1", "Figure 1", "Figure 2", "Figure 4", "Figure 5", "adapted_kl_coef"])
def test_the_papers_other_parts_are_there(part):
    assert part in METHOD
