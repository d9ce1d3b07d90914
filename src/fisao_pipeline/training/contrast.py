"""What `calibration: contrast` takes for correct and for hallucinated: K samples of a prompt, and no label."""

from __future__ import annotations

import pandas as pd

from fisao_pipeline.method.calibration import CalibrationError
from fisao_pipeline.params.reward_annotation import ContrastParams
from fisao_pipeline.seeded_choice import seeded_hash


def agreed_mentions(responses: pd.DataFrame, mentions: pd.DataFrame, agreement: float) -> pd.DataFrame:
    """The first mention of each category that at least this share of a prompt's samples names; one row a prompt.

    One, not K: the samples' scores of one word in one image are the same number, and would count as K observations.

    Args:
        responses: The calibration responses; those of one ``prompt_id`` are its samples.
        mentions: Their mentions.
        agreement: Share of a prompt's samples, above one half.

    Raises:
        CalibrationError: If no prompt has two samples, so that there is nothing to agree.
    """
    samples = responses.groupby("prompt_id").size()
    if samples.empty or samples.max() < 2:
        raise CalibrationError(
            "reward_annotation: calibration `contrast` compares the samples of a prompt, and the calibration responses "
            "hold one per prompt: set response_sampling.responses_per_prompt to 2 or more and re-run "
            "response_sampling, or set reward_annotation.calibration to `mixture` or `fixed`"
        )
    prompts = mentions["response_id"].map(responses.set_index("response_id")["prompt_id"])
    of_prompt = mentions.assign(prompt_id=prompts.to_numpy())
    naming = of_prompt.groupby(["prompt_id", "category"])["response_id"].nunique()
    drawn = naming.index.get_level_values("prompt_id").map(samples)
    # Rounding: three of four samples are a share of 0.75, whatever the product's last bit.
    agreed = naming.index[(naming.to_numpy() >= agreement * drawn - 1e-9) & (drawn >= 2)]
    firsts = of_prompt.drop_duplicates(["prompt_id", "category"]).set_index(["prompt_id", "category"], drop=False)
    return firsts.loc[firsts.index.isin(agreed), list(mentions)].reset_index(drop=True)


def absent_words(responses: pd.DataFrame, mentions: pd.DataFrame, params: ContrastParams) -> pd.DataFrame:
    """For each image a few categories that none of its samples names, as rows that can be scored like mentions.

    Drawn from the categories that the policy names for other images: what it never says anywhere it does not
    hallucinate either, and the closer the contrast is to its habits, the smaller the bias of this calibration. Each
    takes the describing words of one of the image's own mentions, as mentions are scored with theirs (there are none
    unless ``granularity`` is `phrase`).

    Returns:
        ``image_id``, ``category``, ``text``, ``modifiers``; at most ``params.absent_words`` rows an image.
    """
    spoken = sorted(mentions["category"].unique())
    own = {image_id: rows for image_id, rows in mentions.groupby("image_id")}
    rows = []
    for image_id in sorted(responses["image_id"].unique()):
        named = own.get(image_id, mentions.head(0))
        absent = [category for category in spoken if category not in set(named["category"])]
        order = sorted((seeded_hash(f"{image_id}\n{category}", params.seed), category) for category in absent)
        worn = named["modifiers"].tolist() or [""]
        for number, category in order[: params.absent_words]:
            rows.append((image_id, category, category, worn[number % len(worn)]))
    return pd.DataFrame(rows, columns=["image_id", "category", "text", "modifiers"]).astype("str")
