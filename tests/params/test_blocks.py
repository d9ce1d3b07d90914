"""Every parameters file of every environment is valid, and nothing invalid passes."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
from kedro.config import OmegaConfigLoader
from pydantic import ValidationError

from fisao_pipeline import params
from fisao_pipeline.params.base import StageParams
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.compare_runs import ComparedRun, CompareRunsParams, RunSettings
from fisao_pipeline.params.image_ingestion import ImageIngestionParams
from fisao_pipeline.params.lmms_eval import HarnessModel, LmmsEvalParams
from fisao_pipeline.params.lora import LoraParams
from fisao_pipeline.params.plan import Card, PlanParams, Utilisation
from fisao_pipeline.params.pocket import PocketPhase, PocketScenesParams, PocketVerifierParams, PocketVLMParams
from fisao_pipeline.params.policy_training import (
    DPOParams,
    OptimiserParams,
    PolicyTrainingParams,
    PPOParams,
    RejectionSamplingParams,
)
from fisao_pipeline.params.pope_questions import PopeQuestionsParams
from fisao_pipeline.params.reporting import ReportingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import ContrastParams, FixedBaseline, RewardAnnotationParams
from fisao_pipeline.params.runtime import RuntimeParams
from fisao_pipeline.params.score_predictions import ScorePredictionsParams
from fisao_pipeline.params.study import Arm, StudyParams
from fisao_pipeline.params.theorem import TheoremParams
from fisao_pipeline.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[2] / "conf"
ENVIRONMENTS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "local")
MODELS = {
    "image_ingestion": ImageIngestionParams,
    "response_sampling": ResponseSamplingParams,
    "reward_annotation": RewardAnnotationParams,
    "policy_training": PolicyTrainingParams,
    "benchmark_evaluation": BenchmarkEvaluationParams,
    "reporting": ReportingParams,
    "pocket_scenes": PocketScenesParams,
    "pocket_verifier": PocketVerifierParams,
    "pocket_vlm": PocketVLMParams,
    "pocket_blip2": PocketVerifierParams,
    "pocket_instructblip": PocketVLMParams,
    "seed_study": StudyParams,
    "ablation": StudyParams,
    "theorem": TheoremParams,
    "plan": PlanParams,
    "runtime": RuntimeParams,
    "score_predictions": ScorePredictionsParams,
    "pope_questions": PopeQuestionsParams,
    "compare_runs": CompareRunsParams,
    "lmms_eval": LmmsEvalParams,
}


def load(env: str) -> dict:
    return OmegaConfigLoader(str(CONF), env=env, **{**CONFIG_LOADER_ARGS, "default_run_env": env})["parameters"]


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_block_of_every_environment_is_valid(env):
    blocks = load(env)
    assert set(MODELS) <= set(blocks)
    for name, model in MODELS.items():
        model(**blocks[name])


def test_every_model_has_its_block():
    blocks = {
        value
        for module in iter_modules(params.__path__)
        for value in vars(import_module(f"{params.__name__}.{module.name}")).values()
        if isinstance(value, type) and issubclass(value, StageParams) and value is not StageParams
    }
    trainers = {OptimiserParams, PPOParams, DPOParams, RejectionSamplingParams}
    of_plan = {Card, Utilisation}
    others = {Arm, ContrastParams, FixedBaseline, LoraParams, PocketPhase}
    of_comparison = {ComparedRun, RunSettings, HarnessModel}
    nested = others | of_plan | of_comparison | trainers
    of_scoring = {type(value) for _, value in ScorePredictionsParams(**load("base")["score_predictions"])} & blocks
    assert blocks - nested - of_scoring == set(MODELS.values())


def test_an_environment_keeps_what_it_does_not_set():
    base, smoke = load("base"), load("smoke")
    assert smoke["policy_training"]["rounds"] != base["policy_training"]["rounds"]
    assert smoke["policy_training"]["ppo"]["clip_range"] == base["policy_training"]["ppo"]["clip_range"]


@pytest.mark.parametrize("name", MODELS)
def test_an_unknown_key_is_refused_by_name(name):
    with pytest.raises(ValidationError, match="clip_rnage"):
        MODELS[name](**load("base")[name], clip_rnage=1)


@pytest.mark.parametrize("name", MODELS)
def test_a_block_never_changes_after_loading(name):
    block = MODELS[name](**load("base")[name])
    with pytest.raises(ValidationError, match="frozen"):
        setattr(block, next(iter(MODELS[name].model_fields)), 1)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("image_ingestion", "split_fractions", {"training": 0.5, "calibration": 0.4}),
        ("image_ingestion", "min_side_pixels", 100_000),
        ("response_sampling", "temperature", 0.0),
        ("response_sampling", "responses_per_prompt", 0),
        ("reward_annotation", "template", "no place for the word"),
        ("reward_annotation", "calibration", "guess"),
        ("reward_annotation", "false_mention_cost", 0.5),
        ("reward_annotation", "granularity", "word"),
        ("reward_annotation", "phrase_words", 0),
        ("reward_annotation", "paid_by", "a guess"),
        ("reward_annotation", "contrast.agreement", 0.5),
        ("reward_annotation", "contrast.absent_words", 0),
        ("policy_training", "ppo.kl_penalty", "both"),
        ("policy_training", "rounds", 0),
        ("policy_training", "lora.targets", []),
        ("policy_training", "ppo.clip_range", 1.5),
        ("policy_training", "ppo.micro_batch_size", 7),
        ("policy_training", "ppo.kl_target_nats", 0),
        ("policy_training", "ppo.unlikely_below", 0),
        ("policy_training", "ppo.value_width", 0),
        ("policy_training", "ppo.value_learning_rate", 0),
        ("policy_training", "ppo.unlikely_cost", -1),
        ("policy_training", "trainer", "grpo"),
        ("policy_training", "dpo.beta", 0),
        ("policy_training", "dpo.ranked_by", "chance"),
        ("policy_training", "dpo.pairs_per_prompt", 0),
        ("policy_training", "dpo.min_gap", -0.1),
        ("policy_training", "dpo.micro_batch_size", 7),
        ("policy_training", "rejection_sampling.min_gap", -0.1),
        ("policy_training", "rejection_sampling.batch_size", 0),
        ("benchmark_evaluation", "confidence", 1.0),
        ("benchmark_evaluation", "decodings", []),
        ("benchmark_evaluation", "decodings", ["greedy", "greedy"]),
        ("benchmark_evaluation", "decodings", ["nucleus"]),
        ("benchmark_evaluation", "num_beams", 1),
        ("benchmark_evaluation", "examples", -1),
        ("benchmark_evaluation", "responses_per_shard", 0),
        ("response_sampling", "responses_per_shard", 0),
        ("policy_training", "checkpoint_every_steps", 0),
        ("compare_runs", "runs", {"a b": "latest"}),
        ("compare_runs", "runs", {"a": {"predictions": "latest", "model": "tuned"}}),
        ("compare_runs", "allow_different", ["everything"]),
        ("pocket_verifier", "batch_size", 10_000_000),
        ("pocket_vlm", "phases", []),
        ("seed_study", "seeds", [1, 1]),
        ("theorem", "ignored_share", 1.5),
        ("theorem", "image_text_correlation", 1.0),
        ("theorem", "policy_std", 0.0),
        ("theorem", "vision_weights", 1),
        ("ablation", "arms", []),
        ("ablation", "arms", [{"name": "a", "set": {}}, {"name": "a", "set": {}}]),
        ("ablation", "arms", [{"name": "a b", "set": {}}]),
    ],
)
def test_what_is_out_of_range_is_refused(name, path, value):
    block = load("base")[name]
    *parents, leaf = path.split(".")
    inner = block
    for parent in parents:
        inner = inner[parent]
    inner[leaf] = value
    with pytest.raises(ValidationError, match=leaf):
        MODELS[name](**block)


def test_a_fixed_calibration_needs_its_baseline():
    block = {**load("base")["reward_annotation"], "calibration": "fixed", "fixed_baseline": None}
    with pytest.raises(ValidationError, match="`fixed` needs fixed_baseline"):
        RewardAnnotationParams(**block)


def test_labels_pay_mentions_and_not_sentences():
    block = {**load("base")["reward_annotation"], "paid_by": "annotations", "granularity": "sentence"}
    with pytest.raises(ValidationError, match="paid_by `annotations` pays mentions"):
        RewardAnnotationParams(**block)


def test_the_template_holds_one_place_and_nothing_else():
    block = load("base")["reward_annotation"]
    for template in ("{}", "a photo of a {}", "a {} in {{braces}}"):
        RewardAnnotationParams(**{**block, "template": template}).template.format("x")
    for template in ("{} and {}", "{0}", "{name} {}", "{:>9}", "{!r}", "{:{}}", "{{}}", "a {} {", "a {} }", "no place"):
        with pytest.raises(ValidationError, match=r"template.*(exactly one|does not format)"):
            RewardAnnotationParams(**{**block, "template": template})


@pytest.mark.parametrize("correct_mean", [0.1, 0.2])
def test_a_fixed_baseline_that_would_pay_hallucinations_is_refused(correct_mean):
    others = {"std": 0.05, "mixing_weight": 0.5, "sentence_mean": 0.2, "sentence_std": 0.1}
    with pytest.raises(ValidationError, match=r"correct_mean .* must exceed hallucinated_mean 0\.2"):
        FixedBaseline(correct_mean=correct_mean, hallucinated_mean=0.2, **others)


@pytest.mark.parametrize("name", [name for name in MODELS if "seed" in MODELS[name].model_fields])
def test_a_seed_fits_every_generator(name):
    block = load("base")[name]
    assert MODELS[name](**{**block, "seed": 2**32 - 1}).seed == 2**32 - 1
    for seed in (-1, 2**32):
        with pytest.raises(ValidationError, match="seed"):
            MODELS[name](**{**block, "seed": seed})


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_are_finite(value):
    block = load("base")["policy_training"]
    with pytest.raises(ValidationError, match="finite number"):
        PolicyTrainingParams(**{**block, "ppo": {**block["ppo"], "learning_rate": value}})
