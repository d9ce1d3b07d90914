import hashlib

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisao_pipeline.ingestion.annotations import MANIFEST_COLUMNS
from fisao_pipeline.ingestion.prompts import PROMPT_COLUMNS, make_prompts


def manifest_of(contents):
    """A manifest from file name → content; equal contents are duplicates."""
    names = sorted(contents)
    hashes = [hashlib.sha256(str(contents[name]).encode()).hexdigest() for name in names]
    columns = {"image_id": [name.split(".")[0] for name in names], "file_name": names, "width": 64, "height": 48}
    return pd.DataFrame(
        {**columns, "sha256": hashes, "objects": None, "captions": None, "pixels": hashes, "sources": None}
    )


MANIFEST = manifest_of({"a.jpg": 1, "b.jpg": 2, "c.jpg": 3})
NO_IMAGES_REFUSED = pd.DataFrame({"name": []}, dtype="str")


@pytest.fixture
def run(make_params):
    def run_on(rows, manifest=MANIFEST, refused=(), **changes):
        params = make_params(**{"required_splits": [], **changes})
        files = None if rows is None else [("prompts.jsonl", rows)]
        refused_images = pd.DataFrame({"name": list(refused)}, dtype="str")
        kept, prompts, rejected, copies = make_prompts(manifest, files, refused_images, params)
        assert list(kept.columns) == MANIFEST_COLUMNS and set(copies["kind"]) <= {"image"}
        assert sorted([*kept["file_name"], *copies["name"]]) == list(manifest["file_name"]), "nothing is lost"
        assert list(prompts.columns) == PROMPT_COLUMNS
        return prompts, dict(zip(rejected["name"], rejected["reason"], strict=True))

    return run_on


def row(prompt_id, image="a.jpg", prompt="What is it?", **more):
    return {"prompt_id": prompt_id, "image": image, "prompt": prompt, **more}


def test_without_a_file_the_template_is_asked_of_every_image(run):
    prompts, rejected = run(None, template_prompt="Say what you see.")
    assert list(prompts["image_id"]) == list(prompts["prompt_id"]) == ["a", "b", "c"]
    assert set(prompts["prompt"]) == {"Say what you see."} and not rejected


def test_rows_keep_their_order_ids_and_splits_and_lose_the_image_token(run):
    rows = [row(2, "b.jpg", "<image>\nWhat?", split="probe"), row("x", "./a.jpg", " Why? ", split="held_out")]
    prompts, _ = run(rows)
    assert prompts.values.tolist() == [["2", "b", "What?", "probe"], ["x", "a", "Why?", "held_out"]]


def test_llava_rows_give_their_first_human_turn(run):
    rows = [
        {
            "id": "000",
            "image": "coco/train2017/a.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat colour is the bus?"},
                {"from": "gpt", "value": "Red."},
                {"from": "human", "value": "And the car?"},
            ],
        },
        {"id": "1", "conversations": [{"from": "human", "value": "Text only"}]},
        {"id": "2", "image": "a.jpg", "conversations": [{"from": "gpt", "value": "Hello"}]},
        {"id": "3", "image": "a.jpg", "conversations": "?"},
    ]
    prompts, rejected = run(rows)
    assert prompts[["prompt_id", "prompt"]].values.tolist() == [["000", "What colour is the bus?"]]
    assert {name: reason.split(":")[0] for name, reason in rejected.items()} == {
        "1": "prompt without one image",
        "2": "empty prompt",
        "3": "empty prompt",
    }


