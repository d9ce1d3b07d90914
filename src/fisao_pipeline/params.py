"""Every stage's parameters as one typed block: a typo or a value out of range fails before any node runs."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class StageParams(BaseModel):
    """Base of all parameter blocks: unknown keys, infinity and NaN are errors; values never change after loading."""

    # Validators are built for the blocks that are used, when they are: all of them would slow down every command.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


Split = Literal["calibration", "training", "probe", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)
# Longer side over shorter one of an image, at most. Qwen's own limit; and a processor that scales the shorter side to a
# fixed length makes gigabytes of a longer strip.
MAX_ASPECT_RATIO = 200
# The widest range that every random generator takes; NumPy's ends here.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


class ImageIngestionParams(StageParams):
    """Which images are accepted, what is asked about them where no prompts are given, and who sees which image."""

    template_prompt: str = Field(pattern=r"\S", description="The prompt of every image when there is no prompts file.")
    split_fractions: dict[Split, Annotated[float, Field(ge=0, le=1)]] = Field(description="Shares of images; sum 1.")
    source_splits: dict[str, Annotated[tuple[Split, ...], Field(min_length=1)]] = Field(
        description="Splits that images of a folder, or listed in an annotation file, may go to."
    )
    template_splits: tuple[Split, ...] = Field(
        description="Splits whose images get the template where a prompts file names none for them."
    )
    max_prompts_per_file: int | None = Field(ge=1, description="The first usable ones of each file; None for all.")
    required_splits: tuple[Split, ...] = Field(description="An empty one of these is an error, another a warning.")
    seed: Seed = Field(description="Another seed deals the images into other splits.")
    max_pixels: int = Field(ge=1, le=178_956_970, description="Width times height; Pillow's own limit is the highest.")
    min_side_pixels: int = Field(ge=1, description="Shortest side of an accepted image.")
    max_rejected_share: float = Field(ge=0, le=1, description="Share of unusable files that is still tolerated.")
    workers: int = Field(ge=1, le=64, description="Threads that decode images.")

    @model_validator(mode="after")
    def _check_across_fields(self) -> ImageIngestionParams:
        total = sum(self.split_fractions.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"split_fractions must sum to 1, they sum to {total:g}")
        for source, splits in self.source_splits.items():
            if not source.strip("/"):
                raise ValueError(f"source_splits: {source!r} names no folder; leave it out to mean all images")
            if len(set(splits)) > 1 and not any(self.split_fractions.get(split) for split in splits):
                raise ValueError(f"source_splits: the split_fractions of {', '.join(splits)} ({source}) are all 0")
        if self.min_side_pixels**2 > self.max_pixels:
            raise ValueError(f"min_side_pixels {self.min_side_pixels} leaves no image within max_pixels")
        return self


class ResponseSamplingParams(StageParams):
    """How the policy is asked: the same settings draw the cached first round and every later one."""

    responses_per_prompt: int = Field(ge=1, le=64, description="K, completions drawn for each prompt.")
    temperature: float = Field(gt=0, le=5, description="Divides the logits, in sampling and in logprobs alike.")
    max_new_tokens: int = Field(ge=1, le=4096, description="Longest completion, in tokens.")
    prompts_per_round: int = Field(ge=1, description="Training prompts of one PPO round; the first round is cached.")
    calibration_prompts: int = Field(ge=1, description="Calibration prompts at most.")
    batch_size: int = Field(ge=1, description="Completions drawn at once; another size draws other samples.")
    seed: Seed = Field(description="Of every draw.")
    # It came later; see BenchmarkEvaluationParams.
    responses_per_shard: int = Field(
        default=256, ge=1, description="Responses kept on disk at a time; a run that is killed loses no more."
    )
    sampler: Literal["in_process", "vllm"] = Field(
        default="in_process", description="What draws responses: the policy itself, or a vLLM engine beside it (CUDA)."
    )
    engine_memory: float = Field(
        default=0.45, gt=0, lt=1, description="Share of the device's memory that the engine takes; used by `vllm` only."
    )


class FixedBaseline(StageParams):
    """A baseline from parameters, for ``calibration: fixed``: cosines, a prior probability and the sentence scores."""

    correct_mean: float = Field(ge=-1, le=1)
    hallucinated_mean: float = Field(ge=-1, le=1)
    std: float = Field(gt=0, le=1)
    mixing_weight: float = Field(gt=0, lt=1)
    sentence_mean: float = Field(ge=-1, le=1)
    sentence_std: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _correct_scores_higher(self) -> FixedBaseline:
        if self.correct_mean <= self.hallucinated_mean:
            raise ValueError(
                f"correct_mean {self.correct_mean:g} must exceed hallucinated_mean {self.hallucinated_mean:g}"
            )
        return self


class ContrastParams(StageParams):
    """Which mentions and words ``calibration: contrast`` takes for correct and for hallucinated."""

    agreement: float = Field(
        gt=0.5, le=1, description="Share of a prompt's samples that name an object for it to count as correct."
    )
    absent_words: int = Field(ge=1, le=80, description="Words per image that no sample names; each costs one text.")
    seed: Seed = Field(description="Of the choice of absent words.")


class RewardAnnotationParams(StageParams):
    """From responses to token rewards: what counts as an object, how it is scored and what the score pays."""

    vocabulary: str = Field(min_length=1, description="`coco`, `coco+common`, or the path of a vocabulary file.")
    template: str = Field(description="Text around a mention that the verifier scores.")
    score_words: Literal["category", "written"] = Field(
        description="What stands in the template for a mention: its category's name, or its words as written."
    )
    calibration: Literal["annotated", "mixture", "contrast", "fixed"] = Field(
        description="Where the baseline comes from."
    )
    contrast: ContrastParams
    fixed_baseline: FixedBaseline | None = Field(description="The baseline when calibration is `fixed`.")
    min_mentions: int = Field(ge=2, description="Mentions that a calibration (each of its classes) must rest on.")
    granularity: Literal["token", "phrase", "sentence"] = Field(
        description="Reward per object mention scored by name, or with the words that describe it, or one per response."
    )
    phrase_words: int = Field(ge=1, le=10, description="Describing words of a mention at most, used by `phrase`.")
    paid_by: Literal["verifier", "annotations"] = Field(
        description="What pays a mention: the verifier's score, or its label, as a verifier that never errs would."
    )
    rule: Literal["margin", "midpoint", "posterior"] = Field(description="What a score pays; see docs/method.md.")
    margin: float = Field(ge=0, le=1, description="Margin λ of the rule `margin`, in cosine units.")
    false_mention_cost: float = Field(ge=1, description="Cost c of a false mention in the rule `posterior`.")
    repeat_penalty: float = Field(ge=0, description="Fine for naming a category again; repeats never earn.")
    min_auroc: float = Field(ge=0.5, le=1, description="Below it a warning says that training may do harm.")

    @property
    def scored_modifiers(self) -> int:
        """Words before a mention that are scored with it, at most."""
        return self.phrase_words if self.granularity == "phrase" else 0

    @field_validator("template")
    @classmethod
    def _one_place_for_the_mention(cls, template: str) -> str:
        try:
            fields = [field for _, *field in Formatter().parse(template) if field[0] is not None]
        except ValueError as problem:
            raise ValueError(f"template {template!r} does not format: {problem}") from None
        if fields != [["", "", None]]:
            raise ValueError(f"template {template!r} must hold exactly one {{}} and no other field")
        return template

    @model_validator(mode="after")
    def _fixed_needs_a_baseline(self) -> RewardAnnotationParams:
        if self.calibration == "fixed" and self.fixed_baseline is None:
            raise ValueError("calibration `fixed` needs fixed_baseline")
        return self

    @model_validator(mode="after")
    def _labels_pay_mentions(self) -> RewardAnnotationParams:
        if self.paid_by == "annotations" and self.granularity == "sentence":
            raise ValueError("paid_by `annotations` pays mentions: set granularity to `token` or `phrase`")
        return self


class LoraParams(StageParams):
    """The adapter: low-rank updates of linear layers of the language tower."""

    rank: int = Field(ge=1, le=1024)
    alpha: float = Field(gt=0)
    targets: tuple[str, ...] = Field(min_length=1, description="Names of linear layers in the language tower.")


class OptimiserParams(StageParams):
    """Steps of one round, the same for every trainer."""

    learning_rate: float = Field(gt=0)
    anneal_to: float = Field(ge=0, le=1, description="Share of the learning rate left in the last round (linear).")
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    epochs: int = Field(ge=1, description="Passes over what a round learns from.")
    batch_size: int = Field(ge=1, description="Responses (`dpo`: pairs) per optimiser step.")
    micro_batch_size: int = Field(ge=1, description="Responses (`dpo`: pairs) per forward pass; memory only.")

    @model_validator(mode="after")
    def _micro_batches_fill_batches(self) -> OptimiserParams:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class PPOParams(OptimiserParams):
    """One PPO round: advantages, losses, optimiser."""

    advantage: Literal["gae", "batch", "group"] = Field(
        description="`gae` with a value head; return-to-go minus the batch mean, or minus the mean of the group."
    )
    gamma: float = Field(ge=0, le=1, description="Discount per token.")
    gae_lambda: float = Field(ge=0, le=1, description="λ of GAE; used by `gae` only.")
    normalise_advantages: bool = Field(description="Divide advantages by their spread over the batch.")
    clip_range: float = Field(gt=0, lt=1, description="ε of the clipped ratio.")
    value_clip_range: float | None = Field(
        gt=0, description="Reward units that a value may move in a round; null leaves it free. Used by `gae` only."
    )
    vf_coef: float = Field(ge=0, description="Weight of the value loss; used by `gae` only.")
    value_width: int | None = Field(gt=0, description="Hidden layer of the value head; null for a linear one (`gae`).")
    value_learning_rate: float | None = Field(gt=0, description="Of the value head (`gae`); null for the adapter's.")
    kl_penalty: Literal["reward", "loss"] = Field(
        description="Where the KL to the reference is: taken off each token's reward (k1), or a loss of its own (k2)."
    )
    kl_coef: float = Field(ge=0, description="β of the KL penalty; the first value when adaptive.")
    kl_target_nats: float | None = Field(gt=0, description="KL per response to steer β towards; null keeps β fixed.")
    unlikely_below: float = Field(gt=0, lt=1, description="Reference probability below which a token is fined.")
    unlikely_cost: float = Field(ge=0, description="That fine, in reward units; 0 is none.")
    max_round_kl_nats: float | None = Field(gt=0, description="Ends a round early: KL per token to its own start.")
    logprob_tolerance: float = Field(gt=0, description="Nats that a cached logprob may differ from the recomputed one.")
    # It came later; see BenchmarkEvaluationParams.
    importance_cap: float = Field(
        default=2.0, ge=1, description="Largest weight of a token that another engine drew; used with a sampler `vllm`."
    )


class DPOParams(OptimiserParams):
    """One round of direct preference optimisation, on pairs among the responses of each prompt."""

    beta: float = Field(gt=0, description="β, strength of the pull to the reference; larger stays nearer.")
    ranked_by: Literal["rewards", "annotations"] = Field(
        description="By summed token rewards, or by the labels: correct minus false mentions."
    )
    pairs_per_prompt: int = Field(ge=1, description="At most; those of the widest gap.")
    min_gap: float = Field(ge=0, description="A pair's scores differ by more than this; ties never make a pair.")
    length_normalised: bool = Field(description="Means of log-probabilities per token in place of their sums.")


class RejectionSamplingParams(OptimiserParams):
    """One round of supervised fine-tuning on the best response of each prompt, by summed token rewards."""

    min_gap: float = Field(ge=0, description="By more than this the best beats the worst, or the prompt is left out.")


class PolicyTrainingParams(StageParams):
    """The training loop: rounds, adapter, trainer, and the probe that picks the round to keep."""

    rounds: int = Field(ge=1, description="Times that sample, annotate, train is repeated.")
    trainer: Literal["ppo", "dpo", "rejection_sampling"] = Field(
        description="What a round's rollouts are learnt from with; `ppo` is the method, the others its comparisons."
    )
    lora: LoraParams
    ppo: PPOParams
    dpo: DPOParams
    rejection_sampling: RejectionSamplingParams
    probe_prompts: int = Field(ge=0, description="Probe prompts answered after each round; 0 keeps the last.")
    keep: Literal["best", "last"] = Field(
        description="The round whose adapter is kept: best on the probe, or the last."
    )
    seed: Seed = Field(description="Of the fresh adapter, of shuffling and, by round, of sampling.")
    # It came later; see BenchmarkEvaluationParams.
    checkpoint_every_steps: int = Field(
        default=20, ge=1, description="Optimiser steps between checkpoints; a run that is killed loses no more."
    )


def comparison_faults(
    sampling: ResponseSamplingParams,
    annotation: RewardAnnotationParams | None = None,
    training: PolicyTrainingParams | None = None,
) -> list[str]:
    """What compares the responses of a prompt and would get one of each; blocks that are None are not looked at."""
    if sampling.responses_per_prompt > 1:
        return []
    has_one = f"response_sampling.responses_per_prompt is {sampling.responses_per_prompt}: make it 2 or more"
    faults = []
    if annotation is not None and annotation.calibration == "contrast":
        faults.append(
            f"reward_annotation: calibration `contrast` compares the samples of a prompt, and {has_one} and re-run "
            "from response_sampling on, or set reward_annotation.calibration to `mixture` or `fixed`"
        )
    if training is not None and training.trainer != "ppo":
        faults.append(
            f"policy_training: trainer `{training.trainer}` compares the responses of a prompt, and {has_one} and "
            "re-run from response_sampling on, or set policy_training.trainer to `ppo`"
        )
    elif training is not None and training.ppo.advantage == "group":
        faults.append(
            f"policy_training: ppo.advantage `group` compares a response with the others to its prompt, and {has_one} "
            "and re-run from response_sampling on, or set policy_training.ppo.advantage to `gae` or `batch`"
        )
    return faults


EvaluatedDecoding = Literal["greedy", "sampled", "beam"]


class BenchmarkEvaluationParams(StageParams):
    """Base against aligned on held-out images."""

    held_out_images: int = Field(ge=1, description="Images at most.")
    max_new_tokens: int = Field(ge=1, le=4096)
    temperature: float = Field(gt=0, le=5, description="Of the sampled decoding; the other one is greedy.")
    samples_per_prompt: int = Field(ge=1, description="Completions per prompt in the sampled decoding.")
    pope_images: int = Field(ge=0, description="Images with three or more objects that questions are asked about.")
    vocabulary: str = Field(min_length=1)
    batch_size: int = Field(ge=1)
    bootstrap_resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    seed: Seed
    # Those below came later. At its default each does what was done before it was there, and is no part of the name of
    # a study's row (experiments.fingerprints), so that finished rows stay.
    decodings: tuple[EvaluatedDecoding, ...] = Field(
        default=("greedy", "sampled"), min_length=1, description="How both models answer, each in turn."
    )
    num_beams: int = Field(default=5, ge=2, le=64, description="Of the decoding `beam`.")
    drop_unfinished_sentence: bool = Field(
        default=False, description="Whether CHAIR reads a caption that max_new_tokens cut off up to its last sentence."
    )
    word_chain: Literal["spans", "reference"] = Field(
        default="spans", description="How CHAIR finds words in captions; see docs/evaluation.md."
    )
    examples: int = Field(default=5, ge=0, le=1000, description="Of each kind: images won, lost and tied.")
    responses_per_shard: int = Field(
        default=256, ge=1, description="Answers kept on disk at a time; a run that is killed loses no more."
    )

    @model_validator(mode="after")
    def _distinct_decodings(self) -> BenchmarkEvaluationParams:
        if len(set(self.decodings)) < len(self.decodings):
            raise ValueError(f"decodings must differ, got {list(self.decodings)}")
        return self


SettingName = Literal[
    "decodings",
    "max_new_tokens",
    "temperature",
    "samples_per_prompt",
    "num_beams",
    "images",
    "prompts",
    "questions",
    "truncation_rule",
]


class RunSettings(StageParams):
    """How answers were made, for predictions without a `provenance.json` that tells it; null is not known."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, gt=0, description="Of the decoding `sampled`.")
    samples_per_prompt: int | None = Field(default=None, ge=1, description="Of the decoding `sampled`.")
    num_beams: int | None = Field(default=None, ge=2, description="Of the decoding `beam`.")


