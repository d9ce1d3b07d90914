"""The whole loop on a toy reward: it learns, it can be repeated, and it keeps the round it says it keeps."""

import logging
import math

import pandas as pd
import pytest
import torch
from tests import fake_vllm
from tests.pocket_models import LORA, PocketWorld, favour

from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.source import ModelSource, identity
from fisao_pipeline.models.vllm_engine import VllmEngine
from fisao_pipeline.params.policy_training import OptimiserParams, PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.pipelines.response_sampling import nodes as sampling_nodes
from fisao_pipeline.training import sampling as sampling_module
from fisao_pipeline.training.loop import PolicyTrainer, probe_numbers
from fisao_pipeline.training.run import TrainingInputs, train_adapter
from fisao_pipeline.training.sampling import round_prompts, sample_responses, sampling_engine, stage_prompts
from fisao_pipeline.training.tables import GroundTruth, label_mentions, mention_table

VOCABULARY = ObjectVocabulary.load("coco")
SAMPLING = ResponseSamplingParams(
    responses_per_prompt=4,
    temperature=1.0,
    max_new_tokens=8,
    prompts_per_round=12,
    calibration_prompts=4,
    batch_size=48,
    seed=0,
)
PPO = {
    "advantage": "batch",
    "gamma": 0.0,
    "gae_lambda": 0.95,
    "normalise_advantages": True,
    "clip_range": 0.2,
    "value_clip_range": None,
    "vf_coef": 0.5,
    "kl_penalty": "reward",
    "kl_coef": 0.01,
    "kl_target_nats": None,
    "max_round_kl_nats": None,
    "learning_rate": 2e-2,
    "anneal_to": 1.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "epochs": 2,
    "batch_size": 12,
    "micro_batch_size": 12,
    "logprob_tolerance": 0.01,
    "unlikely_below": 0.001,
    "unlikely_cost": 0.0,
    "value_width": None,
    "value_learning_rate": None,
}
STEPS = {name: PPO[name] for name in OptimiserParams.model_fields}
DPO = {"beta": 0.1, "ranked_by": "rewards", "pairs_per_prompt": 2, "min_gap": 0.0, "length_normalised": False, **STEPS}


def settings(rounds=2, probe_prompts=2, keep="best", seed=0, trainer="ppo", **changes) -> PolicyTrainingParams:
    """The changes are the trainer's."""
    blocks = {"ppo": PPO, "dpo": DPO, "rejection_sampling": {"min_gap": 0.0, **STEPS}}
    blocks[trainer] = {**blocks[trainer], **changes}
    return PolicyTrainingParams(
        rounds=rounds, trainer=trainer, lora=LORA, **blocks, probe_prompts=probe_prompts, keep=keep, seed=seed
    )


PAID_TOKEN = 400
NO_TRUTH = GroundTruth({}, frozenset())


class NoVerifier:
    """Has no state to be kept."""

    def tensors(self):
        return {}

    def values(self):
        return {}

    def restore(self, tensors, values):
        assert not tensors and not values


