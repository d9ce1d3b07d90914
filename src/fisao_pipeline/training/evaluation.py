"""Answers of the base and of the aligned model to held-out prompts: captions and yes/no questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from tqdm.auto import tqdm

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.halving import HalvingSize
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams, EvaluatedDecoding
from fisao_pipeline.training.sampling import batched, sample_responses
from fisao_pipeline.training.shards import Shards, digest, in_shards

# "Yes", "No" and what a model may say before it.
ANSWER_TOKENS = 8
SETTING = "benchmark_evaluation.batch_size"
QUESTION_COLUMNS = ["prompt_id", "image_id", "prompt", "split", "task", "answer", "pope_strategy"]

Model = Literal["base", "aligned"]
MODELS: tuple[Model, ...] = ("base", "aligned")
LIKELIHOOD_COLUMNS = ["response_id", "lowest_base_logprob"]


def answer_prompts(
    policy: Policy,
    questions: pd.DataFrame,
    open_image: ImageOpener,
    params: BenchmarkEvaluationParams,
    models: Sequence[Model] = MODELS,
    image_sizes: Mapping[str, tuple[int, int]] | None = None,
    shards: Mapping[Model, Shards] | None = None,
) -> pd.DataFrame:
    """Answer every question with both models and every decoding; the base model is the policy without its adapter.

    Args:
        policy: The aligned model.
        questions: Rows of ``QUESTION_COLUMNS``; ``task`` is caption or pope.
        open_image: Gives the RGB picture of an id.
        params: Decodings, samples per prompt, batch size, seed.
        models: Whose answers are wanted; each model's are the same whether or not the other is asked too.
        image_sizes: Width and height of the pictures, by which greedy decoding and beam search put prompts of as many
            tokens together. The sampled decoding orders by the prompts' characters: draws hang on their batch, and
            those of earlier runs were made so.
        shards: Where each model's finished parts are kept; None keeps none.

    Returns:
        The ``predictions`` table.
    """
    tables = []
    for model in models:
        kept = shards[model] if shards is not None else None
        for decoding in params.decodings:
            for task, asked in questions.groupby("task", sort=True):
                samples = params.samples_per_prompt if (decoding, task) == ("sampled", "caption") else 1
                # One prompt may stand for several POPE strategies: it is answered once.
                once = asked.drop_duplicates("prompt_id").reset_index(drop=True)
                responses = sample_responses(
                    policy,
                    once,
                    open_image,
                    _decoding(decoding, task, params),
                    samples,
                    params.batch_size,
                    params.seed,
                    description=f"{model}, {decoding}, {task}",
                    reference=model == "base",
                    setting=SETTING,
                    lengths=None if decoding == "sampled" else _lengths(policy, once, image_sizes),
                    shards=kept,
                )
                if task == "caption":
                    lowest = lowest_base_logprobs(policy, responses, asked, open_image, params.batch_size, kept)
                    responses = responses.assign(lowest_base_logprob=lowest)
                tables.append(_joined(asked, responses).assign(model=model, decoding=decoding))
    return pd.concat(tables, ignore_index=True)


def _decoding(name: EvaluatedDecoding, task: str, params: BenchmarkEvaluationParams) -> Decoding:
    return Decoding(
        temperature=params.temperature if name == "sampled" else 0.0,
        max_new_tokens=params.max_new_tokens if task == "caption" else ANSWER_TOKENS,
        num_beams=params.num_beams if name == "beam" else 1,
    )


def _lengths(
    policy: Policy, prompts: pd.DataFrame, image_sizes: Mapping[str, tuple[int, int]] | None
) -> list[int] | None:
    if image_sizes is None:
        return None
    return policy.encode.count_tokens(prompts["prompt"].tolist(), [image_sizes[i] for i in prompts["image_id"]])


@torch.no_grad()
def lowest_base_logprobs(
    policy: Policy,
    responses: pd.DataFrame,
    questions: pd.DataFrame,
    open_image: ImageOpener,
    batch_size: int,
    shards: Shards | None = None,
) -> list[float]:
    """Log-probability (nats) of each response's least likely token under the base model, at temperature 1.

    CHAIR cannot see a model that learnt to end "… and a" with a word that is no object at all; the base model can. A
    sampled response has at least its end token.
    """
    prompts = questions.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"]

    def score(size: int) -> list[float]:
        batches = list(batched(len(responses), size))

        def rows(number: int) -> list[dict[str, Any]]:
            part = responses.iloc[batches[number].start : batches[number].stop]
            ids = [torch.tensor(list(row), dtype=torch.long, device=policy.device) for row in part["token_ids"]]
            padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True
            )
            batch = policy.encode(prompts[part["prompt_id"]].tolist(), part["image_id"].tolist(), open_image)
            logprobs, _ = policy.score(batch, padded, mask, temperature=1.0, reference=True)
            lowest = logprobs.masked_fill(~mask, torch.inf).amin(dim=1).tolist()
            pairs = zip(part["response_id"], lowest, strict=True)
            return [dict(zip(LIKELIHOOD_COLUMNS, pair, strict=True)) for pair in pairs]

        settings = ""
        if shards is not None:
            scored = responses[["response_id", "image_id", "token_ids"]].to_csv(index=False)
            settings = digest("lowest_base_logprob", scored, prompts.to_csv(), size, policy.device.type)
        with tqdm(total=len(responses), desc="likelihood", unit="response", leave=False) as progress:
            found = in_shards([len(batch) for batch in batches], rows, shards, settings, progress)
        return [row["lowest_base_logprob"] for row in found]

    effect = "The numbers are the same but for rounding."
    return HalvingSize(batch_size, SETTING, effect, "Load policy_backbone in bfloat16.").run(score)


def _joined(questions: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    answers = responses[["prompt_id", "sample_index", "text"]].rename(columns={"text": "response"})
    answers["n_tokens"] = responses["token_ids"].str.len()
    answers["finish_reason"] = responses["finish_reason"]
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