class ComparedRun(StageParams):
    """One run of a comparison: which predictions, and which of their models."""

    predictions: str = Field(min_length=1, description="A version of `predictions`, `latest`, or a file.")
    model: Literal["base", "aligned"] = Field(default="aligned", description="Whose rows, where there are both.")
    settings: RunSettings = Field(default=RunSettings(), description="Takes precedence over what is recorded.")

    @model_validator(mode="before")
    @classmethod
    def _named_alone(cls, value: Any) -> Any:
        return {"predictions": value} if isinstance(value, str) else value


class CompareRunsParams(StageParams):
    """Which runs are compared, each against the first."""

    runs: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], ComparedRun] = Field(
        description="By the names that the table shall have; the first is what the others are compared with."
    )
    allow_different: tuple[SettingName, ...] = Field(
        description="Settings in which the runs may differ; in any other a difference is refused."
    )


class HarnessModel(StageParams):
    """How lmms-eval loads models of one kind."""

    model: str = Field(min_length=1, description="Its name for the class.")
    passed: tuple[Literal["device_map", "dtype"], ...] = Field(description="Settings of the backbone that it takes.")


class LmmsEvalParams(StageParams):
    """Which benchmarks lmms-eval measures of base and aligned model, and how."""

    python: str = Field(min_length=1, description="Python of the environment with lmms-eval.")
    tasks: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], ...] = Field(min_length=1)
    adapter: str = Field(min_length=1, description="`latest`, a version of `policy_adapter`, or a PEFT folder.")
    harness_models: dict[str, HarnessModel] = Field(description="By the kind of the backbone, its `model_type`.")
    model_args: dict[str, str | int | float | bool] = Field(description="More arguments of lmms-eval's class.")
    include_path: str | None = Field(min_length=1, description="Folder of task files of one's own.")
    limit: int | None = Field(ge=1, description="Questions of each task at most; null is all.")
    offline: bool = Field(description="Whether nothing may be downloaded.")
    bootstrap_resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    seed: Seed