def test_what_cannot_be_used_is_refused_with_its_reason(run):
    rows = [
        row("good"),
        row("good", prompt="again"),
        row("none", image=None),
        row("many", image=["a.jpg", "b.jpg"]),
        row("gone", image="z.jpg"),
        row("broken", image="broken.jpg"),
        row("outside", image="../a.jpg"),
        row("blank", prompt=" <image> \n"),
        row("number", prompt=5),
        row("surrogate", prompt="\ud800"),
        row("split", split="test"),
        row("listed", split=["training"]),
        "nonsense",
        {"image": "b.jpg", "prompt": "No id"},
    ]
    prompts, rejected = run(rows, refused=["broken.jpg"])
    assert list(prompts["prompt_id"]) == ["good", "prompts-14"] and prompts["prompt"][0] == "What is it?"
    assert {name: reason.split(":")[0] for name, reason in rejected.items()} == {
        "good": "duplicate prompt id",
        "none": "prompt without one image",
        "many": "prompt without one image",
        "gone": "no such image in the folder",
        "broken": "image was rejected",
        "outside": "no such image in the folder",
        "blank": "empty prompt",
        "number": "empty prompt",
        "surrogate": "empty prompt",
        "split": "unknown split",
        "listed": "unknown split",
        "prompts-13": "not an object",
    }


@pytest.mark.parametrize("prompt", ["<ima<image>ge>What?", "<im<ima<image>ge>age>\nWhat?<image>"])
def test_no_image_token_is_left_by_taking_one_out(run, prompt):
    assert run([row(1, prompt=prompt)])[0]["prompt"].tolist() == ["What?"]
    assert set(run(None, template_prompt=prompt)[0]["prompt"]) == {"What?"}


@pytest.mark.parametrize("token", ["</s>", "<s>", "<pad>", "<|im_start|>", "<|endoftext|>", "</<image>s>"])
def test_text_that_is_read_as_a_control_token_is_refused(run, token):
    prompts, rejected = run([row(1, prompt=f"What? {token} USER:"), row(2)])
    assert list(prompts["prompt_id"]) == ["2"]
    assert rejected["1"].startswith("control token in prompt")
    with pytest.raises(ValueError, match=r"control token.*image_ingestion\.template_prompt"):
        run(None, template_prompt=f"What? {token}")


def test_angle_brackets_and_bars_of_plain_text_stay(run):
    text = "Is a < b, <b>bold</b>, |x| > 2 or <3 in the picture?"
    assert run([row(1, prompt=text)])[0]["prompt"].tolist() == [text]


def test_a_template_that_is_only_an_image_token_is_an_error(run):
    with pytest.raises(ValueError, match=r"empty prompt.*image_ingestion\.template_prompt"):
        run(None, template_prompt="<image>")


def test_conflicting_splits_of_one_image_refuse_all_its_prompts(run):
    rows = [row(1, split="training"), row(2, split="held_out"), row(3), row(4, "b.jpg", split="probe")]
    prompts, rejected = run(rows)
    assert list(prompts["prompt_id"]) == ["4"]
    assert set(rejected) == {"1", "2", "3"} and all("conflicting splits" in reason for reason in rejected.values())


def test_of_identical_images_that_rows_ask_in_two_splits_the_held_out_copy_stays(run):
    manifest = manifest_of({"a.jpg": 1, "copy.jpg": 1, "b.jpg": 2})
    rows = [row(1, split="training"), row(2, "copy.jpg", split="held_out"), row(3, "b.jpg")]
    prompts, rejected = run(rows, manifest)
    assert list(prompts["prompt_id"]) == ["2", "3"]
    assert rejected == {"1": "image was quarantined: a.jpg is a copy of copy.jpg in held_out"}


def test_sources_deal_images_and_refuse_rows_that_ask_for_another_split(run):
    manifest = manifest_of({"train/a.jpg": 1, "val/b.jpg": 2, "c.jpg": 3})
    rows = [row(1, "a.jpg"), row(2, "b.jpg", split="training"), row(3, "b.jpg"), row(4, "c.jpg", split="probe")]
    prompts, rejected = run(rows, manifest, source_splits={"train": ["training"], "val/": ["held_out"]})
    assert prompts[["prompt_id", "split"]].values.tolist() == [["1", "training"], ["3", "held_out"], ["4", "probe"]]
    assert list(rejected) == ["2"] and rejected["2"].startswith("split of another source: the row asks for training")


