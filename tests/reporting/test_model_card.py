"""The card tells what was done, and nothing of a user's becomes markup or tells where their files are."""

import math

import pandas as pd
import yaml

from fisao_pipeline.commands.export import with_comparison
from fisao_pipeline.reporting.model_card import SplitData, data_by_split, model_card, probe_changes


def card(**changes):
    given = {
        "base_model": "organisation/model",
        "revision": "abc",
        "identity": "organisation/model@abc",
        "data": [],
        "settings": {"policy_training.rounds": 3},
        "probe": {},
    }
    return model_card(**{**given, **changes})


def head(text):
    _, front, _ = text.split("---\n", 2)
    return yaml.safe_load(front)


def test_it_names_base_revision_and_settings():
    text = card()
    assert head(text)["base_model"] == "organisation/model"
    assert head(text)["library_name"] == "peft"
    assert "revision abc" in text
    assert "| policy\\_training.rounds | 3 |" in text
    assert "Not measured." in text


def test_it_says_whose_eyes_judged():
    for own, words in ((True, "the base model's own"), (False, "another model's"), (None, "not known to be the base")):
        assert f"- vision encoder that the rewards came from: {words}" in card(own_encoder=own)


def test_a_folder_is_told_by_its_name_alone():
    text = card(base_model="/home/somebody/secret/my_llava", revision=None, identity="sha256:12")
    assert "somebody" not in text and "secret" not in text
    assert "my\\_llava" in text
    assert "base_model" not in head(text), "the hub would look for an id of that name"
    settings = {"a": "/home/somebody/words.txt", "b": "C:\\Users\\somebody\\words.txt"}
    text = card(settings=settings)
    assert "somebody" not in text and text.count("words.txt") == 2


def test_a_users_text_is_no_markup():
    text = card(
        settings={"template": "<script>alert(1)</script> | [x](http://y) & `z`\n# Heading\n---"},
        revision='x"\n---\nevil: true',
    )
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "\n# Heading" not in text and "\nevil" not in text
    assert "\\| \\[x\\](http://y) &amp; \\`z\\`" in text
    strange = 'o/m"\nlicense: "stolen'
    assert head(card(base_model=strange)) == {
        "base_model": strange,
        "library_name": "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": ["lora", "ppo", "fisao"],
    }


def test_the_data_by_split():
    manifest = pd.DataFrame(
        {"image_id": ["1", "2", "3", "4"], "file_name": ["train/a/1.jpg", "more/2.jpg", "train/3.jpg", "4.jpg"]}
    )
    prompts = pd.DataFrame(
        {"image_id": ["3", "1", "1", "2", "4"], "split": ["calibration", "training", "training", "training", "probe"]}
    )
    found = data_by_split(prompts, manifest)
    assert found == [
        SplitData("calibration", 1, 1, ("train",)),
        SplitData("training", 3, 2, ("more", "train")),
        SplitData("probe", 1, 1, ()),
    ]
    text = card(data=[*found, SplitData("held_out", 5000, 500, ("<b>|",))])
    assert "| training | 3 | 2 | more, train |" in text and "| held_out | 5,000 | 500 | \\<b\\>\\| |" in text
    assert text.index("## Data") < text.index("## Settings")


def test_the_probe_before_and_after():
    rows = [
        {"round": -1.0, "kept": False, "probe_chair_i": 0.4, "probe_recall": 0.9, "probe_objects": math.nan},
        {"round": 0.0, "kept": False, "probe_chair_i": 0.3, "probe_recall": 0.8, "probe_objects": 2.0},
        {"round": 1.0, "kept": True, "probe_chair_i": 0.1, "probe_recall": 0.7, "probe_objects": 3.0},
    ]
    found = probe_changes(rows)
    assert found == {"probe_chair_i": (0.4, 0.1), "probe_recall": (0.9, 0.7)}
    text = card(probe=found)
    assert "| 0.400 | 0.100 |" in text and "Not measured." not in text
    assert probe_changes([]) == {}


def test_the_evaluation_comes_first():
    for text in (card(), card(probe={"probe_recall": (0.9, 0.7)})):
        done = with_comparison(text, "| metric |\n|---|\n| CHAIR |", reported=False)
        assert done.index("| CHAIR |") < done.index("## Settings")
        assert "Not measured." not in done
        assert ("| 0.900 | 0.700 |" in done) == ("| 0.900 | 0.700 |" in text)
    assert "| CHAIR |" in with_comparison("# Another card\n", "| CHAIR |", reported=False)
    assert "[report.html](report.html)" in with_comparison(card(), "| CHAIR |", reported=True)