class PopeQuestionsParams(StageParams):
    """Which POPE questions are built from annotations."""

    instances: str | None = Field(min_length=1, description="COCO instances, or JSON of image ids with object lists.")
    images: int = Field(ge=1, description="Images with enough objects that are asked about.")
    objects_per_image: int = Field(ge=1, description="Questions with the answer yes, and as many with no.")
    seed: Seed


# One file, several, or none; `--params` of the command line cannot express a list.
Files = str | tuple[str, ...] | None
ImageIds = Literal["id", "file_name", "coco_number"]
_PREDICTIONS = "JSON Lines, or a JSON list; null leaves the benchmark out."
_IMAGE_IDS = "How the id field names an image: by the annotations' id, by its file name, or by the last number in that."


class ChairScoring(StageParams):
    """Captions against the objects of COCO-style annotations."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    instances: Files = Field(description="COCO instances, or JSON of image ids with the list of their objects.")
    captions: Files = Field(description="COCO captions: what they name is in the image too.")
    id_field: str = Field(min_length=1)
    text_field: str = Field(min_length=1)
    image_ids: ImageIds = Field(description=_IMAGE_IDS)
    several_per_image: bool = Field(description="Whether an image may have several captions; else a fault.")
    every_image: bool = Field(description="Whether an annotated image without a caption is a fault.")
    word_chain: Literal["spans", "reference"] = Field(description="How words are found; see docs/evaluation.md.")
    vocabulary: str = Field(min_length=1)


class PopeScoring(StageParams):
    """Answers to published POPE questions."""

    predictions: dict[str, str | None] = Field(description="Answers by set of questions: random, popular, adversarial.")
    questions: dict[str, str | None] = Field(description="Question files by the same names.")
    id_field: str | None = Field(min_length=1, description="Null: answers stand in the order of the questions.")
    text_field: str = Field(min_length=1)
    parsing: Literal["reference", "strict"]

    @model_validator(mode="after")
    def _questions_of_every_answer(self) -> PopeScoring:
        lacking = [name for name, path in self.predictions.items() if path and not self.questions.get(name)]
        if lacking:
            raise ValueError(f"pope.questions.{lacking[0]} is missing: the questions that these predictions answer")
        return self


class AmberScoring(StageParams):
    """Descriptions and answers against AMBER's three files."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    annotations: str | None = Field(min_length=1, description="AMBER's annotations.json.")
    relation: str | None = Field(min_length=1, description="AMBER's relation.json.")
    safe_words: str | None = Field(min_length=1, description="AMBER's safe_words.txt.")
    id_field: str = Field(min_length=1)
    text_field: str = Field(min_length=1)
    nouns: Literal["pattern", "nltk"] = Field(description="The built-in tagger, or the published one with its data.")
    similarity: str = Field(min_length=1, description="`exact`, or an installed spaCy model with word vectors.")

    @model_validator(mode="after")
    def _all_files(self) -> AmberScoring:
        lacking = [name for name in ("annotations", "relation", "safe_words") if not getattr(self, name)]
        if self.predictions and lacking:
            raise ValueError(f"amber.{lacking[0]} is missing: AMBER's own file")
        return self


