"""Tokens and floating-point operations of a run, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fisao_pipeline.models.shape import PolicyShape, VerifierShape
from fisao_pipeline.params.base import Split
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.plan import Card, Utilisation
from fisao_pipeline.params.policy_training import OptimiserParams, PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.planning.memory import Lengths

# Yes/no questions about an image: at most three strategies with three objects there and three not.
QUESTIONS_PER_IMAGE = 18
ANSWER_TOKENS = 8
# Forward passes of a round's rollouts before its steps: under the policy and under the reference.
SCORINGS = 2


@dataclass(frozen=True)
class Phase:
    """One kind of work of a run.

    Attributes:
        utilisation: Which of the assumed utilisations it is timed with.
        sequences: Prompts run, or packed sequences.
        new_tokens: Tokens drawn, or learnt from.
        tokens: All tokens that go through the language tower.
        flops: Floating-point operations.
    """

    utilisation: str
    sequences: int
    new_tokens: int
    tokens: int
    flops: float


def optimiser_of(params: PolicyTrainingParams) -> OptimiserParams:
    """The block of parameters of the trainer that runs."""
    return getattr(params, params.trainer)


def responses_per_micro_batch(params: PolicyTrainingParams) -> int:
    """As the parameters have it; a pair of `dpo` is two responses."""
    return optimiser_of(params).micro_batch_size * (2 if params.trainer == "dpo" else 1)


def forward_flops(shape: PolicyShape, tokens: float, context: float, projected: float) -> float:
    """Of a forward pass: 2 N tokens + 4 L q context · tokens + 2 H projected.

    N parameters of the language tower, H of its output layer, which only `projected` tokens go through; attention over
    `context` tokens costs 4 L q each (scores and sums, L layers of width q).
    """
    attention = 4 * shape.layers * shape.query_width * context
    head = shape.head_parameters or shape.vocabulary * shape.hidden
    return tokens * (2 * shape.language_parameters + attention) + 2 * head * projected


def update_flops(shape: PolicyShape, tokens: float, context: float, projected: float, checkpointing: bool) -> float:
    """Of a LoRA step: twice a forward pass, for gradients go through frozen weights but not to them (4 N a token).

    With checkpointing one more forward pass (6 N).
    """
    return (3 if checkpointing else 2) * forward_flops(shape, tokens, context, projected)


def phases(
    shape: PolicyShape,
    verifier: VerifierShape | None,
    lengths: Lengths,
    prompts: Mapping[Split, int | None],
    sampling: ResponseSamplingParams,
    training: PolicyTrainingParams,
    evaluation: BenchmarkEvaluationParams,
    response_share: float,
    checkpointing: bool,
) -> dict[str, Phase]:
    """What a run from `response_sampling` to `benchmark_evaluation` computes.

    Args:
        shape: Of the policy.
        verifier: Of the verifier; None leaves its work out.
        lengths: P, T, K.
        prompts: Prompts of each split, None where that is not known: as many as the parameters ask for.
        sampling: K, rounds' prompts.
        training: Rounds, epochs, probe.
        evaluation: Held-out images, samples, questions.
        response_share: Mean length of a response as a share of the longest.
        checkpointing: Whether updates compute activations twice.
    """
    k, length = lengths.group, response_share * lengths.response
    per_round = _available(sampling.prompts_per_round, prompts.get("training"))
    calibration = _available(sampling.calibration_prompts, prompts.get("calibration"))
    probe = _available(training.probe_prompts, prompts.get("probe"))
    held_out = _available(evaluation.held_out_images, prompts.get("held_out"))
    asked = QUESTIONS_PER_IMAGE * min(evaluation.pope_images, held_out)
    rounds = training.rounds * per_round
    # A prompt's responses are scored behind one or a few copies of it, or each behind its own.
    piece = lengths.at_once(responses_per_micro_batch(training))
    copies = -(-k // piece.group) * piece.packs(shape, response_share)
    packed = lengths.prompt + k / copies * length

    asked_prompts = 0

    def draw(count: int, copies: int, new: float) -> Phase:
        nonlocal asked_prompts
        asked_prompts += count
        drawn = count * copies * new
        flops = forward_flops(shape, drawn, lengths.prompt + new / 2, drawn)
        return Phase("sampling", count, round(drawn), round(drawn), flops)

    def both(*parts: Phase) -> Phase:
        return Phase(
            parts[0].utilisation,
            *(sum(getattr(part, name) for part in parts) for name in ("sequences", "new_tokens", "tokens")),
            flops=sum(part.flops for part in parts),
        )

    learnt, run = rounds * k * length, rounds * copies * packed
    scored = forward_flops(shape, run, packed, learnt)
    passes = optimiser_of(training).epochs
    updated = update_flops(shape, run, packed, learnt, checkpointing)
    beams = {name: evaluation.num_beams if name == "beam" else 1 for name in evaluation.decodings}
    captions = sum(n * (evaluation.samples_per_prompt if name == "sampled" else 1) for name, n in beams.items())
    evaluated_length = response_share * evaluation.max_new_tokens
    found = {
        "calibration sampling": draw(calibration, k, length),
        "round sampling": draw(rounds, k, length),
        "probe": draw(2 * (training.rounds + 1) * probe, 1, length),
        "scoring": Phase(
            "scoring", SCORINGS * rounds * copies, round(SCORINGS * learnt), round(SCORINGS * run), SCORINGS * scored
        ),
        "update": Phase(
            "update", passes * rounds * copies, round(passes * learnt), round(passes * run), passes * updated
        ),
        "evaluation": both(
            draw(2 * held_out, captions, evaluated_length), *(draw(2 * asked, n, ANSWER_TOKENS) for n in beams.values())
        ),
    }
    # All prompts that are drawn from are read first, each at once and not token by token.
    tokens = asked_prompts * lengths.prompt
    flops = forward_flops(shape, tokens, lengths.prompt, asked_prompts)
    found["reading prompts"] = Phase("scoring", asked_prompts, 0, tokens, flops)
    images = calibration + per_round * training.rounds + probe + held_out
    seen = images * (shape.vision_tokens or shape.patches_per_token * lengths.prompt) * 2
    seeing = float(seen * (shape.vision_parameters + (verifier.parameters if verifier is not None else 0)))
    found["images"] = Phase("scoring", images, 0, 0, seeing)
    return found


def hours(found: Mapping[str, Phase], card: Card, dtype: str, utilisation: Utilisation) -> dict[str, float]:
    """Hours of each phase: FLOPs / (peak · utilisation), the peak that of the weights' type."""
    peak = 1e12 * (card.float32_tflops if dtype == "float32" else card.bfloat16_tflops)
    return {
        name: phase.flops / (peak * getattr(utilisation, phase.utilisation)) / 3600 for name, phase in found.items()
    }


def _available(wanted: int, there: int | None) -> int:
    return wanted if there is None else min(wanted, there)
