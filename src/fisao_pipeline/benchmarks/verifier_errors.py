"""What bounds the method on held-out captions: where the verifier itself is wrong."""

from __future__ import annotations

from typing import Any

import pandas as pd


def verifier_errors(mentions: pd.DataFrame) -> dict[str, dict[str, dict[str, Any]]]:
    """How often the reward errs on the objects that each model names, and what a perfect pupil of it would still do.

    The base model's captions without every mention that the reward charges are what the verifier could make of them by
    itself. A policy that hallucinates no more than that has learnt all that its rewards can teach; hallucinations that
    the reward approves of are the verifier's, the others are left to optimisation.

    Args:
        mentions: The ``prediction_mentions`` table; mentions without a label and repeats, which are charged whatever
            the verifier says, are left out.

    Returns:
        By decoding and model: ``mentions`` and ``hallucinated`` (counts), ``chair_i``, ``approved`` (share of the
        hallucinated that would earn), ``charged`` (share of the correct that would cost) and ``chair_i_filtered``
        (CHAIR_i of the mentions that would earn); shares are None where there is nothing to share.
    """
    judged = mentions[mentions["label"].notna() & ~mentions["repeated"].astype(bool)]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (decoding, model), rows in judged.groupby(["decoding", "model"], sort=True):
        wrong, earns = rows["label"].eq("hallucinated"), rows["reward"].gt(0)
        found.setdefault(str(decoding), {})[str(model)] = {
            "mentions": len(rows),
            "hallucinated": int(wrong.sum()),
            "chair_i": _share(wrong.sum(), len(rows)),
            "approved": _share((wrong & earns).sum(), wrong.sum()),
            "charged": _share((~wrong & ~earns).sum(), (~wrong).sum()),
            "chair_i_filtered": _share((wrong & earns).sum(), earns.sum()),
        }
    return found


def format_errors(errors: dict[str, dict[str, dict[str, Any]]]) -> str:
    """One line per decoding, for a terminal; empty without the base model's and the aligned model's mentions."""
    lines = []
    for decoding, models in errors.items():
        if {"base", "aligned"} <= models.keys():
            base, aligned = models["base"], models["aligned"]
            lines.append(
                f"{decoding}, repeats left out: CHAIR_i {_percent(base['chair_i'])} -> {_percent(aligned['chair_i'])}. "
                f"The reward alone would leave {_percent(base['chair_i_filtered'])}, taking "
                f"{_percent(base['charged'])} of the correct mentions too. It approves of "
                f"{_percent(aligned['approved'])} of the {aligned['hallucinated']} "
                "hallucinations that the aligned model still has."
            )
    return "\n".join(lines)


def _share(part: int, whole: int) -> float | None:
    return float(part) / float(whole) if whole else None


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
