"""BLEU and ROUGE-L of single responses against reference captions, as sacrebleu and rouge-score compute them.

For the paper's Figure 2, whose points are single responses: their BLEU needs smoothing. Figures of a corpus as COCO
reports them are in `fisao_pipeline.benchmarks.caption_metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

IMPLEMENTATION = (
    f"BLEU: sacrebleu {version('sacrebleu')}, sentence BLEU-4, lower case, 13a tokens, exponential smoothing, "
    f"effective order. ROUGE-L: rouge-score {version('rouge-score')}, F1 of the best reference, no stemming. "
    "COCO's own tools tokenise and weigh otherwise."
)


def reference_overlap(texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[float], list[float]]:
    """Sentence BLEU and ROUGE-L F1 of each text against its own references.

    Args:
        texts: Responses.
        references: One or more captions of each; a text that occurs again with the same captions is scored once.

    Returns:
        BLEU and ROUGE-L, both in [0, 1].

    Raises:
        ValueError: A text has no reference.
    """
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415 - slow to import
    from sacrebleu.metrics import BLEU  # noqa: PLC0415

    bleu, rouge = BLEU(lowercase=True, effective_order=True), RougeScorer(["rougeL"])
    known: dict[tuple[str, tuple[str, ...]], tuple[float, float]] = {}
    pairs = [(text, tuple(captions)) for text, captions in zip(texts, references, strict=True)]
    for text, captions in dict.fromkeys(pairs):
        if not captions:
            raise ValueError(f"reference_overlap: no reference caption for {text!r}")
        rouge_l = rouge.score_multi(captions, text)["rougeL"].fmeasure
        known[text, captions] = (bleu.sentence_score(text, captions).score / 100, rouge_l)
    scores = [known[pair] for pair in pairs]
    return [b for b, _ in scores], [r for _, r in scores]
