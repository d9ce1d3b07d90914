"""What `docs/evaluation.md` tells to type is what the parameters know."""

import re
from pathlib import Path

import pytest
import yaml

from fisao_pipeline.params.lmms_eval import LmmsEvalParams
from fisao_pipeline.params.pope_questions import PopeQuestionsParams
from fisao_pipeline.params.score_predictions import ScorePredictionsParams
from fisao_pipeline.pipeline_registry import register_pipelines

PROJECT = Path(__file__).parents[1]
TEXT = (PROJECT / "docs" / "evaluation.md").read_text(encoding="utf-8")
CONF = PROJECT / "conf" / "base"
BLOCKS = {
    "score_predictions": ScorePredictionsParams,
    "pope_questions": PopeQuestionsParams,
    "lmms_eval": LmmsEvalParams,
}


def shipped(name: str) -> dict:
    return yaml.safe_load((CONF / f"parameters_{name}.yml").read_text(encoding="utf-8"))[name]


def merged(base: dict, change: dict) -> dict:
    both = {key: merged(base[key], value) for key, value in change.items() if isinstance(base.get(key), dict)}
    return {**base, **change, **both}


COMMANDS = re.findall(r"^kedro run .*$", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_pipeline_and_parameters_that_there_are(command):
    assert re.search(r"--pipelines=(\w+)", command)[1] in register_pipelines()
    for setting in re.findall(r"--params=(\S+)", command):
        for pair in setting.split(","):
            dotted, value = pair.split("=")
            block, *path, last = dotted.split(".")
            change = {last: value}
            for key in reversed(path):
                change = {key: change}
            filled = merged(shipped(block), change)
            if block == "score_predictions":  # their own files are asked for together
                filled["amber"] |= dict.fromkeys(("annotations", "relation", "safe_words"), "x")
            BLOCKS[block](**filled)


def test_the_yaml_is_valid():
    text, of_lmms_eval = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    LmmsEvalParams(**merged(shipped("lmms_eval"), yaml.safe_load(of_lmms_eval)["lmms_eval"]))
    params = ScorePredictionsParams(**merged(shipped("score_predictions"), yaml.safe_load(text)["score_predictions"]))
    assert params.benchmarks() == ["chair", "pope"]
    assert len(params.files()) == 11


def test_every_benchmark_has_its_section():
    assert len(COMMANDS) == 8
    modules = ["chair", "pope", "amber", "mme", "caption_metrics", "object_halbench", "clip_score"]
    assert [name for name in modules if f"benchmarks/{name}.py`" not in TEXT] == []


def test_every_link_leads_somewhere():
    assert [
        link for link in re.findall(r"\]\((?!https?://)([^)#]+)", TEXT) if not (PROJECT / "docs" / link).exists()
    ] == []
