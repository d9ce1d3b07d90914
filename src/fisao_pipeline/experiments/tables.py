"""A study as tables for people: short ones for the terminal, and a Markdown document to keep."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fisao_pipeline.benchmarks.comparison_table import markdown_table
from fisao_pipeline.benchmarks.metric_titles import ROW_TITLES, scale_and_digits

SHORT_TITLES = {
    "chair_i": "CHAIRi ↓",
    "chair_s": "CHAIRs ↓",
    "recall": "recall ↑",
    "objects_per_caption": "objects",
    "tokens": "tokens",
    "repeated_mentions": "rep. ↓",
    "unlikely_captions": "odd ↓",
    "pope_accuracy": "POPE ↑",
    "pope_yes_ratio": "yes",
}
"""The headline metrics. The later ones watch for reward hacking: less said, the same said again, other language."""

LEGEND = (
    "CHAIRi, CHAIRs, recall (of objects), odd (captions the base finds odd), POPE (accuracy), yes (POPE's yes ratio): "
    "in %;\nobjects, tokens and rep. (repeated mentions) per caption; ↓ less is better, ↑ more is better."
)
Summary = Mapping[str, float | None]


def format_study(result: Mapping[str, Any]) -> str:
    """The headline metrics as Markdown tables, one per decoding: the base model first, then the arms; for a terminal.

    Args:
        result: What `fisao_pipeline.experiments.results.summarise` returns.
    """
    seeds = result["settings"]["seeds"]
    many = f"Means ± standard deviation over seeds {', '.join(map(str, seeds))}; the base model has one value."
    lines = [many if len(seeds) > 1 else f"One run per arm, seed {seeds[0]}.", LEGEND]
    for decoding in _decodings(result):
        names = _names(result, decoding)
        rows = [("arm", *(SHORT_TITLES[name] for name in names))]
        for title, metrics in _bases(result, decoding):
            rows.append((title, *(_short(name, metrics.get(name), "value") for name in names)))
        for arm, means in result["arms"].items():
            metrics = means["aligned"].get(decoding, {})
            rows.append((arm, *(_short(name, metrics.get(name), "mean") for name in names)))
        lines += ["", f"{decoding} decoding", "", *markdown_table(rows)]
    against = _against_rows(result)
    if len(against) > 1:
        title = (
            f"CHAIR_i against {_first(result)}: paired differences, points, {_confidence(result)} interval over seeds"
        )
        lines += ["", title, "", *markdown_table(against)]
    lines += [
        "",
        *(f"Failed: {failed['arm']}, seed {failed['seed']}: {failed['error']}" for failed in result["failed"]),
    ]
    return "\n".join(lines).rstrip()


def study_document(result: Mapping[str, Any], command: str) -> str:
    """All arms with their intervals as Markdown without a title, to be kept or to be put into a document.

    Args:
        result: What `fisao_pipeline.experiments.results.summarise` returns.
        command: What makes it.
    """
    first, confidence = _first(result), _confidence(result)
    lines = [
        *_origin(result, command),
        "",
        f"Brackets are {confidence} intervals: of the arms Student's t over seeds, of the base model a bootstrap over "
        f"images. Differences to `{first}` are taken seed by seed, so what a seed does to both drops out; `{first}` is "
        "called better or worse where the interval of CHAIR_i's difference leaves out zero. With many arms a few such "
        "intervals do so by chance.",
    ]
    for decoding in _decodings(result):
        lines += ["", f"### {decoding.capitalize()} decoding", "", _sizes(result, decoding), ""]
        lines += _metrics_table(result, decoding)
    lines += ["", "### What the arms change", "", *_arms_table(result)]
    budgets = _budgets_table(result)
    if budgets:
        lines += [
            "",
            "### At equal sampled tokens",
            "",
            f"At how many of the budgets, the tokens that `{first}` had sampled after each round, its CHAIR_i on the "
            "probe prompts is lower or higher than the arm's; in brackets at how many of them the interval over seeds "
            "leaves out zero. Between two rounds an arm's curve is taken as straight; a budget that an arm misses by "
            "more than 5% is left out for it.",
            "",
            *budgets,
        ]
    if result["failed"]:
        lines += ["", "### Failed rows", "", "They are in no figure above.", ""]
        # The message may hold a path or a model's words; the log and the JSON have it.
        rows = [(r["arm"], str(r["seed"]), f"`{r['error'].split(':')[0]}`") for r in result["failed"]]
        lines += markdown_table([("arm", "seed", "error"), *rows])
    return "\n".join(lines) + "\n"


def verdict(first: str, difference: Summary | None) -> str:
    """What the difference in CHAIR_i of an arm to the first one says of the first.

    Args:
        first: The first arm's name.
        difference: The arm's minus the first's, with its interval.
    """
    if difference is None:
        return "–"
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return "one seed"
    if low > 0:
        return f"{first} better"
    return f"{first} worse" if high < 0 else "not distinguishable"


def _first(result: Mapping[str, Any]) -> str:
    return next(iter(result["arms"]))


def _confidence(result: Mapping[str, Any]) -> str:
    return f"{result['settings']['confidence']:.0%}"


def _decodings(result: Mapping[str, Any]) -> list[str]:
    return list(result["base"][0]["metrics"])


def _names(result: Mapping[str, Any], decoding: str) -> list[str]:
    return [name for name in SHORT_TITLES if name in result["base"][0]["metrics"][decoding]]


def _bases(result: Mapping[str, Any], decoding: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for base in result["base"]:
        title = "base" if len(result["base"]) == 1 else f"base of {', '.join(base['arms'])}"
        yield title, base["metrics"].get(decoding, {})


def _number(name: str, value: float, sign: str = "", short: bool = False) -> str:
    scale, digits = scale_and_digits(name)
    return f"{value * scale:{sign}.{1 if short and name == 'tokens' else digits}f}"


def _short(name: str, summary: Summary | None, key: str) -> str:
    if summary is None or summary[key] is None:
        return "–"
    std = summary.get("std")
    return _number(name, summary[key], short=True) + ("" if std is None else f"±{_number(name, std, short=True)}")


def _cell(name: str, summary: Summary | None, key: str, sign: str = "") -> str:
    if summary is None or summary[key] is None:
        return "–"
    value, low, high = (summary[part] for part in (key, "low", "high"))
    bounds = "" if low is None else f" [{_number(name, low, sign)}, {_number(name, high, sign)}]"
    return _number(name, value, sign) + bounds


def _difference(result: Mapping[str, Any], arm: str, decoding: str) -> Summary | None:
    return result["arms"][arm]["against_first"].get(decoding, {}).get("chair_i")


def _against_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    decodings, first = _decodings(result), _first(result)
    rows = [("arm", *(title for name in decodings for title in (name, f"{name}: {first} is")))]
    for arm in list(result["arms"])[1:]:
        differences = [_difference(result, arm, decoding) for decoding in decodings]
        cells = [(_cell("chair_i", one, "mean", sign="+"), _verdict_word(first, one)) for one in differences]
        rows.append((arm, *(cell for pair in cells for cell in pair)))
    return rows


def _verdict_word(first: str, difference: Summary | None) -> str:
    return verdict(first, difference).removeprefix(f"{first} ")


def _metrics_table(result: Mapping[str, Any], decoding: str) -> list[str]:
    names, first = _names(result, decoding), _first(result)
    others = len(result["arms"]) > 1 and "chair_i" in names
    head = [ROW_TITLES[name] for name in names]
    rows = [("arm", *_with(head, f"CHAIR_i against {first}, points", others))]
    for title, metrics in _bases(result, decoding):
        rows.append((title, *_with([_cell(name, metrics.get(name), "value") for name in names], "", others)))
    for arm, means in result["arms"].items():
        metrics = means["aligned"].get(decoding, {})
        cells = [_cell(name, metrics.get(name), "mean") for name in names]
        difference = _difference(result, arm, decoding)
        against = "" if arm == first else _cell("chair_i", difference, "mean", sign="+")
        rows.append((f"`{arm}`", *_with(cells, against, others)))
    return markdown_table(rows)


def _with(cells: Sequence[str], second: str, wanted: bool) -> list[str]:
    return [cells[0], second, *cells[1:]] if wanted else list(cells)


def _arms_table(result: Mapping[str, Any]) -> list[str]:
    decodings, first = _decodings(result), _first(result)
    rows = [("arm", "changes", *(f"{first} is, {name}" for name in decodings), "kept rounds, by seed")]
    for arm, means in result["arms"].items():
        changes = ", ".join(f"`{name}: {_plain(value)}`" for name, value in means["set"].items()) or "nothing"
        words = [_verdict_word(first, _difference(result, arm, name)) if arm != first else "" for name in decodings]
        kept = {row["seed"]: row["kept_round"] for row in result["rows"] if row["arm"] == arm}
        rows.append((f"`{arm}`", changes, *words, ", ".join(str(kept[seed]) for seed in sorted(kept)) or "none"))
    return markdown_table(rows)


def _plain(value: Any) -> str:
    """A parameter's value that stays in its cell and its code span."""
    return json.dumps(value, ensure_ascii=False).replace("`", "'").replace("|", "\\|")