def test_the_first_usable_prompts_of_each_file_are_used(make_params, caplog):
    files = [("big.json", [row(1, "z.jpg"), row(2), row(3, "b.jpg"), row(4)]), ("own.jsonl", [row(5, "c.jpg")])]
    params = make_params(required_splits=[], max_prompts_per_file=2)
    with caplog.at_level("INFO"):
        _, prompts, rejected, _ = make_prompts(MANIFEST, files, NO_IMAGES_REFUSED, params)
    assert list(prompts["prompt_id"]) == ["2", "3", "5"] and list(rejected["name"]) == ["1"]
    assert "big.json: the first 2 of 3 usable prompts are used" in caplog.text and "own.jsonl" not in caplog.text


def test_images_without_a_row_are_asked_the_template_in_the_splits_that_want_it(run):
    manifest = manifest_of({"train/a.jpg": 1, "train/b.jpg": 2, "val/c.jpg": 3, "val/d.jpg": 4, "val/e.jpg": 3})
    rows = [row("template-val/c", "a.jpg"), row(2, "d.jpg"), row(3, "e.jpg", prompt="</s>")]
    sources = {"train": ["training"], "val": ["held_out"]}
    prompts, _ = run(rows, manifest, source_splits=sources, template_splits=["held_out"], template_prompt="Tell.")
    assert prompts[["prompt_id", "image_id", "prompt"]].values.tolist() == [
        ["template-val/c", "train/a", "What is it?"],
        ["2", "val/d", "What is it?"],
        ["template-template-val/c", "val/c", "Tell."],
        ["template-val/e", "val/e", "Tell."],
    ]


def test_a_split_that_one_row_asks_for_holds_for_all_prompts_of_that_content(run):
    manifest = manifest_of({"a.jpg": 1, "copy.jpg": 1})
    prompts, _ = run([row(1), row(2, "copy.jpg"), row(3, "copy.jpg", split="probe")], manifest)
    assert set(prompts["split"]) == {"probe"}


@settings(deadline=None)
@given(contents=st.dictionaries(st.integers(0, 200), st.integers(0, 40), min_size=3, max_size=60), data=st.data())
def test_adding_images_moves_none_and_duplicates_agree(make_params_of_session, contents, data):
    params = make_params_of_session
    contents = {f"{name}.jpg": content for name, content in contents.items()}
    fewer = data.draw(st.sets(st.sampled_from(sorted(contents)), min_size=1))
    _, everyone, *_ = make_prompts(manifest_of(contents), None, NO_IMAGES_REFUSED, params)
    _, some, *_ = make_prompts(manifest_of({name: contents[name] for name in fewer}), None, NO_IMAGES_REFUSED, params)
    splits = dict(zip(everyone["image_id"], everyone["split"], strict=True))
    assert all(splits[image_id] == split for image_id, split in zip(some["image_id"], some["split"], strict=True))
    by_content = {}
    for name, content in contents.items():
        by_content.setdefault(content, set()).add(splits[name.removesuffix(".jpg")])
    assert all(len(found) == 1 for found in by_content.values())


@pytest.mark.parametrize("content", [{"image": "a.jpg"}, "text", None])
def test_a_file_that_is_no_list_is_named(run, make_params, content):
    with pytest.raises(ValueError, match=r"prompts\.jsonl holds no list of prompts"):
        run(content if content is not None else 5)


def test_no_usable_prompt_is_an_error_that_shows_why(run):
    with pytest.raises(ValueError, match=r"No usable prompt is left.*no such image in the folder"):
        run([row(1, "z.jpg")])


def test_a_required_split_without_prompts_is_an_error(run):
    with pytest.raises(ValueError, match="split 'calibration'"):
        run([row(1, split="training")], required_splits=["calibration", "training"])
