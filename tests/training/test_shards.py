"""Answers that are kept part by part: what was finished is not done again, and the table is the same."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from tests.pocket_models import PocketWorld, stir
from tests.training.test_evaluation import PARAMS

from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.libraries import library_versions
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.training import sampling
from fisao_pipeline.training import shards as shards_module
from fisao_pipeline.training.evaluation import answer_prompts, caption_questions
from fisao_pipeline.training.shards import Shards, drop, library_versions_of_results, sampling_owner, shard_owners

ALL = PARAMS.model_copy(
    update={"decodings": ("greedy", "sampled", "beam"), "num_beams": 2, "batch_size": 4, "responses_per_shard": 4}
)
IMAGES = 6
BY_ITSELF = ResponseSamplingParams(
    responses_per_prompt=2,
    temperature=1.0,
    max_new_tokens=8,
    prompts_per_round=4,
    calibration_prompts=4,
    batch_size=8,
    seed=0,
)


class Stopped(Exception):
    """As a full disk or a lost GPU would be."""


def questions(world: PocketWorld) -> pd.DataFrame:
    return caption_questions(world.prompts.head(IMAGES).assign(split="held_out"))


def store(folder: Path) -> KeyedFolder:
    return KeyedFolder(folder, ".parquet", "pandas.ParquetDataset")


def sizes(world: PocketWorld) -> dict[str, tuple[int, int]]:
    return dict.fromkeys(world.manifest["image_id"], (48, 48))


def ask(world: PocketWorld, folder: Path | None, params=ALL, policy: Policy | None = None) -> pd.DataFrame:
    shards = None
    if folder is not None:
        owners = shard_owners(world.policy_source, None, world.manifest, params)
        shards = {m: Shards(store(folder), owner, params.responses_per_shard) for m, owner in owners.items()}
    policy = policy or stir(world.policy(), scale=0.5)
    asked = questions(world)
    return answer_prompts(policy, asked, world.open_image, params, image_sizes=sizes(world), shards=shards)


@pytest.fixture(scope="module")
def whole(world) -> pd.DataFrame:
    """In one go, nothing kept."""
    return ask(world, None)


class Counted:
    """Counts batches that are answered or scored, and stops before one of them."""

    def __init__(self, monkeypatch, stop_at: int | None = None):
        self.calls = 0
        for name in ("sample", "score"):
            monkeypatch.setattr(Policy, name, self._counting(getattr(Policy, name), stop_at))

    def _counting(self, real, stop_at):
        def call(*args, **options):
            if self.calls == stop_at:
                raise Stopped
            self.calls += 1
            return real(*args, **options)

        return call


def test_kept_or_not_the_table_is_the_same(world, whole, tmp_path):
    pd.testing.assert_frame_equal(ask(world, tmp_path), whole)
    assert len(store(tmp_path).keys()) > 12


def test_what_was_finished_is_kept_when_a_run_fails(world, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        all_batches = Counted(patch)
        ask(world, None)
    for stop_at in (5, all_batches.calls - 1):
        folder = tmp_path / str(stop_at)
        with monkeypatch.context() as patch:
            first = Counted(patch, stop_at)
            with pytest.raises(Stopped):
                ask(world, folder)
        with monkeypatch.context() as patch:
            second = Counted(patch)
            pd.testing.assert_frame_equal(ask(world, folder), whole)
        # A shard is one batch here: what was begun when the run failed is all that is lost.
        assert first.calls + second.calls - all_batches.calls in (0, 1), stop_at


def test_a_run_that_was_finished_asks_nothing_again_and_its_bar_is_full(world, whole, tmp_path, monkeypatch, caplog):
    ask(world, tmp_path)
    counts = []
    real = sampling.tqdm

    def bar(*args, **options):
        counts.append(real(*args, **options))
        return counts[-1]

    monkeypatch.setattr(sampling, "tqdm", bar)
    again = Counted(monkeypatch)
    with caplog.at_level("INFO"):
        pd.testing.assert_frame_equal(ask(world, tmp_path), whole)
    assert again.calls == 0
    assert counts and all(c.n == c.total for c in counts)
    assert "base, greedy, caption: 6 of 6 were answered by an earlier run" in caplog.text


def test_a_damaged_part_is_named_and_answered_again(world, whole, tmp_path, monkeypatch, caplog):
    ask(world, tmp_path)
    part = sorted(tmp_path.glob("*.parquet"))[1]
    before = part.read_bytes()
    part.write_bytes(before[:100])
    with monkeypatch.context() as patch:
        again = Counted(patch)
        pd.testing.assert_frame_equal(ask(world, tmp_path), whole)
        assert again.calls == 1
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and part.stem in warned[0]
    assert len(part.read_bytes()) > 100
    ask(world, tmp_path)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


class Seen(KeyedFolder):
    """Notes whether something was there."""

    def get(self, key):
        value = super().get(key)
        self.hits = [*getattr(self, "hits", []), *([key] if value is not None else [])]
        return value


@pytest.fixture(scope="module")
def kept(world, tmp_path_factory) -> Path:
    """What a finished run has kept."""
    folder = tmp_path_factory.mktemp("kept")
    ask(world, folder, ALL.model_copy(update={"decodings": ("sampled",)}))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"max_new_tokens": 9},
        {"temperature": 0.9},
        {"seed": 1},
        {"samples_per_prompt": 1},
        {"batch_size": 6},
        {"responses_per_shard": 8},
    ],
)
def test_no_part_is_taken_from_a_run_of_other_settings(world, kept, tmp_path, change):
    """The same owner on purpose: the settings of each table tell its parts apart as well."""
    shutil.copytree(kept, tmp_path / "kept")
    other = ALL.model_copy(update={"decodings": ("sampled",), **change})
    owner = shard_owners(world.policy_source, None, world.manifest, ALL.model_copy(update={"decodings": ("sampled",)}))
    seen = Seen(tmp_path / "kept", ".parquet", "pandas.ParquetDataset")
    shards = {"base": Shards(seen, owner["base"], other.responses_per_shard)}
    answer_prompts(world.policy(), questions(world), world.open_image, other, ("base",), sizes(world), shards)
    assert bool(seen.hits) == (change == {})


def test_no_part_is_taken_from_other_prompts_models_or_pictures(world):
    """Prompts are in the digest of each table; what else there is tells the owners apart."""
    base = shard_owners(world.policy_source, None, world.manifest, ALL)
    hashes = world.manifest.assign(sha256="x")
    others = [
        shard_owners(world.verifier_source, None, world.manifest, ALL),
        shard_owners(world.policy_source, None, hashes, ALL),
        shard_owners(world.policy_source, None, hashes.assign(sha256="y"), ALL),
        shard_owners(world.policy_source, None, world.manifest, ALL.model_copy(update={"seed": 3})),
    ]
    assert len({owners["base"] for owners in [base, *others]}) == 5
    adapted = shard_owners(world.policy_source, world.models / "pocket_verifier", world.manifest, ALL)
    assert adapted["base"] == base["base"] and adapted["aligned"] != base["aligned"]
    figures = ALL.model_copy(
        update={"confidence": 0.9, "examples": 2, "drop_unfinished_sentence": True, "word_chain": "reference"}
    )
    assert shard_owners(world.policy_source, None, world.manifest, figures) == base


def test_no_part_is_taken_from_another_kind_of_device(world, monkeypatch):
    """A GPU rounds otherwise: a table of parts of both would be that of neither."""
    source = replace(world.policy_source, device="auto")
    owned = []
    for has_gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        evaluation = shard_owners(source, None, world.manifest, ALL)
        owned.append({**evaluation, "sampling": sampling_owner(source, world.manifest, BY_ITSELF)})
    assert all(owned[0][name] != owned[1][name] for name in ("base", "aligned", "sampling"))
    named = replace(source, device="cpu")
    assert owned[0]["sampling"] == sampling_owner(named, world.manifest, BY_ITSELF)


def test_vllms_version_tells_apart_what_vllm_draws_and_nothing_else(world, monkeypatch):
    owned = {}
    for version in (None, "0.29.0", "0.30.0"):
        known = library_versions() | ({"vllm": version} if version else {})
        monkeypatch.setattr(shards_module, "library_versions", lambda known=known: known)
        owned[version] = [
            sampling_owner(world.policy_source, world.manifest, BY_ITSELF.model_copy(update={"sampler": sampler}))
            for sampler in ("in_process", "vllm")
        ] + [shard_owners(world.policy_source, None, world.manifest, ALL)["base"]]
        assert set(library_versions_of_results()) == {"torch", "transformers", "peft"}
    itself, vllm, evaluation = zip(*owned.values(), strict=True)
    assert len(set(itself)) == len(set(evaluation)) == 1 and len(set(vllm)) == 3


def test_another_prompt_is_another_table(world, kept, tmp_path):
    shutil.copytree(kept, tmp_path / "kept")
    seen = Seen(tmp_path / "kept", ".parquet", "pandas.ParquetDataset")
    params = ALL.model_copy(update={"decodings": ("sampled",)})
    owner = shard_owners(world.policy_source, None, world.manifest, params)["base"]
    changed = questions(world).assign(prompt="What do you see?")
    shards = {"base": Shards(seen, owner, params.responses_per_shard)}
    answer_prompts(world.policy(), changed, world.open_image, params, ("base",), sizes(world), shards)
    assert not seen.hits


def test_what_other_code_has_answered_is_not_taken_and_goes_with_its_owner():
    one, two = Shards(None, "abc", 8, "code 1"), Shards(None, "abc", 8, "code 2")
    assert one.key(0, "settings") != two.key(0, "settings")
    assert all(shards.key(0, "settings").startswith("abc-") for shards in (one, two))


def test_the_parts_of_a_finished_run_are_dropped_and_no_others(tmp_path):
    folder = store(tmp_path)
    for key in ("abc-1-0", "abc-2-0", "abcd-1-0", "def-1-0"):
        folder.put(key, pd.DataFrame({"a": [1]}))
    drop(folder, lambda: ["abc", "nobody"])
    assert folder.keys() == ["abcd-1-0", "def-1-0"]
    for key in folder.keys():
        folder.remove(key)
    drop(folder, lambda: pytest.fail("who owns nothing is not asked for"))


def test_memory_that_runs_out_begins_the_table_anew_with_half_the_batch(world, tmp_path, monkeypatch):
    """Parts of the larger batch are no parts of that table."""
    small = ALL.model_copy(update={"batch_size": 2, "decodings": ("sampled",)})
    expected = ask(world, None, small)
    real, calls = Policy.sample, []

    def sample(self, batch, *rest, **options):
        calls.append(len(batch))
        if len(calls) == 3:
            raise torch.OutOfMemoryError("none left")
        return real(self, batch, *rest, **options)

    monkeypatch.setattr(Policy, "sample", sample)
    # What is scored in batches of four differs by rounding from what is scored in batches of two.
    columns = [name for name in expected if name != "lowest_base_logprob"]
    found = ask(world, tmp_path, small.model_copy(update={"batch_size": 4}))
    pd.testing.assert_frame_equal(found[columns], expected[columns])


KILLED = """
import sys
from pathlib import Path
from tests.pocket_models import PocketWorld
from tests.training.test_shards import ask
ask(PocketWorld.make(Path(sys.argv[1])), Path(sys.argv[2])).to_parquet(sys.argv[3])
"""


@pytest.mark.slow
def test_a_process_that_is_killed_loses_one_part_at_most(world, whole, tmp_path):
    folder, result = tmp_path / "shards", tmp_path / "predictions.parquet"
    command = [sys.executable, "-c", KILLED, str(world.models), str(folder), str(result)]
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    process = subprocess.Popen(command, cwd=root, env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while len(store(folder).keys()) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not result.exists()
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}
    subprocess.run(command, cwd=root, env=env, check=True, stderr=subprocess.DEVNULL)
    pd.testing.assert_frame_equal(pd.read_parquet(result), whole)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept, "what was kept was not made again"
