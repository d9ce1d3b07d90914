"""Answers of the base and of the aligned model to held-out prompts: captions and yes/no questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.params import BenchmarkEvaluationParams
from fisao_pipeline.training.sampling import sample_responses

# "Yes", "No" and what a model may say before it.
ANSWER_TOKENS = 8
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
                )
                tables.append(_joined(asked, responses).assign(model=model, decoding=decoding))
    return pd.concat(tables, ignore_index=True)


def _joined(questions: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    answers = responses[["prompt_id", "sample_index", "text"]].rename(columns={"text": "response"})
    answers["n_tokens"] = responses["token_ids"].str.len()
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