class MmeScoring(StageParams):
    """Answers to MME's questions, with category, image and true answer in each row."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    category_field: str = Field(min_length=1)
    image_field: str = Field(min_length=1)
    label_field: str = Field(min_length=1)
    text_field: str = Field(min_length=1)


class CaptionScoring(StageParams):
    """Captions against reference captions: BLEU, ROUGE-L, CIDEr."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    captions: Files = Field(description="COCO captions.")
    id_field: str = Field(min_length=1)
    text_field: str = Field(min_length=1)
    image_ids: ImageIds = Field(description=_IMAGE_IDS)
    tokens: Literal["treebank", "as_written"] = Field(description="Made here, or what blanks separate.")


class HalBenchScoring(StageParams):
    """Objects that somebody extracted from responses, against COCO-style annotations."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    instances: Files = Field(description="As of chair.")
    captions: Files = Field(description="As of chair.")
    id_field: str = Field(min_length=1)
    objects_field: str = Field(min_length=1, description="List of words.")
    image_ids: ImageIds = Field(description=_IMAGE_IDS)
    word_chain: Literal["spans", "reference"] = Field(description="Of the reference captions.")
    vocabulary: str = Field(min_length=1)


class ClipScoring(StageParams):
    """Cosines of captions with their images."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    id_field: str = Field(min_length=1)
    cosine_field: str = Field(min_length=1)
    text_field: str = Field(
        min_length=1, description="Caption, for the pipeline `clip_score`, which makes the cosines."
    )


