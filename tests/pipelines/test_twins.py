"""Whole runs of every supported architecture at random weights: `train`, then `benchmark_evaluation`.

Tiny models with the real classes and processors, a verifier of the kind that goes with each, a dozen rendered pictures
of different sizes. Words of their tokenizers are objects of COCO, so that random answers name some; which of them are
true is chance, hence the fixed baseline of the environment `smoke`.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from tests.backbone_zoo import ZOO, build
from tests.on_pixels import direct_logprobs, pixels
from tests.smoke_project import Smoke
from tests.verifier_zoo import save_blip2, save_clip, save_siglip
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from fisao_pipeline.commands.cli import cli
from fisao_pipeline.models.lora import language_tower_name
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.processors import load_processor
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.pocket.scenes import draw_scenes
from fisao_pipeline.pocket.world import coco_annotations, pictures, prompt_rows

# Each test is a run or two of whole pipelines; on a machine that is busy elsewhere these take minutes.
pytestmark = pytest.mark.timeout(1200)

# The kind of encoder that an architecture sees with, or one that users would take where it has no text tower.
VERIFIERS: dict[str, Callable[[Path], Path]] = {
    **dict.fromkeys(("llava_onevision", "idefics3", "smolvlm", "paligemma", "gemma3", "qwen3_vl"), save_siglip),
    **dict.fromkeys(("llava", "llava_next", "internvl", "qwen2_vl", "qwen2_5_vl"), save_clip),
    "instructblip": save_blip2,
}
FAST = ("llava", "instructblip")
SHAPES = ((96, 96), (150, 60), (64, 128), (200, 170))
SPLITS = ("calibration", "training", "training", "training", "training", "probe", "probe")
SETTINGS = {
    "response_sampling": {"max_new_tokens": 16, "prompts_per_round": 6, "batch_size": 8},
    "policy_training": {
        "keep": "last",
        "probe_prompts": 2,
        "lora": {"targets": ["q_proj", "v_proj", "down_proj"]},
        # One step a round, in three parts: its ratio is 1 and its KL 0.
        "ppo": {"batch_size": 12, "micro_batch_size": 4},
    },
    "benchmark_evaluation": {"held_out_images": 4, "max_new_tokens": 16},
}
TRAINERS = {"dpo": "pairs", "rejection_sampling": "chosen"}


def write_scenes(folder: Path) -> None:
    """Fourteen pictures of four shapes, in splits of their own; each split has a prompt that exceeds every context."""
    scenes = draw_scenes(14, seed=5)
    # Yes/no questions are asked about pictures of three objects or more.
    scenes.sort(key=lambda scene: len(scene.counts))
    (folder / "images").mkdir(parents=True)
    for number, (name, picture) in enumerate(pictures(scenes)):
        picture.resize(SHAPES[number % len(SHAPES)]).save(folder / "images" / name)
    (folder / "annotations.json").write_text(json.dumps(coco_annotations(scenes, seed=5)))
    rows = prompt_rows(scenes, seed=5)
    for number, row in enumerate(rows):
        row["split"] = SPLITS[number % len(SPLITS)] if number < len(rows) - 4 else "held_out"
    rows += [{**row, "prompt_id": f"long-{row['prompt_id']}", "prompt": "umbrella " * 1100} for row in rows[::3]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@dataclass
class Twin:
    """A project whose policy is one architecture, after a run of `train` and one of `benchmark_evaluation`."""

    architecture: str
    smoke: Smoke
    trained: str = ""
    evaluated: str = ""
    policies: list[Policy] = field(default_factory=list)

    @property
    def models(self) -> Path:
        return self.smoke.root / "data" / "smoke" / "06_models"

    @property
    def adapter(self) -> Path:
        return self.smoke.folder("policy_adapter", "06_models") / self.trained / "policy_adapter"

    def source(self, folder: Path | None = None) -> ModelSource:
        return ModelSource(str(folder or self.models / "pocket_vlm"), dtype="float32", device="cpu")

    def plain(self, folder: Path | None = None) -> PreTrainedModel:
        return AutoModelForImageTextToText.from_pretrained(folder or self.models / "pocket_vlm", dtype=torch.float32)

    def processor(self, folder: Path | None = None):
        folder = folder or self.models / "pocket_vlm"
        return load_processor(AutoConfig.from_pretrained(folder), str(folder))

    def run(self, pipeline: str, **changes) -> str:
        merged = {name: {**block, **changes.pop(name, {})} for name, block in SETTINGS.items()}
        return self.smoke.run(pipeline, **merged, **changes)

    def table(self, name: str) -> pd.DataFrame:
        """Of the first two runs, whatever was run after them."""
        of_evaluation = name in ("predictions", "rejected_questions", "prediction_mentions")
        return self.smoke.table(name, self.evaluated if of_evaluation else self.trained)

    @cached_property
    def asked(self) -> pd.DataFrame:
        """A few sampled responses, with the text that was asked and the picture's file."""
        responses = self.table("responses")
        prompts = self.table("prompts").set_index("prompt_id")["prompt"]
        files = self.table("image_manifest").set_index("image_id")["file_name"]
        chosen = responses.drop_duplicates("image_id").head(6)
        return chosen.assign(
            prompt=prompts[chosen["prompt_id"]].tolist(), file_name=files[chosen["image_id"]].tolist()
        ).reset_index(drop=True)

    def open_image(self, file_name: str) -> Image.Image:
        return Image.open(
            self.smoke.root / "data" / "smoke" / "01_raw" / "pocket_scenes" / "images" / file_name
        ).convert("RGB")

    def direct(self, model, processor, padding="left") -> torch.Tensor:
        """What transformers alone says of the responses' tokens."""
        policy = self.policies[0]
        texts = [policy.encode.chat_text(prompt) for prompt in self.asked["prompt"]]
        images = [self.open_image(name) for name in self.asked["file_name"]]
        inputs = pixels(processor, policy.backbone.config.model_type, texts, images)
        ids = [torch.tensor(list(row)) for row in self.asked["token_ids"]]
        return torch.cat(direct_logprobs(model, inputs, ids, 1.0, policy.suppressed_ids, padding))

    def scored(self, policy: Policy) -> torch.Tensor:
        rows = [torch.tensor(list(row)) for row in self.asked["token_ids"]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
        batch = policy.encode(self.asked["prompt"].tolist(), self.asked["file_name"].tolist(), self.open_image)
        with torch.no_grad():
            return policy.score(batch, ids, mask, 1.0)[0][mask].double()


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ZOO],
)
def twin(request, tmp_path_factory, mlflow_template) -> Iterator[Twin]:
    """All policies that the runs load are kept, to look at their weights afterwards."""
    name = request.param

    def put_models(folder: Path) -> None:
        build(name, folder / "pocket_vlm")
        VERIFIERS[name](folder / "pocket_verifier")

    made = Twin(name, Smoke.make(tmp_path_factory.mktemp(name) / "project", mlflow_template, put_models))
    write_scenes(made.smoke.root / "data" / "smoke" / "01_raw" / "pocket_scenes")
    load = Policy.load.__func__
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", made.smoke.tracking_uri)

        def recorded(cls, *arguments, **options):
            made.policies.append(load(cls, *arguments, **options))
            return made.policies[-1]

        patch.setattr(Policy, "load", classmethod(recorded))
        made.trained = made.run("train")
        made.evaluated = made.run("benchmark_evaluation")
        patch.setattr(Policy, "load", classmethod(load))
        yield made