def _budgets_table(result: Mapping[str, Any]) -> list[str]:
    first = _first(result)
    compared = {arm: means["at_equal_tokens"] for arm, means in result["arms"].items()}
    compared = {arm: points for arm, points in compared.items() if any(points.values())}
    if not compared:
        return []
    decodings = list(next(iter(compared.values())))
    head = [title for name in decodings for title in (f"{name}: budgets", f"{first} lower", f"{first} higher")]
    rows = [("arm", *head)]
    for arm, of_decoding in compared.items():
        cells = []
        for points in (of_decoding[name] for name in decodings):
            differences = [point["chair_i"] for point in points]
            lower, higher = ([d for d in differences if sign * d["mean"] > 0] for sign in (1, -1))
            clear = [sum(verdict("x", d) == word for d in differences) for word in ("x better", "x worse")]
            cells += [str(len(points)), f"{len(lower)} ({clear[0]})", f"{len(higher)} ({clear[1]})"]
        rows.append((f"`{arm}`", *cells))
    return markdown_table(rows)


def _origin(result: Mapping[str, Any], command: str) -> list[str]:
    """Rows, seeds, versions, dates and commits."""
    rows, seeds = result["rows"], result["settings"]["seeds"]
    wanted = len(rows) + len(result["failed"])
    days = sorted(str(row["information"].get("ended", ""))[:10] for row in rows)
    versions = sorted({str(row["version"]) for row in rows})
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    commits = Counter((row["information"].get("git_commit"), row["information"].get("git_dirty")) for row in rows)
    listed = ", ".join(_commit(commit, dirty, number, len(rows)) for (commit, dirty), number in commits.items())
    what = f"{len(rows)} of {wanted} rows" if result["failed"] else f"{len(rows)} rows"
    return [
        f"Written by `{command}`: {len(result['arms'])} arms, seeds {', '.join(map(str, seeds))}, {what}; "
        f"fisao-pipeline {', '.join(versions)}; finished {when}; commit{'s' * (len(commits) > 1)} {listed}."
    ]


def _commit(commit: str | None, dirty: bool | None, number: int, rows: int) -> str:
    name = f"`{commit[:12]}`" if commit else "unknown"
    parts = [f"{number} rows"] if number < rows else []
    parts += ["**with uncommitted changes**"] if dirty else []
    return name + (f" ({', '.join(parts)})" if parts else "")


def _sizes(result: Mapping[str, Any], decoding: str) -> str:
    """How many held-out images and questions each figure rests on; arms may have evaluations of their own."""
    found = {}
    for row in result["rows"]:
        sizes = row["comparison"]["settings"].get("samples", {}).get(decoding)
        if sizes is not None:
            found[
                f"{sizes['captions']} captions of {sizes['caption_images']} held-out images, "
                f"{sizes['pope_questions']} yes/no questions on {sizes['pope_images']} of them"
            ] = None
    return "Each row: " + " or ".join(found) + "." if found else "The number of images was not recorded."