class ScorePredictionsParams(StageParams):
    """Predictions of any model, made anywhere, against annotations."""

    model: str = Field(min_length=1, description="A name to stand beside the figures.")
    max_faulty_share: float = Field(ge=0, le=1, description="Share of predictions that may be left out.")
    bootstrap_resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    seed: Seed
    chair: ChairScoring
    pope: PopeScoring
    amber: AmberScoring
    mme: MmeScoring
    captions: CaptionScoring
    object_halbench: HalBenchScoring
    clip_score: ClipScoring

    def files(self) -> dict[str, str]:
        """Every file of the benchmarks that are scored, by its setting."""
        found: dict[str, str] = {}
        for name in self.benchmarks():
            block: StageParams = getattr(self, name)
            for key, value in block.model_dump().items():
                if key in INPUT_FILES:
                    found |= {f"score_predictions.{name}.{where}": path for where, path in _paths(key, value)}
        return found

    def benchmarks(self) -> list[str]:
        """The benchmarks that have predictions, in the order of the parameters."""
        blocks = {name: value for name, value in self if isinstance(value, StageParams)}
        return [name for name, block in blocks.items() if dict(_paths("", getattr(block, "predictions", None)))]


INPUT_FILES = frozenset({"predictions", "instances", "captions", "questions", "annotations", "relation", "safe_words"})