def test_the_rewards_reach_the_adapter(twin):
    rewards = twin.table("token_rewards")["token_rewards"]
    assert sum(any(row) for row in rewards) > 1, "responses must name objects"
    assert len({sum(row) for row in rewards}) > 1
    state = load_file(twin.adapter / "adapter_model.safetensors")
    assert state and all(tensor.dtype == torch.float32 for tensor in state.values())
    seconds = [tensor for name, tensor in state.items() if ".lora_B." in name]
    assert len(seconds) == 2 * 3 and all(tensor.abs().max() > 1e-5 for tensor in seconds), "they start at zero"


def test_the_first_step_is_on_policy(twin):
    history = twin.table("training_history")
    assert history["round"].tolist() == [-1, 0, 1] and history["kept"].tolist() == [False, False, True]
    numbers = history.iloc[1:].drop(columns=["kept", *(c for c in history if c.startswith("probe"))])
    assert np.isfinite(numbers.to_numpy(dtype=float)).all()
    first, second = history.iloc[1], history.iloc[2]
    assert first["kl"] == first["kl_k3"] == 0 < second["kl_k3"]
    assert (history["logprob_gap"].iloc[1:] < 1e-4).all(), "the sampler's logprobs are the trainer's"
    assert (history["updates"].iloc[1:] == 1).all() and (history["grad_norm"].iloc[1:] > 1e-4).all()
    tracked = twin.smoke.tracked(twin.trained)
    points = mlflow.MlflowClient(twin.smoke.tracking_uri).get_metric_history
    for name, value in (("ratio_mean", 1.0), ("approx_kl", 0.0)):
        steps = points(tracked.info.run_id, f"training.step.{name}")
        assert len(steps) == 2
        assert all(step.value == pytest.approx(value, abs=1e-5) for step in steps), name


