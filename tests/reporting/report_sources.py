"""A report of a small comparison, with whatever texts a test wants in it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings
from fisao_pipeline.benchmarks.comparison import compare
from fisao_pipeline.benchmarks.comparison_table import settings_line, title
from fisao_pipeline.method.object_spans import ObjectVocabulary
from fisao_pipeline.reporting.cases import Answer, Case, shown_cases
from fisao_pipeline.reporting.lineage import read_lineage
from fisao_pipeline.reporting.pictures import data_uris
from fisao_pipeline.reporting.report import Sources
from fisao_pipeline.reporting.reward_shift import reward_shift_figure
from fisao_pipeline.reporting.style import empty_figure, histogram, laid_out, vertical

EVIL = """<script>alert(1)</script>"><img src=x onerror=alert(1)>' onload='alert(1)"""
VOCABULARY = ObjectVocabulary.from_name("coco")
TRUTH = {f"i{n}": ["dog", "car"] for n in range(8)}
# By image: what base and aligned say.
SAID = {
    "i0": ("A dog, a cat and a bench.", "A dog and a car."),
    "i1": ("A dog and a cat.", "A dog."),
    "i2": ("A dog and a cat.", "A car."),
    "i3": ("A dog.", "A dog and a bench."),
    "i4": ("A car.", "A car."),
    "i5": ("A dog and a bench.", "A dog."),
    "i6": ("A cat and a dog.", "A dog and a car."),
    "i7": ("A cat.", "A dog."),
}


def predictions(said=SAID, decodings=("greedy", "sampled")) -> pd.DataFrame:
    rows = []
    for decoding in decodings:
        for image_id, texts in said.items():
            for model, text in zip(("base", "aligned"), texts, strict=True):
                rows.append((model, decoding, "caption", f"p-{image_id}", image_id, "Describe.", None, None, text, 0))
                right = model == "aligned" or image_id in ("i0", "i1")
                answer = "Yes." if right else "No."
                question = (f"q-{image_id}", image_id, "Is there a dog?", "yes", "random", answer, 0)
                rows.append((model, decoding, "pope", *question))
    columns = "model decoding task prompt_id image_id prompt answer pope_strategy response sample_index".split()
    return pd.DataFrame(rows, columns=columns)


def mentions(table: pd.DataFrame) -> pd.DataFrame:
    """Rewards +1 for what is there, −1 for what is not."""
    rows = []
    for row in table[table["task"] == "caption"].itertuples():
        for category in ("dog", "cat", "bench", "car"):
            start = row.response.find(category)
            if start >= 0:
                there = category in TRUTH[row.image_id]
                reward, label = (1.0, "correct") if there else (-1.0, "hallucinated")
                place = (row.model, row.decoding, row.prompt_id, row.sample_index, row.image_id)
                rows.append((*place, category, start, start + len(category), 0.25, reward, label, False))
    columns = "model decoding prompt_id sample_index image_id category char_start char_end score reward label repeated"
    return pd.DataFrame(rows, columns=columns.split())


def history() -> pd.DataFrame:
    rows = [
        {"round": -1.0, "probe_chair_i": 0.4, "probe_recall": 0.9, "kept": False},
        {"round": 0.0, "probe_chair_i": 0.2, "probe_recall": 0.88, "token_reward": 0.5, "kl_k3": 0.1, "kept": False},
        {"round": 1.0, "probe_chair_i": 0.1, "probe_recall": 0.87, "token_reward": 0.9, "kl_k3": 0.3, "kept": True},
    ]
    return pd.DataFrame(rows)


def record(dataset="comparison", version="2026-01-01T00.00.00.000Z", **changes):
    plain = {
        "dataset": dataset,
        "version": version,
        "created": version,
        "kedro_session_id": version,
        "mlflow_run_id": "a" * 32,
        "git_commit": "c" * 40,
        "git_dirty": False,
        "node": f"make_{dataset}",
        "inputs": {},
        "parameters": {},
        "libraries": {"torch": "2.13.0"},
    }
    return {**plain, **changes}


def histogram_figure() -> go.Figure:
    figure = laid_out(go.Figure().set_subplots(1, 1), "Scores", "Calibration split")
    bars = histogram([0.1, 0.2, 0.2], np.array([0.0, 0.15, 0.3]), "all", "#0072B2", weight=1.0)
    figure.add_trace(bars, row=1, col=1)
    vertical(figure, 0.15, "threshold", "#333333", col=1)
    return figure


def sources(text: str | None = None, **changes) -> Sources:
    """Of the small comparison; ``text`` is put wherever a user's or a model's text is shown."""
    table = predictions()
    found = mentions(table)
    annotations = pd.DataFrame({"image_id": list(TRUTH), "objects": list(TRUTH.values())})
    comparison = compare(table, annotations, VOCABULARY, settings=BootstrapSettings(200, 0.95, 0), examples=3)
    cases = shown_cases(comparison["examples"], table, found)
    names = {image_id: f"{image_id}.jpg" for image_id in TRUTH}
    records, tree = [record(content="sha256:ea7")], ["└── image_folder  sha256:f01d"]
    reward_settings = {"rule": "posterior"}
    if text is not None:
        cases = [hostile(case, text) for case in cases]
        names = dict.fromkeys(names, text)
        records = [
            record(text, text, node=text, parameters={f"{text}.{text}": text}, inputs={text: text}, content=text)
        ]
        tree = [f"└── {text}  {text}"]
        reward_settings = {text: text}
        for rows in comparison["categories"].values():
            rows["categories"][0]["category"] = text
        comparison["notes"] = [text]
    pictures = data_uris([case.image_id for case in cases], lambda _: Image.new("RGB", (64, 48), "teal"), 48, 10**6)
    captions = table[table["task"] == "caption"].groupby(["model", "decoding"]).size().to_dict()
    made = Sources(
        comparison=comparison,
        titles={name: title(name, comparison["settings"]["samples"][name]) for name in comparison["change"]},
        settings={name: settings_line(comparison["settings"], name) for name in comparison["change"]},
        cases=cases,
        pictures=pictures,
        file_names=names,
        figures={
            "1": histogram_figure(),
            "2": empty_figure("Rewards", text or "No image has reference captions."),
            "4": reward_shift_figure(found, captions, 10),
        },
        history=history(),
        reward_settings=reward_settings,
        verifier_errors="",
        lineage=read_lineage(records, tree),
    )
    return replace(made, **changes)


def hostile(case: Case, text: str) -> Case:
    """The case with a text for every text in it: answer, prompt, categories."""
    mention = next(m for answers in case.answers.values() for answer in answers for m in answer.mentions)
    # Once as plain text and once as a mention.
    found = replace(mention, start=len(text), end=2 * len(text), category=text)
    answer = Answer(text, text + text, (found,))
    return replace(case, true_objects=(text,), answers=dict.fromkeys(case.answers, (answer,)))