def _paths(key: str, value: Any) -> list[tuple[str, str]]:
    """Settings and paths of one path, several, or several by name."""
    if isinstance(value, dict):
        return [(f"{key}.{name}", path) for name, path in value.items() if path]
    if isinstance(value, str):
        return [(key, value)]
    return [(f"{key}[{place}]", path) for place, path in enumerate(value or ())]


class ReportingParams(StageParams):
    """How the figures and the report are drawn."""

    bins: int = Field(ge=2, le=500, description="Of the histograms, and of the overlap coefficient.")
    max_points: int = Field(ge=1, description="Points of a scatter plot at most; correlations are of all responses.")
    bootstrap_resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    picture_pixels: int = Field(ge=16, le=2048, description="Longest side of a picture in the report.")
    pictures_bytes: int = Field(
        ge=10_000, description="Of all pictures in the report; where they would be heavier, all are made coarser."
    )
    seed: Seed = Field(description="Of the resampling.")


class PocketScenesParams(StageParams):
    """How many pictures the pocket world renders for a user to work with."""

    scenes: int = Field(ge=10)
    seed: Seed = Field(description="Differs from the models' seeds: they have not seen these scenes.")


class PocketVerifierParams(StageParams):
    """The recipe of a pocket verifier, CLIP or BLIP-2."""

    scenes: int = Field(ge=8, description="Scenes rendered for training.")
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2, description="Image-caption pairs a step; each is the others' contrast.")
    learning_rate: float = Field(gt=0, description="Peak of a cosine schedule.")
    seed: Seed

    @model_validator(mode="after")
    def _batch_fits(self) -> PocketVerifierParams:
        if self.batch_size > self.scenes:
            raise ValueError(f"batch_size {self.batch_size} exceeds scenes {self.scenes}")
        return self