def test_everything_but_the_adapter_stays_as_it_was(twin):
    """The weights of every policy that the two runs had in memory, after what was done to them."""
    assert len(twin.policies) == 3, "of sampling, training and evaluation"
    before = twin.plain().state_dict()
    for policy in twin.policies:
        now = {name.replace(".base_layer.", "."): tensor for name, tensor in policy.backbone.state_dict().items()}
        assert {name for name in now if ".lora_" not in name} == set(before)
        assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_recorded_logprobs_are_transformers_own(twin, padding):
    recorded = torch.tensor([value for row in twin.asked["logprobs"] for value in row], dtype=torch.float64)
    direct = twin.direct(twin.plain(), twin.processor(), padding)
    torch.testing.assert_close(recorded, direct, atol=2e-5, rtol=1e-5)


def test_the_adapter_opens_in_peft_and_says_the_same(twin):
    model = PeftModel.from_pretrained(twin.plain(), str(twin.adapter)).eval()
    expected = twin.direct(model, twin.processor())
    ours = twin.scored(Policy.load(twin.source(), adapter=twin.adapter))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert (expected - twin.direct(twin.plain(), twin.processor())).abs().max() > 1e-3, "and not what the base says"


def outside_the_adapted_layers_it_is_the_base_model(twin: Twin, merged: Path) -> None:
    """Vision tower, projector, head and all else, bit by bit, in the files of a merged model."""
    before, after = twin.plain().state_dict(), twin.plain(merged).state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    tower = language_tower_name(twin.plain())
    assert len(changed) == 2 * len(SETTINGS["policy_training"]["lora"]["targets"])
    assert all(name.startswith(f"{tower}.") and name.endswith("_proj.weight") for name in changed)


