"""What threads read ahead comes in order, once, bounded, and the same as without them."""

import threading
import time
from contextlib import closing

import pytest
import torch
from tests.backbone_zoo import Picture, build

from fisao_pipeline.models import prompts, verifier
from fisao_pipeline.models.feeding import open_named, prefetched, reading_threads, to_device
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import ModelSource


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_everything_comes_once_and_in_order(threads):
    made = []

    def square(number):
        time.sleep(0.002 * (number % 3))
        made.append(number)
        return number * number

    assert list(prefetched(square, iter(range(40)), threads)) == [n * n for n in range(40)]
    assert sorted(made) == list(range(40))


def test_no_more_than_a_few_are_ahead_and_none_without_threads():
    for threads, most in ((0, 0), (2, 4)):
        begun, farthest = 0, 0

        def begin(number):
            nonlocal begun
            begun += 1
            return number

        for taken, _ in enumerate(prefetched(begin, range(30), threads), start=1):
            farthest = max(farthest, begun - taken)
        assert farthest <= most


def test_it_goes_on_while_the_caller_works():
    """A rendezvous of both threads: without overlap it would never come about."""
    both = threading.Barrier(2, timeout=20)
    made = prefetched(lambda number: both.wait() if number == 1 else number, [0, 1], 1)
    assert next(made) == 0
    both.wait()
    next(made)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_exception_comes_where_its_item_would_and_names_the_picture(threads):
    def open_image(image_id):
        if image_id == "i2":
            raise OSError("disk full of holes")
        return image_id

    seen = []
    with pytest.raises(OSError, match="disk full of holes") as failure:
        for image in prefetched(lambda i: open_named(open_image, i), ["i0", "i1", "i2", "i3"], threads):
            seen.append(image)
    assert seen == ["i0", "i1"]
    assert failure.value.__notes__ == ["while image 'i2' was opened"]


def test_a_closed_iterator_leaves_no_thread_behind():
    before = threading.active_count()
    with closing(prefetched(lambda number: number, range(1000), 3)) as made:
        assert next(made) == 0
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_the_cpu_waits_for_no_thread_and_is_copied_to_as_before(world):
    assert reading_threads(torch.device("cpu")) == 0
    assert reading_threads(torch.device("cuda")) >= 1
    assert world.verifier().threads == world.policy(lora=None).encode.threads == 0
    values = torch.arange(3)
    assert to_device(values, torch.device("cpu")) is values


def test_models_read_ahead_with_the_threads_of_their_device(world, monkeypatch):
    for module in (verifier, prompts):
        monkeypatch.setattr(module, "reading_threads", lambda device: 3)
    assert world.verifier().threads == world.policy(lora=None).encode.threads == 3


def test_the_verifiers_scores_are_the_same_with_threads(world):
    images = world.prompts["image_id"].tolist()
    texts = ["a photo of a dog"] * len(images)
    inline, threaded = world.verifier(), world.verifier()
    inline.batch_size = threaded.batch_size = 20
    threaded.threads = 3
    opened = []

    def open_image(image_id):
        opened.append((image_id, threading.current_thread() is threading.main_thread()))
        return world.open_image(image_id)

    wanted = inline.score(images, texts, world.open_image)
    assert torch.equal(threaded.score(images, texts, open_image), wanted)
    assert sorted(opened) == sorted((image_id, False) for image_id in images)


def test_a_picture_that_the_verifier_cannot_open_ends_its_threads(world):
    verifier = world.verifier()
    verifier.threads = 2
    before = threading.active_count()
    with pytest.raises(KeyError) as failure:
        verifier.score(["i00", "no such", "i01"], ["cat"] * 3, world.open_image)
    assert "'no such'" in failure.value.__notes__[0]
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl"])
def test_the_policys_prompts_are_the_same_with_threads(tmp_path, kind):
    """One kind that sees a batch at once, and one that sees picture by picture."""
    source = ModelSource(str(build(kind, tmp_path / "model")), dtype="float32", device="cpu")
    names = ["square", "wide", "square", "tall"]
    prompts = ["What is it?", "Describe the picture.", "Is there a dog?", "What is it?"]
    batches = []
    for threads in (0, 3):
        policy = Policy.load(source)
        policy.encode.threads = threads
        batches.append(policy.encode(prompts, names, Picture()))
    inline, threaded = batches
    assert torch.equal(inline.input_ids, threaded.input_ids)
    assert torch.equal(inline.attention_mask, threaded.attention_mask)
    assert all(torch.equal(a, b) for a, b in zip(inline.image_features, threaded.image_features, strict=True))
