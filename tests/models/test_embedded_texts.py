"""Embeddings of texts on disk: the same bits with them and without, and never in the way."""

import json
import logging
import multiprocessing
from dataclasses import replace

import pytest
import torch
from tests.models.test_verifier import count_forwards
from tests.pocket_models import PocketWorld

from fisao_pipeline.datasets import KeyedFolderDataset
from fisao_pipeline.models import embedded_texts as module
from fisao_pipeline.models.embedded_texts import EmbeddedTexts, embedded_texts
from fisao_pipeline.models.tensor_file import TensorFile
from fisao_pipeline.models.verifier import load_verifier

WORDS = ["a photo of a dog", "cat", "a photo of a large red umbrella"]
LONG_FOR_THE_MODEL = "a dog next to a cat " * 9


def folder(path):
    dataset = "fisao_pipeline.datasets.TensorFileDataset"
    return KeyedFolderDataset(filepath=str(path / "texts"), dataset=dataset, suffix=".safetensors").load()


@pytest.fixture
def store(tmp_path):
    return folder(tmp_path)


def scores(world: PocketWorld, verifier, texts) -> torch.Tensor:
    return verifier.score(["i00"] * len(texts), texts, world.open_image)


def warnings_of(caplog) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def only_file(store):
    (path,) = store.folder.glob("*.safetensors")
    return path


def test_scores_are_the_same_bits_with_texts_kept_and_without(world, store, monkeypatch):
    """In another order, with other neighbours, half of them known."""
    first = load_verifier(world.verifier_source, store)
    scores(world, first, [*WORDS[::-1], LONG_FOR_THE_MODEL])
    asked = ["a bench", *WORDS, LONG_FOR_THE_MODEL, "a photo of a cup"]
    expected = scores(world, load_verifier(world.verifier_source), asked)
    again = load_verifier(world.verifier_source, store)
    seen = count_forwards(again, monkeypatch)
    assert torch.equal(scores(world, again, asked), expected)
    assert seen["texts"] == [1] * 3, "one that is known is looked at once more, then the two that are new"
    assert again.truncated_texts == 1
    third = load_verifier(world.verifier_source, store)
    seen = count_forwards(third, monkeypatch)
    assert torch.equal(scores(world, third, asked), expected)
    assert seen["texts"] == [1]


def test_a_text_that_is_not_asked_for_counts_as_cut_nowhere(world, store):
    scores(world, load_verifier(world.verifier_source, store), [LONG_FOR_THE_MODEL])
    again = load_verifier(world.verifier_source, store)
    scores(world, again, ["cat"])
    assert again.truncated_texts == 0


def first_text_altered(data: bytes) -> bytes:
    at = 8 + int.from_bytes(data[:8], "little")
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:40], lambda data: b"junk" * 100, first_text_altered]
)
def test_a_damaged_file_is_said_once_and_made_again(world, store, caplog, damage):
    expected = scores(world, load_verifier(world.verifier_source, store), WORDS)
    path = only_file(store)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again = load_verifier(world.verifier_source, store)
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        assert torch.equal(scores(world, again, WORDS), expected)
        scores(world, again, ["a cup"])
    (warning,) = warnings_of(caplog)
    assert "cannot be used and are made again" in warning.getMessage()
    caplog.clear()
    third = load_verifier(world.verifier_source, store)
    assert torch.equal(scores(world, third, WORDS), expected)
    assert not warnings_of(caplog)
    assert TensorFile.read(path).values["texts"] == [*WORDS, "a cup"]


@pytest.mark.parametrize("wrong", [{"texts": ["cat"]}, {"texts": None, "cut": []}, {"texts": ["a", "b"], "cut": []}])
def test_a_file_of_another_form_is_made_again(world, store, caplog, wrong):
    expected = scores(world, load_verifier(world.verifier_source, store), WORDS)
    path = only_file(store)
    TensorFile({"embeddings": torch.ones(1, 3)}, wrong).write(path)
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        assert torch.equal(scores(world, load_verifier(world.verifier_source, store), WORDS), expected)
    assert len(warnings_of(caplog)) == 1
    assert TensorFile.read(path).values["texts"] == WORDS


def test_not_a_number_is_not_taken(world, store, caplog):
    expected = scores(world, load_verifier(world.verifier_source, store), WORDS)
    path = only_file(store)
    kept = TensorFile.read(path)
    spoilt = kept.tensors["embeddings"].clone()
    spoilt[1, 0] = float("nan")
    TensorFile({"embeddings": spoilt}, kept.values).write(path)
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        assert torch.equal(scores(world, load_verifier(world.verifier_source, store), WORDS), expected)
    assert "NaN" in caplog.text


def test_what_cannot_be_kept_is_done_without(world, store, caplog, monkeypatch):
    def refuse(key, value):
        raise OSError("No space left on device")

    monkeypatch.setattr(store, "put", refuse)
    verifier = load_verifier(world.verifier_source, store)
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        found = scores(world, verifier, WORDS)
    assert torch.equal(found, scores(world, load_verifier(world.verifier_source), WORDS))
    assert "Embedded texts are not kept" in caplog.text


def test_other_weights_types_threads_and_revisions_have_files_of_their_own(world, store, tmp_path):
    source, cpu = world.verifier_source, torch.device("cpu")
    other = replace(source, path_or_id=str(world.models / "pocket_vlm"))
    threads = torch.get_num_threads()
    keys = [
        embedded_texts(store, given, revision, cpu).key
        for given, revision in [(source, None), (other, None), (replace(source, dtype="bfloat16"), None), (source, "a")]
    ]
    torch.set_num_threads(threads + 1)
    keys.append(embedded_texts(store, source, None, cpu).key)
    torch.set_num_threads(threads)
    assert len(set(keys)) == 5
    assert embedded_texts(store, source, None, cpu).key == keys[0]


def test_long_texts_are_not_kept_and_the_oldest_of_too_many_go(store, monkeypatch):
    monkeypatch.setattr(module, "MOST_TEXTS", 3)
    memory = EmbeddedTexts(store, "k")
    vectors = {text: torch.full((2,), float(number)) for number, text in enumerate("abcd")}
    memory.add(vectors | {"x" * (module.LONGEST_TEXT + 1): torch.ones(2)}, {"a", "c"})
    found, cut = memory.read(lambda text: vectors[text])
    assert list(found) == ["b", "c", "d"] and cut == {"c"}
    memory.add({"e": torch.ones(2)}, set())
    assert json.loads(json.dumps(store.get("k").values)) == {"texts": ["c", "d", "e"], "cut": ["c"]}


def keep_many(path, names):
    memory = EmbeddedTexts(folder(path), "k")
    for name in names:
        memory.add({name: torch.tensor([float(len(name))])}, set())


def test_two_processes_keep_what_both_have_embedded(tmp_path):
    several = [[f"{letter}{'y' * number}" for number in range(8)] for letter in "ab"]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=keep_many, args=(tmp_path, names)) for names in several]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found, _ = EmbeddedTexts(folder(tmp_path), "k").read(lambda text: torch.tensor([float(len(text))]))
    assert set(found) == {*several[0], *several[1]}
    assert all(float(vector) == len(text) for text, vector in found.items())