def test_merged_it_is_a_model_like_any_other(twin, tmp_path, monkeypatch):
    monkeypatch.chdir(twin.smoke.root)
    for command in ("merge", "export"):
        done = CliRunner().invoke(cli, [command, "--env=smoke", f"--output={tmp_path / command}"])
        assert done.exit_code == 0, done.output
    assert "with the evaluation's table" in done.output
    outside_the_adapted_layers_it_is_the_base_model(twin, tmp_path / "merge")
    card = (tmp_path / "export" / "README.md").read_text()
    assert "chair_i" in card or "CHAIR" in card
    adapted = twin.scored(Policy.load(twin.source(), adapter=twin.adapter))
    merged = tmp_path / "merge"
    direct = twin.direct(twin.plain(merged), twin.processor(merged))
    torch.testing.assert_close(direct, adapted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(twin.scored(Policy.load(twin.source(merged))), direct, atol=1e-5, rtol=1e-5)


def test_both_models_answer_and_are_compared(twin):
    predictions = twin.table("predictions")
    counts = predictions.groupby(["model", "decoding", "task"]).size()
    assert set(counts.index) == {
        (m, d, t) for m in ("base", "aligned") for d in ("greedy", "sampled") for t in ("caption", "pope")
    }
    assert (predictions["n_tokens"] > 0).all()
    assert np.isfinite(predictions.loc[predictions["task"] == "caption", "lowest_base_logprob"]).all()
    assert predictions.loc[predictions["task"] == "pope", "prompt"].str.contains(r"Is there an? ").all()
    answers = predictions.pivot_table(
        index=["decoding", "prompt_id", "sample_index", "pope_strategy"],
        columns="model",
        values="response",
        aggfunc="first",
        dropna=False,
    )
    assert (answers["base"] != answers["aligned"]).any(), "the adapter is on in one of the two"
    comparison = twin.smoke.record("comparison")
    for model in ("base", "aligned", "change"):
        for decoding in ("greedy", "sampled"):
            metrics = comparison[model][decoding]
            for name in ("chair_i", "chair_s", "recall", "pope_accuracy", "pope_f1"):
                assert metrics[name].keys() >= {"value", "low", "high"}, name
    mentions = twin.table("prediction_mentions")
    named = set(zip(*(mentions.loc[mentions["label"].notna(), name] for name in ("model", "decoding")), strict=True))
    assert named, "no model names anything: nothing is compared"
    for decoding in ("greedy", "sampled"):
        for model in ("base", "aligned"):
            # Random weights may name no object, and nothing named has no share that is hallucinated.
            assert (comparison[model][decoding]["chair_i"]["value"] is None) == ((model, decoding) not in named)
            assert 0 <= comparison[model][decoding]["pope_accuracy"]["value"] <= 1


def test_prompts_beyond_the_context_are_listed_and_never_asked(twin):
    prompts = twin.table("prompts")
    long = {p for p in prompts["prompt_id"] if p.startswith("long-")}
    assert set(prompts.loc[prompts["prompt_id"].isin(long), "split"]) >= {"training", "held_out"}
    assert set(twin.table("rejected_prompts")["name"]) == long
    for name in ("responses", "training_rollouts", "predictions"):
        assert not set(twin.table(name)["prompt_id"]) & long


def test_the_card_names_the_model_and_what_was_measured(twin):
    card = (twin.adapter / "README.md").read_text()
    assert re.search(r"\| training \| \d+ \| \d+ \|", card)
    assert "pocket\\_vlm" in card and "its weights: sha256:" in card
    assert "On the probe's prompts" in card and str(twin.smoke.root) not in card


def test_a_plan_knows_its_sizes(twin):
    """And asks for what an image takes where that depends on the image."""
    policy = twin.policies[1]
    sizes = [policy.encode.count_tokens(["What?"], [size]) for size in SHAPES]
    alike = all(size == sizes[0] for size in sizes)
    assert alike == policy.kind.equal_images
    if not alike:
        with pytest.raises(ValueError, match=r"set plan\.image_tokens"):
            twin.run("plan")
    twin.run("plan", **({} if alike else {"plan": {"image_tokens": 20}}))
    plan = twin.smoke.record("plan")
    assert plan["faults"] == []
    assert plan["policy"]["parameters"] == twin.plain().num_parameters()
    assert plan["policy"]["kind"] == type(policy.backbone).__name__
    adapter = sum(p.numel() for name, p in policy.model.named_parameters() if ".lora_" in name)
    assert plan["policy"]["lora_parameters"] == adapter
    if alike:
        ids = policy.encode(["What?"], [twin.asked["file_name"][0]], twin.open_image).input_ids
        assert plan["policy"]["image_tokens"] == int((ids == policy.kind.image_token_id).sum())
    assert all(card["fault"] is None and card["largest_micro_batch"] == 12 for card in plan["cards"])


def test_training_goes_on_from_the_artifacts(twin):
    """The last stage again, alone: the same adapter, bit by bit."""
    again = twin.run("policy_training", force=True)
    weights = [
        (twin.adapter.parents[1] / version / "policy_adapter" / "adapter_model.safetensors").read_bytes()
        for version in (twin.trained, again)
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_other_trainers_move_the_adapter_too(twin, trainer):
    if twin.architecture in FAST[:1]:
        pytest.skip("run on the pocket model of this architecture by test_end_to_end_smoke.py")
    version = twin.run("policy_training", policy_training={**SETTINGS["policy_training"], "trainer": trainer})
    history = twin.smoke.table("training_history")
    assert history["logprob_gap"].iloc[1:].max() < 1e-4
    assert (history[TRAINERS[trainer]].iloc[1:] > 0).all() and (history["grad_norm"].iloc[1:] > 1e-4).all()
    assert history["kl_k3"].iloc[1] == 0 < history["kl_k3"].iloc[2]
    assert version == twin.smoke.versions("policy_adapter", "06_models")[-1]


@contextmanager
def catalogs_with(twin: Twin, before: str, after: str) -> Iterator[None]:
    """Words in all catalogs of the project exchanged, and back."""
    texts = {file: file.read_text() for file in (twin.smoke.root / "conf").rglob("catalog*.yml")}
    assert any(before in text for text in texts.values())
    for file, text in texts.items():
        file.write_text(text.replace(before, after))
    try:
        yield
    finally:
        for file, text in texts.items():
            file.write_text(text)


def held_otherwise(twin: Twin, most_gap: float) -> str:
    """Train and evaluate with weights held in another way; adapter, value head and all numbers stay float32."""
    version = twin.run("train")
    twin.run("benchmark_evaluation")
    history = twin.smoke.table("training_history", version)
    numbers = history.iloc[1:].drop(columns=["kept", *(c for c in history if c.startswith("probe"))])
    assert np.isfinite(numbers.to_numpy(dtype=float)).all()
    assert history["kl_k3"].iloc[1] == 0 < history["kl_k3"].iloc[2]
    assert history["ratio_mean"].iloc[1:].tolist() == pytest.approx([1, 1], abs=1e-3)
    assert (history["logprob_gap"].iloc[1:] < most_gap).all()
    state = load_file(twin.adapter.parents[1] / version / "policy_adapter" / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert all(tensor.abs().max() > 1e-5 for name, tensor in state.items() if ".lora_B." in name)
    return version


def test_in_bfloat16_the_reward_reaches_the_adapter_too(twin):
    """Models of the usual size are loaded in it."""
    with catalogs_with(twin, "dtype: float32", "dtype: bfloat16"):
        version = held_otherwise(twin, most_gap=0.5)
    assert set(twin.smoke.table("responses", version)["backbone"]) == {twin.policies[0].identity}


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes (extra `quantization`) is not installed")
def test_on_four_bit_weights_the_reward_reaches_the_adapter_too(twin, tmp_path, monkeypatch):
    """QLoRA, from sampling to the merged model, which is in the 16 or 32 bits that the four were made of."""
    entry = "06_models/pocket_vlm\n  dtype: float32"
    with catalogs_with(twin, entry, f"{entry}\n  quantization: nf4"):
        version = held_otherwise(twin, most_gap=1e-3)
        monkeypatch.chdir(twin.smoke.root)
        done = CliRunner().invoke(cli, ["merge", "--env=smoke", f"--output={tmp_path / 'merged'}"])
    assert done.exit_code == 0, done.output
    assert "trained on nf4 weights and is now in float32 ones" in done.output
    assert set(twin.smoke.table("responses", version)["backbone"]) == {f"{twin.policies[0].identity} in nf4"}
    card = (twin.adapter.parents[1] / version / "policy_adapter" / "README.md").read_text()
    assert " in nf4" in card
    outside_the_adapted_layers_it_is_the_base_model(twin, tmp_path / "merged")