class ToyAnnotator:
    """Pays one for every occurrence of one token."""

    vocabulary = VOCABULARY
    verifier = NoVerifier()

    def __init__(self, world: PocketWorld, truth: GroundTruth = NO_TRUTH):
        self.open_image, self.truth = world.open_image, truth

    def __call__(self, responses: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        rewards = [[float(token == PAID_TOKEN) for token in row] for row in responses["token_ids"]]
        table = pd.DataFrame({"response_id": responses["response_id"], "token_rewards": rewards})
        return label_mentions(mention_table(responses, VOCABULARY), self.truth), table


def share_of_paid_tokens(rewards) -> float:
    return sum(map(sum, rewards)) / sum(map(len, rewards))


def first_round(world, policy):
    training = world.prompts[world.prompts["split"] == "training"]
    chosen = round_prompts(training, 0, SAMPLING.prompts_per_round, SAMPLING.seed)
    decoding = Decoding(SAMPLING.temperature, SAMPLING.max_new_tokens)
    responses = sample_responses(policy, chosen, world.open_image, decoding, 4, 48, seed=SAMPLING.seed)
    return responses, ToyAnnotator(world)(responses)[1]


def toy_policy(world, seed=0):
    """Untrained, and it says the paid token often enough for a few dozen responses to hold some."""
    return favour(world.policy(seed=seed), PAID_TOKEN, 3.5)


def trainer_of(world, params, log=None, truth=NO_TRUTH) -> PolicyTrainer:
    return PolicyTrainer(
        toy_policy(world, params.seed),
        ToyAnnotator(world, truth),
        world.prompts,
        SAMPLING,
        params,
        truth,
        log or (lambda metrics, step: None),
    )


def train(world, params, log=None):
    trainer = trainer_of(world, params, log)
    return trainer, trainer.train(*first_round(world, trainer.policy))


@pytest.fixture(scope="module")
def trained(world):
    """Four rounds, and what was logged."""
    logged: list[tuple[dict, int]] = []
    params = settings(rounds=4, keep="last")
    trainer, result = train(world, params, lambda metrics, step: logged.append((metrics, step)))
    return trainer, result, logged


# --- learning ------------------------------------------------------------------------------------------------------


def test_it_learns_a_toy_reward(trained):
    """With the sign of the loss turned round the share would fall."""
    _, result, _ = trained
    rounds = result.rollouts.groupby("round")["token_rewards"].apply(share_of_paid_tokens)
    assert list(rounds.index) == [1, 2, 3]
    base = result.history.loc[result.history["round"] == 0, "token_reward"].item() / 8
    assert 0.01 < base < 0.2
    assert rounds.loc[3] > 3 * base
    assert rounds.is_monotonic_increasing


def test_the_history_says_what_happened(trained):
    trainer, result, logged = trained
    history = result.history
    assert history["round"].tolist() == [-1, 0, 1, 2, 3]
    assert history["kept"].tolist() == [False] * 4 + [True]
    assert history["updates"].tolist()[1:] == [8.0] * 4
    assert trainer.state.updates == 32
    assert history.loc[1, "kl"] == 0, "round 0 starts from the reference"
    assert (history["kl_k3"].iloc[2:] > 0).all()
    assert history["logprob_gap"].max() < 1e-3
    rounds = [step for metrics, step in logged if "step.policy_loss" not in metrics]
    assert rounds == [0, 8, 16, 24, 32]
    assert all(math.isfinite(value) for metrics, _ in logged for value in metrics.values())


def test_every_optimiser_step_is_logged_when_it_is_taken(trained):
    _, result, logged = trained
    steps = [(metrics, step) for metrics, step in logged if "step.policy_loss" in metrics]
    assert [step for _, step in steps] == list(range(1, 33))
    names = {"policy_loss", "value_loss", "kl_loss", "clip_fraction", "approx_kl", "ratio_mean", "grad_norm"}
    assert all(set(metrics) == {f"step.{name}" for name in names} for metrics, _ in steps)
    for index in range(4):
        of_round = [metrics["step.grad_norm"] for metrics, _ in steps[8 * index : 8 * index + 8]]
        assert sum(of_round) / 8 == pytest.approx(result.history.loc[index + 1, "grad_norm"])
    order = [(step, "step.policy_loss" in metrics) for metrics, step in logged]
    assert order == sorted(order, key=lambda pair: (pair[0], not pair[1])), "a round's row comes after its steps"


def test_later_rounds_are_sampled_on_policy_from_their_own_prompts(world, trained):
    _, result, _ = trained
    training = world.prompts[world.prompts["split"] == "training"]
    for index, rollouts in result.rollouts.groupby("round"):
        expected = round_prompts(training, index, SAMPLING.prompts_per_round, SAMPLING.seed)["prompt_id"]
        assert set(rollouts["prompt_id"]) == set(expected)
        assert len(rollouts) == 4 * len(expected)
    assert set(result.rollouts["split"]) == {"training"}


def test_the_base_is_as_it_was(world, trained):
    trainer, _, _ = trained
    fresh = dict(toy_policy(world).model.named_parameters())
    for name, parameter in trainer.policy.model.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(parameter, fresh[name]), name


# --- repeating -----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_adapter_bit_for_bit_and_another_seed_another(world):
    _, first = train(world, settings(seed=1))
    torch.manual_seed(12345)
    _, again = train(world, settings(seed=1))
    _, other = train(world, settings(seed=2))
    assert all(torch.equal(first.adapter_state[n], again.adapter_state[n]) for n in first.adapter_state)
    pd.testing.assert_frame_equal(first.rollouts, again.rollouts)
    assert any(not torch.equal(first.adapter_state[n], other.adapter_state[n]) for n in first.adapter_state)


# --- which round is kept -------------------------------------------------------------------------------------------


def with_probes(world, monkeypatch, scores, params):
    """Train while the probe gives the scores in turn; returns the result and the adapter after each round."""
    trainer = trainer_of(world, params)
    remaining, states = iter(scores), []

    def probe():
        states.append({n: t.clone() for n, t in trainer.policy.adapter_state()[1].items()})
        return {"probe_score": next(remaining)}

    monkeypatch.setattr(trainer, "probe", probe)
    return trainer.train(*first_round(world, trainer.policy)), states


def same(state, other) -> bool:
    return all(torch.equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize(
    ("keep", "scores", "kept"),
    [
        ("best", [0.1, 0.2, 0.9, 0.3], 1),
        ("best", [0.1, 0.5, 0.5, 0.4], 0),
        ("best", [0.1, 0.2, 0.3, 0.4], 2),
        ("last", [0.9, 0.2, 0.3, 0.1], 2),
    ],
)
def test_the_adapter_that_is_kept_is_that_of_the_round_that_is_named(world, monkeypatch, keep, scores, kept):
    result, states = with_probes(world, monkeypatch, scores, settings(rounds=3, keep=keep))
    assert result.history.loc[result.history["kept"], "round"].tolist() == [kept]
    assert same(result.adapter_state, states[kept + 1])
    assert not any(same(result.adapter_state, states[other + 1]) for other in range(-1, 3) if other != kept)


def test_no_round_is_better_than_the_base(world, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        result, states = with_probes(world, monkeypatch, [0.5, 0.4, 0.3], settings())
    assert "No round was better on the probe than the base model" in caplog.text
    assert result.history.loc[result.history["kept"], "round"].tolist() == [-1]
    assert same(result.adapter_state, states[0])
    assert all((t == 0).all() for name, t in result.adapter_state.items() if "lora_B" in name)


def test_without_a_probe_the_last_round_is_kept(world):
    trainer, result = train(world, settings(probe_prompts=0))
    assert result.history.loc[result.history["kept"], "round"].tolist() == [1]
    assert same(result.adapter_state, trainer.policy.adapter_state()[1])


# --- settings ------------------------------------------------------------------------------------------------------


def test_the_kl_weight_follows_its_target_as_a_loss_too(world):
    _, result = train(world, settings(rounds=3, kl_target_nats=1e-6, kl_penalty="loss", probe_prompts=0))
    rows = result.history.iloc[1:]
    assert rows["kl_coef"].tolist() == pytest.approx([0.01, 0.008, 0.0096])
    assert (rows["kl_penalty"] == 0).all()
    assert (rows["kl_loss"].iloc[1:] > 0).all()


def test_the_kl_weight_follows_its_target(world):
    """Down by a fifth while the KL is below its target, up by a fifth when it is above."""
    _, low = train(world, settings(rounds=3, kl_target_nats=1000.0, probe_prompts=0))
    assert low.history["kl_coef"].tolist()[1:] == pytest.approx([0.01, 0.008, 0.0064])
    _, high = train(world, settings(rounds=3, kl_target_nats=1e-6, probe_prompts=0))
    assert high.history["kl_coef"].tolist()[1:] == pytest.approx([0.01, 0.008, 0.0096])
    _, fixed = train(world, settings(rounds=2, probe_prompts=0))
    assert fixed.history["kl_coef"].tolist()[1:] == [0.01, 0.01]


@pytest.mark.parametrize("advantage", ["gae", "group"])
def test_every_kind_of_advantage_learns(world, advantage):
    _, result = train(world, settings(rounds=3, advantage=advantage, keep="last"))
    rounds = result.rollouts.groupby("round")["token_rewards"].apply(share_of_paid_tokens)
    base = result.history.loc[1, "token_reward"] / 8
    assert rounds.loc[2] > 1.5 * base


@pytest.mark.parametrize(
    ("trainer", "numbers"),
    [("dpo", {"dpo_loss", "reward_margin", "accuracy"}), ("rejection_sampling", {"sft_loss"})],
)
def test_the_comparison_trainers_learn_in_the_same_loop(world, trainer, numbers):
    logged: list[dict] = []
    params = settings(rounds=3, keep="last", trainer=trainer, epochs=4)
    _, result = train(world, params, lambda metrics, step: logged.append(metrics))
    rounds = result.rollouts.groupby("round")["token_rewards"].apply(share_of_paid_tokens)
    base = result.history.loc[1, "token_reward"] / 8
    assert rounds.loc[2] > 1.5 * base
    shared = {"token_reward", "kl", "kl_k3", "response_tokens", "sampled_tokens", "learning_rate", "probe_reward"}
    assert shared | numbers | {"updates"} <= set(result.history)
    steps = [set(metrics) for metrics in logged if any(name.startswith("step.") for name in metrics)]
    assert len(steps) == result.history["updates"].sum()
    assert all(step == {f"step.{name}" for name in numbers | {"grad_norm"}} for step in steps)
    assert all(math.isfinite(value) for metrics in logged for value in metrics.values())


def test_without_anything_to_prefer_the_loop_goes_on(world, monkeypatch, caplog):
    monkeypatch.setattr(ToyAnnotator, "__call__", pays_nothing)
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        trainer, result = train(world, settings(trainer="dpo", keep="last"))
    assert [f"Round {index} has no pair" in caplog.text for index in (0, 1)] == [True, True]
    assert trainer.state.updates == 0
    assert result.history["round"].tolist() == [-1, 0, 1]
    assert all((t == 0).all() for name, t in result.adapter_state.items() if "lora_B" in name)


def pays_nothing(self, responses):
    rewards = [[0.0] * len(row) for row in responses["token_ids"]]
    table = pd.DataFrame({"response_id": responses["response_id"], "token_rewards": rewards})
    return label_mentions(mention_table(responses, VOCABULARY), NO_TRUTH), table


def test_sampled_tokens_add_up(trained):
    """So that trainers can be compared at the same budget; probes do not count."""
    _, result, _ = trained
    later = result.rollouts.groupby("round")["token_ids"].apply(lambda rows: sum(map(len, rows)))
    counted = result.history["sampled_tokens"]
    assert counted.iloc[0] == 0
    assert counted.diff().iloc[2:].tolist() == later.tolist()
    assert counted.iloc[1] == 48 * result.history["response_tokens"].iloc[1]


def test_a_round_that_moves_too_far_stops(world):
    _, result = train(world, settings(rounds=1, max_round_kl_nats=1e-5, epochs=10, probe_prompts=0))
    assert result.history.loc[1, "stopped_early"] == 1
    assert result.history.loc[1, "updates"] < 40


def test_rewards_of_another_run_are_refused(world):
    trainer = trainer_of(world, settings())
    responses, rewards = first_round(world, trainer.policy)
    with pytest.raises(ValueError, match=r"no token rewards for.*re-run from response_sampling"):
        trainer.train(responses, rewards.head(3))


def test_responses_without_a_training_split(world):
    trainer = trainer_of(world, settings())
    responses, rewards = first_round(world, trainer.policy)
    with pytest.raises(ValueError, match="no training split; re-run response_sampling"):
        trainer.train(responses.assign(split="calibration"), rewards)


def test_calibration_responses_are_not_trained_on(world):
    """Only training rows count, whatever else the stage sampled."""
    trainer = trainer_of(world, settings(rounds=1, probe_prompts=0))
    responses, rewards = first_round(world, trainer.policy)
    extra = responses.head(8).assign(split="calibration", response_id=[f"c{n}" for n in range(8)])
    extra_rewards = pd.DataFrame({"response_id": extra["response_id"], "token_rewards": [[1e6] * 8] * 8})
    both = pd.concat([responses, extra], ignore_index=True), pd.concat([rewards, extra_rewards], ignore_index=True)
    with_extra = trainer.train(*both)
    _, without = train(world, settings(rounds=1, probe_prompts=0))
    assert same(with_extra.adapter_state, without.adapter_state)


def test_every_seed_is_judged_by_the_same_probe_prompts_whatever_the_order_of_the_file(world):
    probe = world.prompts.iloc[[4]].loc[[4] * 40].assign(prompt_id=[f"q{n:02}" for n in range(40)])
    prompts = pd.concat([world.prompts[world.prompts["split"] != "probe"], probe])

    def asked(table, seed):
        sampling = SAMPLING.model_copy(update={"seed": seed})
        params = settings(seed=seed, probe_prompts=10)
        trainer = PolicyTrainer(
            world.policy(), ToyAnnotator(world), table, sampling, params, NO_TRUTH, lambda metrics, step: None
        )
        return trainer.probe_prompts["prompt_id"].tolist()

    first = asked(prompts, 0)
    assert asked(prompts[::-1], 5) == first
    assert first != [f"q{n:02}" for n in range(10)] and len(set(first)) == 10


# --- the probe -----------------------------------------------------------------------------------------------------


def mentions_of(rows) -> pd.DataFrame:
    columns = ["response_id", "category", "label", "repeated"]
    return pd.DataFrame(rows, columns=columns).astype({"label": "str", "repeated": "bool"})


def test_the_probes_numbers_by_hand():
    responses = pd.DataFrame({"response_id": ["a", "b"], "image_id": ["i0", "i1"]})
    mentions = mentions_of(
        [
            ("a", "dog", "correct", False),
            ("a", "dog", "correct", True),
            ("a", "cat", "hallucinated", False),
            ("b", "car", "correct", False),
            ("b", "book", None, False),
        ]
    )
    rewards = pd.DataFrame({"response_id": ["a", "b"], "token_rewards": [[0.0, 1.0, -2.0], [0.5]]})
    numbers = probe_numbers(responses, mentions, rewards, {"i0": {"dog", "bird"}, "i1": {"car"}})
    assert numbers == pytest.approx(
        {
            "probe_reward": -0.25,
            "probe_objects": 2.5,
            "probe_repeated": 0.5,
            "probe_chair_i": 1 / 4,
            "probe_recall": 2 / 3,
            "probe_score": (2 - 1) / 3,
        }
    )


def test_the_probe_knows_a_category_that_no_image_shows(world):
    """Naming it is a hallucination there too."""
    probed = world.prompts.loc[world.prompts["split"] == "probe", "image_id"]
    truth = GroundTruth({image_id: {"dog"} for image_id in probed}, frozenset({"dog", "kite"}))
    trainer = trainer_of(world, settings(probe_prompts=4), truth=truth)
    rewarded = trainer.annotator

    def says_a_dog_and_a_kite(responses):
        named = responses.loc[responses.index.repeat(2), ["response_id", "image_id"]]
        mentions = named.assign(category=["dog", "kite"] * len(responses), repeated=False)
        return label_mentions(mentions, truth), rewarded(responses)[1]

    says_a_dog_and_a_kite.open_image = world.open_image
    trainer.annotator = says_a_dog_and_a_kite
    assert trainer.probe()["probe_chair_i"] == 0.5


def test_without_annotations_the_probe_goes_by_the_reward():
    responses = pd.DataFrame({"response_id": ["a"], "image_id": ["i0"]})
    mentions = mentions_of([("a", "dog", None, False)])
    rewards = pd.DataFrame({"response_id": ["a"], "token_rewards": [[0.0, 0.75]]})
    numbers = probe_numbers(responses, mentions, rewards, {})
    assert numbers["probe_score"] == 0.75
    assert "probe_chair_i" not in numbers


@pytest.mark.parametrize("rows", [[], [("a", "book", None, False)]])
def test_naming_nothing_of_annotated_images_scores_zero_whatever_its_reward(rows):
    responses = pd.DataFrame({"response_id": ["a"], "image_id": ["i0"]})
    rewards = pd.DataFrame({"response_id": ["a"], "token_rewards": [[0.0, 0.75]]})
    numbers = probe_numbers(responses, mentions_of(rows), rewards, {"i0": {"dog"}})
    assert numbers["probe_score"] == numbers["probe_recall"] == 0
    assert numbers["probe_reward"] == 0.75
    assert "probe_chair_i" not in numbers


# --- from artifacts ------------------------------------------------------------------------------------------------


def test_an_adapter_from_the_artifacts_of_the_stages(world, tmp_path):
    """Real verifier, real rewards, tables as parquet gives them back."""
    from tests.training.test_annotation import PARAMS as ANNOTATION

    from fisao_pipeline.training.annotation import annotate

    responses, _ = first_round(world, world.policy(lora=None))
    scorer = identity(world.verifier_source)
    done = annotate(responses, world.verifier(), VOCABULARY, NO_TRUTH, ANNOTATION, world.open_image, scorer)
    tables = {"responses": responses, "token_rewards": done.token_rewards, "prompts": world.prompts}
    for name, table in tables.items():
        table.to_parquet(tmp_path / name)
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        results.append(
            train_adapter(
                TrainingInputs(
                    **{name: pd.read_parquet(tmp_path / name) for name in tables},
                    manifest=world.manifest,
                    annotated_categories=["dog"],
                    baseline=done.baseline.to_dict(),
                    backbone=world.policy_source,
                    verifier=world.verifier_source,
                    sampling=SAMPLING,
                    annotation=ANNOTATION,
                    params=settings(keep="last"),
                ),
                world.open_image,
                lambda metrics, step: None,
            )
        )
    result, again = results
    assert result.history["logprob_gap"].max() < 1e-3, "the stage's responses are the policy's own"
    assert result.adapter_config["peft_type"] == "LORA"
    assert set(result.rollouts["round"]) == {1}
    assert same(result.adapter_state, again.adapter_state), "the seed alone decides, on the fresh adapter too"


def test_a_first_round_of_other_settings_is_refused_before_a_model_is_loaded(world):
    from tests.training.test_annotation import PARAMS as ANNOTATION

    from fisao_pipeline.training.annotation import annotate

    responses, _ = first_round(world, world.policy(lora=None))
    scorer = identity(world.verifier_source)
    done = annotate(responses, world.verifier(), VOCABULARY, NO_TRUTH, ANNOTATION, world.open_image, scorer)
    with pytest.raises(
        ValueError,
        match=r"temperature was 1\.0 and is 0\.5; reward_annotation\.margin was 0\.0 and is 0\.2; verifier was 'sha",
    ):
        train_adapter(
            TrainingInputs(
                responses=responses,
                token_rewards=done.token_rewards,
                prompts=world.prompts,
                manifest=world.manifest,
                annotated_categories=[],
                baseline=done.baseline.to_dict(),
                backbone=world.policy_source,
                verifier=ModelSource(str(world.models / "pocket_vlm")),
                sampling=SAMPLING.model_copy(update={"temperature": 0.5}),
                annotation=ANNOTATION.model_copy(update={"margin": 0.2}),
                params=settings(),
            ),
            world.open_image,
            lambda metrics, step: None,
        )


def test_a_trainer_that_cannot_learn_is_refused_before_a_model_is_loaded(world):
    from tests.training.test_annotation import PARAMS as ANNOTATION

    from fisao_pipeline.training.annotation import annotate

    responses, _ = first_round(world, world.policy(lora=None))
    done = annotate(responses, world.verifier(), VOCABULARY, NO_TRUTH, ANNOTATION, world.open_image)
    with pytest.raises(ValueError, match=r"ranked_by `annotations` needs annotated training images, and none of the"):
        train_adapter(
            TrainingInputs(
                responses=responses,
                token_rewards=done.token_rewards,
                prompts=world.prompts,
                manifest=world.manifest.assign(objects=None),
                annotated_categories=["dog"],
                baseline=done.baseline.to_dict(),
                backbone=None,
                verifier=None,
                sampling=SAMPLING,
                annotation=ANNOTATION,
                params=settings(trainer="dpo", ranked_by="annotations"),
            ),
            world.open_image,
            lambda metrics, step: None,
        )


# --- another engine draws ------------------------------------------------------------------------------------------


class EvenTokens(ToyAnnotator):
    """Pays every even token."""

    def __call__(self, responses):
        rewards = [[float(token % 2 == 0) for token in row] for row in responses["token_ids"]]
        table = pd.DataFrame({"response_id": responses["response_id"], "token_rewards": rewards})
        return label_mentions(mention_table(responses, VOCABULARY), self.truth), table


def test_it_learns_from_what_another_engine_draws(world, monkeypatch, caplog):
    """One whose logits are 3% off, as other kernels in half precision may be."""
    fake_vllm.install(monkeypatch, off=1.03)
    policy, annotator = world.policy(), EvenTokens(world)
    policy.engine = VllmEngine(world.policy_source, 0.4, LORA.rank, 192)
    sampling = SAMPLING.model_copy(update={"prompts_per_round": 6, "max_new_tokens": 5})
    params = settings(rounds=3, keep="last")
    common = (annotator, world.prompts, sampling, params, NO_TRUTH, lambda metrics, step: None)
    trainer = PolicyTrainer(policy, *common)
    chosen = round_prompts(trainer.training_prompts, 0, 6, sampling.seed)
    first = sample_responses(policy, chosen, world.open_image, Decoding(1.0, 5), 4, 24, seed=0)
    result = trainer.train(first, annotator(first)[1])
    assert "differ from the trainer's" not in caplog.text, "they do, and the history says by how much"
    assert set(first["sampler"]) == set(result.rollouts["sampler"]) == {"vllm"}
    history = result.history.iloc[1:]
    assert (history["sampler_kl"] > 0).all() and (history["logprob_gap"] > 1e-3).all()
    assert history["importance_mean"].between(0.9, 1.1).all()
    assert history["importance_truncated"].max() < 0.05
    assert history["token_reward"].iloc[-1] > history["token_reward"].iloc[0]
    assert len(policy.engine._llm.adapters_read) == 4, "the untrained one, then one a round"


@pytest.fixture
def vllm(monkeypatch):
    """Stands for an engine on a card; ``ended`` holds those that were closed."""
    llm = fake_vllm.install(monkeypatch)
    monkeypatch.setattr(sampling_module, "check_engine", lambda *given: None)
    llm.ended, real = [], VllmEngine.close
    monkeypatch.setattr(VllmEngine, "close", lambda engine: (llm.ended.append(engine), real(engine)))
    return llm


BY_VLLM = SAMPLING.model_copy(update={"sampler": "vllm"})


def with_a_long_prompt(world, split) -> pd.DataFrame:
    """The last prompt of a split is longer than all others."""
    prompts = world.prompts.copy()
    prompts.loc[prompts.index[prompts["split"] == split][-1], "prompt"] = "Describe this image. " * 8
    return prompts


def longest(world, prompts) -> int:
    encode = world.policy(lora=None).encode
    return encode(prompts["prompt"].tolist(), prompts["image_id"].tolist(), world.open_image).input_ids.shape[1]


def test_an_engine_is_started_where_the_parameters_name_one_and_ended_after(world, vllm):
    policy, asked = world.policy(), (world.prompts, world.manifest, LORA.rank)
    with sampling_engine(policy, world.policy_source, SAMPLING, *asked):
        assert policy.engine is None and policy.sampler == "in_process"
    with pytest.raises(KeyError), sampling_engine(policy, world.policy_source, BY_VLLM, *asked):
        assert policy.engine._llm.enable_lora and policy.sampler == "vllm"
        raise KeyError
    assert policy.engine is None and len(vllm.ended) == 1


def test_what_the_engine_cannot_do_is_refused_before_it_starts(world):
    policy = world.policy()
    with (
        pytest.raises(ValueError, match=r"needs a CUDA device.*in_process"),
        sampling_engine(policy, world.policy_source, BY_VLLM, world.prompts, world.manifest, LORA.rank),
    ):
        pass


def test_the_engine_is_as_long_as_what_is_asked_and_not_as_the_models_context(world, vllm):
    prompts = with_a_long_prompt(world, "probe")
    with sampling_engine(world.policy(), world.policy_source, BY_VLLM, prompts, world.manifest):
        assert vllm.started["max_model_len"] == longest(world, prompts) + SAMPLING.max_new_tokens
    assert longest(world, prompts) > longest(world, world.prompts)


def sampling_stage(world, monkeypatch, prompts):
    monkeypatch.setattr(sampling_nodes, "image_opener", lambda *folder: world.open_image)
    return sampling_nodes.sample_policy_responses(prompts, world.manifest, None, world.policy_source, BY_VLLM)


def test_the_sampling_stage_draws_with_the_engine_and_ends_it_whatever_happens(world, vllm, monkeypatch):
    prompts = with_a_long_prompt(world, "held_out")
    responses, _ = sampling_stage(world, monkeypatch, prompts)
    assert set(responses["sampler"]) == {"vllm"} and len(vllm.ended) == 1
    asked = stage_prompts(prompts, BY_VLLM)
    assert vllm.started["max_model_len"] == longest(world, asked) + BY_VLLM.max_new_tokens
    monkeypatch.setattr(vllm, "generate", lambda *given, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampling_stage(world, monkeypatch, prompts)
    assert len(vllm.ended) == 2


def test_a_training_ends_its_engine_whatever_happens(world, vllm, monkeypatch):
    """And leaves room for the prompts of its rounds and probe, no others."""
    from tests.training.test_annotation import PARAMS as ANNOTATION

    from fisao_pipeline.training.annotation import annotate

    prompts = with_a_long_prompt(world, "held_out")
    responses, _ = first_round(world, world.policy(lora=None))
    scorer = identity(world.verifier_source)
    done = annotate(responses, world.verifier(), VOCABULARY, NO_TRUTH, ANNOTATION, world.open_image, scorer)
    inputs = TrainingInputs(
        responses=responses.assign(sampler="vllm"),
        token_rewards=done.token_rewards,
        prompts=prompts,
        manifest=world.manifest,
        annotated_categories=["dog"],
        baseline=done.baseline.to_dict(),
        backbone=world.policy_source,
        verifier=world.verifier_source,
        sampling=BY_VLLM,
        annotation=ANNOTATION,
        params=settings(rounds=1),
    )

    def log(metrics, step):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_adapter(inputs, world.open_image, log)
    asked = prompts[prompts["split"].isin(["training", "probe"])]
    assert vllm.started["max_model_len"] == longest(world, asked) + BY_VLLM.max_new_tokens
    assert len(vllm.ended) == 1