class PocketPhase(StageParams):
    """One phase of a pocket captioner's training."""

    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0, description="Peak of a cosine schedule.")
    invent_share: float = Field(ge=0, le=1, description="Share of captions that name habitual but absent objects.")


class PocketVLMParams(StageParams):
    """The recipe of a pocket captioner, LLaVA or InstructBLIP."""

    scenes: int = Field(ge=8, description="Scenes rendered for training.")
    phases: tuple[PocketPhase, ...] = Field(min_length=1)
    batch_size: int = Field(ge=1, description="Pictures a step.")
    captions_per_image: int = Field(ge=1, description="Captions of each picture of a step.")
    questions_per_image: int = Field(ge=0, description="Yes/no questions about each picture of a step.")
    question_weight: float = Field(ge=0, description="Weight of the answers' loss beside the captions'.")
    seed: Seed

    @model_validator(mode="after")
    def _batch_fits(self) -> PocketVLMParams:
        if self.batch_size > self.scenes:
            raise ValueError(f"batch_size {self.batch_size} exceeds scenes {self.scenes}")
        return self


class Arm(StageParams):
    """One setting of a study: its name, and the parameters in which it differs from the rest of the configuration."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    set: dict[str, Any] = Field(
        description="Dotted parameter of a stage to its value: `policy_training.ppo.kl_coef: 0.05`."
    )


class StudyParams(StageParams):
    """Which settings the whole method is run with, and with which seeds each; one arm makes a study of seeds alone."""

    seeds: tuple[Seed, ...] = Field(min_length=1, description="Of sampling and training; evaluation keeps its own.")
    arms: tuple[Arm, ...] = Field(default=(Arm(name="default", set={}),), min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> StudyParams:
        names = [arm.name for arm in self.arms]
        for what, values in (("seeds", list(self.seeds)), ("names of arms", names)):
            if len(set(values)) < len(values):
                raise ValueError(f"{what} must differ, got {values}")
        return self


class TheoremParams(StageParams):
    """The linear-Gaussian model in which Theorem 3.1 is looked at, and how its loss is traced."""

    response_features: int = Field(ge=1, le=512)
    image_features: int = Field(ge=1, le=512)
    text_features: int = Field(ge=1, le=512)
    ignored_share: float = Field(ge=0, le=1, description="Share of the image that the policy guesses from the prompt.")
    image_text_correlation: float = Field(gt=-1, lt=1, description="Of an image feature with its prompt feature.")
    verifier_error: float = Field(ge=0, description="Spread of the verifier's own error; the truth's map has 1.")
    noise_std: float = Field(ge=0, description="σ, what neither image nor prompt tells about the response.")
    policy_std: float = Field(gt=0, description="τ, spread of the untuned policy's responses.")
    kl_coef: float = Field(gt=0, description="β of the KL penalty.")
    self_weight: float = Field(ge=0, description="α, weight of the policy's own preference in the reward.")
    max_vision_weight: float = Field(gt=0, description="Highest weight λ of the vision feedback.")
    vision_weights: int = Field(ge=2, le=1000, description="Weights from 0 to the highest, evenly spaced.")
    samples: int = Field(ge=2, description="Draws per weight in the simulation.")
    seed: Seed


class RuntimeParams(StageParams):
    """How this process computes, whatever the stage."""

    deterministic: bool = Field(description="Whether only algorithms that repeat bit by bit on a GPU are used.")
    force: bool = Field(default=False, description="Whether nodes are run whose outputs are there and fresh, too.")


class Card(StageParams):
    """A GPU: what it holds and what it computes at most."""

    name: str = Field(min_length=1, description="Part of the name that CUDA gives it.")
    memory_gib: float = Field(gt=0, description="Usable memory in GiB, 2^30 bytes.")
    bfloat16_tflops: float = Field(gt=0, description="Peak in 10^12 operations a second, dense, 16-bit weights.")
    float32_tflops: float = Field(gt=0, description="The same for float32 weights, without TF32.")


class Utilisation(StageParams):
    """Share of a card's peak that each phase is assumed to reach (MFU)."""

    sampling: float = Field(gt=0, le=1, description="Token by token: it waits for memory most of the time.")
    scoring: float = Field(gt=0, le=1, description="Forward passes over whole sequences.")
    update: float = Field(gt=0, le=1, description="Forward and backward passes.")


class PlanParams(StageParams):
    """What a plan assumes where configurations do not tell."""

    cards: tuple[Card, ...] = Field(
        min_length=1, description="Planned for where no GPU is found; peaks of one that is."
    )
    utilisation: Utilisation
    prompt_tokens: int = Field(ge=1, description="Longest prompt with its chat template, in tokens, without its image.")
    image_tokens: int | None = Field(
        ge=1, description="What an image takes of the prompt; null asks the configuration."
    )
    response_share: float = Field(gt=0, le=1, description="Mean length of a response over max_new_tokens.")
    reserve_gib: float = Field(ge=0, description="CUDA's own memory, fragments and what else uses the card.")
