"""Answers of the base and of the aligned model to held-out prompts: captions and yes/no questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.halving import HalvingSize
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.params import BenchmarkEvaluationParams
from fisao_pipeline.training.sampling import batched, sample_responses

# "Yes", "No" and what a model may say before it.
ANSWER_TOKENS = 8
SETTING = "benchmark_evaluation.batch_size"
QUESTION_COLUMNS = ["prompt_id", "image_id", "prompt", "split", "task", "answer", "pope_strategy"]

Model = Literal["base", "aligned"]
MODELS: tuple[Model, ...] = ("base", "aligned")


def answer_prompts(
    policy: Policy,
    questions: pd.DataFrame,
    open_image: ImageOpener,
    params: BenchmarkEvaluationParams,
    models: Sequence[Model] = MODELS,
) -> pd.DataFrame:
    """Answer every question with both models and both decodings; the base model is the policy without its adapter.

    Args:
        policy: The aligned model.
        questions: Rows of ``QUESTION_COLUMNS``; ``task`` is caption or pope.
        open_image: Gives the RGB picture of an id.
        params: Decoding, samples per prompt, batch size, seed.
        models: Whose answers are wanted; each model's are the same whether or not the other is asked too.

    Returns:
        The ``predictions`` table.
    """
    tables = []
    for model in models:
        for decoding, temperature in (("greedy", 0.0), ("sampled", params.temperature)):
            for task, asked in questions.groupby("task", sort=True):
                samples = params.samples_per_prompt if (decoding, task) == ("sampled", "caption") else 1
                tokens = params.max_new_tokens if task == "caption" else ANSWER_TOKENS
                responses = sample_responses(
                    policy,
                    # One prompt may stand for several POPE strategies: it is answered once.
                    asked.drop_duplicates("prompt_id").reset_index(drop=True),
                    open_image,
                    Decoding(temperature, tokens),
                    samples,
                    params.batch_size,
                    params.seed,
                    description=f"{model}, {decoding}, {task}",
                    reference=model == "base",
                    setting=SETTING,
                )
                if task == "caption":
                    lowest = lowest_base_logprobs(policy, responses, asked, open_image, params.batch_size)
                    responses = responses.assign(lowest_base_logprob=lowest)
                tables.append(_joined(asked, responses).assign(model=model, decoding=decoding))
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def lowest_base_logprobs(
    policy: Policy, responses: pd.DataFrame, questions: pd.DataFrame, open_image: ImageOpener, batch_size: int
) -> list[float]:
    """Log-probability (nats) of each response's least likely token under the base model, at temperature 1.

    CHAIR cannot see a model that learnt to end "… and a" with a word that is no object at all; the base model can. A
    sampled response has at least its end token.
    """
    prompts = questions.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"]

    def score(size: int) -> list[float]:
        lowest: list[float] = []
        for chosen in batched(len(responses), size):
            part = responses.iloc[chosen.start : chosen.stop]
            ids = [torch.tensor(list(row), dtype=torch.long, device=policy.device) for row in part["token_ids"]]
            padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True
            )
            batch = policy.encode(prompts[part["prompt_id"]].tolist(), part["image_id"].tolist(), open_image)
            logprobs, _ = policy.score(batch, padded, mask, temperature=1.0, reference=True)
            lowest += logprobs.masked_fill(~mask, torch.inf).amin(dim=1).tolist()
        return lowest

    effect = "The numbers are the same but for rounding."
    return HalvingSize(batch_size, SETTING, effect, "Load policy_backbone in bfloat16.").run(score)


def _joined(questions: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    answers = responses[["prompt_id", "sample_index", "text"]].rename(columns={"text": "response"})
    answers["n_tokens"] = responses["token_ids"].str.len()
    if "lowest_base_logprob" in responses:
        answers["lowest_base_logprob"] = responses["lowest_base_logprob"]
    return questions.drop(columns="split").merge(answers, on="prompt_id", how="left")


def caption_questions(prompts: pd.DataFrame) -> pd.DataFrame:
    """Caption prompts of held-out images as questions (``QUESTION_COLUMNS``)."""
    return prompts.assign(task="caption", answer=None, pope_strategy=None)[QUESTION_COLUMNS]


def yes_no_questions(pope_questions: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """POPE questions by strategy as questions (``QUESTION_COLUMNS``); one id may stand for several strategies."""
    rows = [
        {
            "prompt_id": f"pope/{question.image_id}/{question.object}",
            "image_id": question.image_id,
            "prompt": question.prompt,
            "split": "held_out",
            "task": "pope",
            "answer": question.answer,
            "pope_strategy": strategy,
        }
        for strategy, questions in pope_questions.items()
        for question in questions
    ]
    return pd.DataFrame(rows, columns=QUESTION_COLUMNS)
