"""McNemar's test: of the questions that one of two models answers right and the other wrong, who has the more."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.pope import STRATEGIES, AnswerParsing, parse_answer

# Fewer discordant pairs than this are tested exactly, as is usual; the chi-squared distribution is an approximation.
EXACT_BELOW = 25


def mcnemar_test(only_base: int, only_aligned: int) -> dict[str, Any]:
    """Test whether a question that exactly one model answers right is as likely the one's as the other's.

    With b and c such questions: exact, p = min(1, 2 · P(X ≤ min(b, c))) for X binomial of b + c trials at ½; from
    `EXACT_BELOW` of them on χ² = (|b − c| − 1)² / (b + c), continuity corrected, with one degree of freedom.

    Args:
        only_base: b, questions that the base model alone answers right.
        only_aligned: c, those that the aligned model alone answers right.

    Returns:
        ``p_value``, ``method`` (`exact` or `chi2`) and ``statistic`` (min(b, c), or χ²).

    Raises:
        ValueError: A negative count.

    Source: McNemar, Psychometrika 1947; as `statsmodels.stats.contingency_tables.mcnemar` computes both.
    """
    from scipy.stats import binom, chi2  # noqa: PLC0415 - slow to import

    if min(only_base, only_aligned) < 0:
        raise ValueError(f"mcnemar_test: counts cannot be negative, got {only_base} and {only_aligned}")
    n, fewer = only_base + only_aligned, min(only_base, only_aligned)
    if n < EXACT_BELOW:
        return {"p_value": min(1.0, 2 * float(binom.cdf(fewer, n, 0.5))), "method": "exact", "statistic": fewer}
    statistic = (abs(only_base - only_aligned) - 1) ** 2 / n
    return {"p_value": float(chi2.sf(statistic, 1)), "method": "chi2", "statistic": statistic}


def mcnemar_of_answers(rows: pd.DataFrame, parsing: AnswerParsing) -> dict[str, dict[str, Any]]:
    """Both models' yes/no answers, question by question: altogether and by strategy.

    Altogether each question counts once, though several strategies may ask it: the same answer three times is no three
    answers. Questions on one image are taken for independent, which they are not quite; the interval of
    ``pope_accuracy`` is the one that resamples images.

    Args:
        rows: The predictions of one decoding with task `pope`; questions that only one model was asked are left out.
        parsing: How answers are read.

    Returns:
        ``all`` and each strategy that was asked: ``questions``, ``both_right``, ``only_base_right``,
        ``only_aligned_right``, ``both_wrong`` and what `mcnemar_test` gives; empty without questions.
    """
    if rows.empty:
        return {}
    truth = rows["answer"].str.lower().eq("yes").to_numpy()
    said = [parse_answer(response, parsing) for response in rows["response"]]
    right = [answer is not None and answer == yes for answer, yes in zip(said, truth, strict=True)]
    table = rows[["model", "image_id", "prompt", "answer"]].assign(right=right)
    table["strategy"] = rows["pope_strategy"] if "pope_strategy" in rows else None
    table["strategy"] = table["strategy"].astype(object).where(table["strategy"].notna(), "")
    question = ["image_id", "prompt", "answer"]
    # Several samples of one answer are paired in their order.
    table["sample"] = table.groupby(["model", "strategy", *question]).cumcount()
    once = table.drop_duplicates(["model", *question, "sample"])
    tests = {"all": _paired(once, [*question, "sample"])}
    for strategy in STRATEGIES:
        asked = table[table["strategy"] == strategy]
        if not asked.empty:
            tests[strategy] = _paired(asked, [*question, "sample"])
    return tests


def _paired(table: pd.DataFrame, key: list[str]) -> dict[str, Any]:
    base, aligned = (table[table["model"] == model][[*key, "right"]] for model in ("base", "aligned"))
    pairs = base.merge(aligned, on=key, suffixes=("_base", "_aligned"))
    old, new = pairs["right_base"].astype(bool), pairs["right_aligned"].astype(bool)
    only_base, only_aligned = int((old & ~new).sum()), int((~old & new).sum())
    return {
        "questions": len(pairs),
        "both_right": int((old & new).sum()),
        "only_base_right": only_base,
        "only_aligned_right": only_aligned,
        "both_wrong": int((~old & ~new).sum()),
        **mcnemar_test(only_base, only_aligned),
    }
