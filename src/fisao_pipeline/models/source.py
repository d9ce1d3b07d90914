"""Where a model's weights are and how to load them, checked before anything heavy starts."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
# What weights may be loaded in; `auto` is the type that the configuration names.
DTYPES = ("auto", "float32", "bfloat16", "float16")
# How linear layers of the language tower may be kept instead of in `dtype`.
QUANTIZATIONS = ("nf4",)
# Beside an adapter: which model it was trained on. PEFT's `revision` cannot say it, PEFT asks the hub for that one.
BASE_MODEL_FILE = "base_model.json"
# Larger files are identified by their size and ends: hashing 14 GB at every run would take longer than loading them.
WHOLE_FILE_BYTES = 64 * 2**20
_END_BYTES = 2**20
_NOT_CONTENT = {"provenance.json", "README.md", ".gitattributes"}
# Kinds of policies (see `models/backbones/`) that are prompted by their checkpoint's chat template.
CHAT_KINDS = frozenset(
    "llava llava_next llava_onevision qwen2_vl qwen2_5_vl qwen3_vl idefics3 smolvlm gemma3 internvl".split()
)
_CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")
# InstructBLIP's Q-Former reads the prompt too, in words of its own.
_QFORMER_TOKENIZER = "qformer_tokenizer"
_TOKENIZER_CONFIG = "tokenizer_config.json"
# What holds a tokenizer's words: any of these. Without one several tokenizers load, and read every word as unknown.
_VOCABULARIES = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
)
_IMAGE_PROCESSOR_CONFIG = "preprocessor_config.json"
# Where transformers saves it since version 5, under this key; older ones save only the processor's own settings there.
_PROCESSOR_CONFIG, _IMAGE_PROCESSOR = "processor_config.json", "image_processor"


class ModelNotFoundError(FileNotFoundError):
    """The model is not on this machine; the message says how to get it."""


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded without asking a network.

    Attributes:
        path_or_id: A local folder, or a hub id that is in the local cache (or may be downloaded).
        revision: The hub commit, branch or tag; None for a local folder.
        dtype: Weights' type: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda`, `cuda:0`, `mps`, …
        allow_download: Whether loading may download a hub model that is not cached.
        options: What is passed on to transformers' ``from_pretrained``: of the model under ``model``
            (`attn_implementation`, …), of its processor under ``processor`` (`max_pixels`, …). And
            ``gradient_checkpointing``, which training reads: true trades time for memory.
        quantization: `nf4` keeps the linear layers of the language tower in 4 bits (QLoRA), computed in ``dtype``; None
            keeps them in ``dtype``. It says how weights are held and not which they are: see ``identity``.
    """

    path_or_id: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    allow_download: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    quantization: str | None = None


def looks_local(path_or_id: str) -> bool:
    """Whether a name means a path: absolute, starting with `.`, `~` or `data/`, or with more than one slash."""
    return path_or_id.startswith(("/", ".", "~", "data/", "data\\")) or path_or_id.count("/") > 1 or "\\" in path_or_id


def find_model(path_or_id: str, revision: str | None = None, allow_download: bool = False) -> Path | None:
    """Find a model's folder on this machine.

    Args:
        path_or_id: A local folder or a hub id.
        revision: The hub revision; None means the default branch.
        allow_download: Whether a hub id that is not cached is fine, because loading it may download it.

    Returns:
        The local folder, or None for a hub model that is still to be downloaded.

    Raises:
        ModelNotFoundError: The model is not here and may not be downloaded.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG_FILE).is_file():
            raise ModelNotFoundError(f"'{folder}' holds no {CONFIG_FILE}, so it is not a saved model.{_hint(folder)}")
        return folder
    if looks_local(path_or_id):
        raise ModelNotFoundError(f"There is no model folder '{folder}'.{_hint(folder)}")
    cached = _cached(path_or_id, revision)
    if cached is None and not allow_download:
        at = f" (revision {revision})" if revision else ""
        others = [commit for commit in cached_commits(path_or_id) if _cached(path_or_id, commit) is not None]
        there = f" at that revision; the cache holds {', '.join(others)}" if others else ""
        raise ModelNotFoundError(
            f"'{path_or_id}'{at} is neither a folder nor in the local Hugging Face cache{there}. "
            f"Get it with `{download_command(path_or_id, revision)}`, "
            f"or with `--local-dir data/06_models/{path_or_id.rsplit('/', 1)[-1]}` and give that path, "
            "or set `allow_download: true` on the catalog entry."
        )
    return cached


def is_commit(revision: str | None) -> bool:
    """Whether a revision names one state of a hub model for ever: a full commit id, no branch and no tag."""
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def cached_commits(hub_id: str) -> list[str]:
    """Commits of a hub model whose configuration is in the local cache."""
    from huggingface_hub import constants  # noqa: PLC0415 - slow to import, and local folders need it not
    from huggingface_hub.file_download import repo_folder_name  # noqa: PLC0415

    snapshots = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=hub_id, repo_type="model"), "snapshots")
    return sorted(file.parent.name for file in snapshots.glob(f"*/{CONFIG_FILE}"))


def cached_commit(hub_id: str, revision: str | None = None) -> str | None:
    """The commit that a revision of a hub model means in the local cache.

    Without a revision it is the default branch's, or the only one that is there: a download of a commit leaves no
    branch behind. None where the cache does not tell.
    """
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - slow to import

    found = try_to_load_from_cache(hub_id, CONFIG_FILE, revision=revision)
    if isinstance(found, str):
        return Path(found).parent.name
    there = cached_commits(hub_id)
    return there[0] if revision is None and len(there) == 1 else None


def download_command(path_or_id: str, revision: str | None) -> str:
    """What gets a model of the hub into the cache."""
    return f"hf download {path_or_id}{f' --revision {revision}' if revision else ''}"


def missing_model_files(folder: Path) -> list[str]:
    """What a model's folder lacks beside its configuration: weights, tokenizer, processor.

    A file of weights that is shorter than its header says, as a download that was cut off leaves it, is missing too.
    """
    return [*_missing_weights(folder), *missing_processor_files(folder)]


def _missing_weights(folder: Path) -> list[str]:
    """Weights that are not there or not whole, each shard of an index."""
    index = folder / f"{WEIGHTS_FILE}.index.json"
    shards = [WEIGHTS_FILE]
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            return [f"a readable {index.name}"]
    missing = [name for name in shards if not (folder / name).is_file()]
    return missing + [fault for name in shards if (folder / name).is_file() and (fault := _cut_off(folder / name))]


def missing_processor_files(folder: Path) -> list[str]:
    """What a model's processor lacks: its tokenizers, its image processor, its chat template.

    A chat template is needed of a kind that is prompted by it, a second tokenizer of a kind that has two.
    """
    kind = json_object(folder / CONFIG_FILE).get("model_type")
    missing = _missing_of_tokenizer(folder)
    if not _has_image_processor(folder):
        missing.append(f"an image processor ({_IMAGE_PROCESSOR_CONFIG} or {_PROCESSOR_CONFIG} with {_IMAGE_PROCESSOR})")
    if kind in CHAT_KINDS and not _has_chat_template(folder):
        missing.append(f"a chat template ({' or '.join(_CHAT_TEMPLATES)})")
    second = folder / _QFORMER_TOKENIZER
    if second.is_dir():
        missing += [f"in the folder {second.name} {lacking}" for lacking in _missing_of_tokenizer(second)]
    elif kind == "instructblip":
        missing.append(f"the folder {second.name}")
    return missing


def _missing_of_tokenizer(folder: Path) -> list[str]:
    missing = [] if (folder / _TOKENIZER_CONFIG).is_file() else [_TOKENIZER_CONFIG]
    if not any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES):
        missing.append(f"a tokenizer ({' or '.join(' with '.join(names) for names in _VOCABULARIES)})")
    return missing


def _has_image_processor(folder: Path) -> bool:
    if (folder / _IMAGE_PROCESSOR_CONFIG).is_file():
        return True
    return isinstance(json_object(folder / _PROCESSOR_CONFIG).get(_IMAGE_PROCESSOR), dict)


def _has_chat_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in _CHAT_TEMPLATES):
        return True
    return any(json_object(folder / name).get("chat_template") for name in (_PROCESSOR_CONFIG, _TOKENIZER_CONFIG))


def json_object(file: Path) -> dict[str, Any]:
    """An object of a JSON file; empty where there is none, or none that can be read, which loading tells better."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def incomplete(source: ModelSource, lacking: Sequence[str]) -> str:
    """What to say of a model that lacks files; see ``missing_model_files``."""
    return f"the model '{source.path_or_id}' is not complete: {', '.join(lacking)} missing. Download or copy it again."


def code_refused(what: str, files: str) -> str:
    """What to say of a model, or of its processor, that transformers has no class of its own for.

    Args:
        what: The model or processor.
        files: Where it names code that would have to run.
    """
    return (
        f"{what} brings Python code of its own that would have to run on this machine (auto_map in {files}): refused, "
        "whoever published it. Use a checkpoint in transformers' own format; converted ones often have names that end "
        "in -hf"
    )


def pickled_weights(folder: Path) -> list[str]:
    """Weights in a model's folder that are pickles, which are never read in a run."""
    return sorted(file.name for file in folder.glob("pytorch_model*.bin"))


def _cut_off(file: Path) -> str | None:
    """What a safetensors file lacks, from its header alone; None for a whole one."""
    there = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length <= there else {}
        needed = 8 + length + max((t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"), default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return f"a readable {file.name}"
    if there < 8:
        return f"a readable {file.name}"
    return f"the end of {file.name} ({there:,} of {needed:,} bytes are there)" if there < needed else None


def fingerprint(folder: Path) -> str:
    """Identify a model folder by its content: names, sizes and bytes of its files.

    Files above 64 MiB count with their size and their first and last MiB.

    Returns:
        `sha256:` and 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    files = [file for file in folder.rglob("*") if file.is_file() and file.name not in _NOT_CONTENT]
    for file in sorted(files, key=lambda file: file.relative_to(folder).as_posix()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= WHOLE_FILE_BYTES:
                digest.update(stream.read())
            else:
                digest.update(stream.read(_END_BYTES))
                stream.seek(-_END_BYTES, os.SEEK_END)
                digest.update(stream.read())
    return f"sha256:{digest.hexdigest()[:16]}"


def is_folder(source: ModelSource) -> bool:
    """Whether the source is a local folder and not a hub id."""
    return Path(source.path_or_id).expanduser().is_dir()


def identity(source: ModelSource) -> str:
    """What tells a model from every other: the fingerprint of its folder, or its hub id and revision."""
    if is_folder(source):
        return fingerprint(Path(source.path_or_id).expanduser())
    return f"{source.path_or_id}@{source.revision or 'main'}"


def loaded_identity(source: ModelSource) -> str:
    """``identity``, and how the weights are held where that changes what the model answers: in 4 bits."""
    return identity(source) + (f" in {source.quantization}" if source.quantization is not None else "")


def _cached(path_or_id: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - slow to import, and local folders need it not

    found = try_to_load_from_cache(path_or_id, CONFIG_FILE, revision=revision)
    folder = Path(found).parent if isinstance(found, str) else None
    # A download that was cut off, or of the configuration alone, leaves a snapshot without weights.
    has_weights = folder is not None and any(file.suffix in {".safetensors", ".bin"} for file in folder.iterdir())
    return folder if has_weights else None


def _hint(folder: Path) -> str:
    if "pocket" in folder.name:
        pipeline = "pocket_instructblip" if "blip" in folder.name else "pocket_world"
        return f" Build the pocket models with `kedro run --pipelines={pipeline}` and the same --env."
    return (
        f" Get a model with `hf download ORGANISATION/NAME --local-dir {folder}` (docs/real_models.md has the commands "
        "for the models of each environment), or give another path."
    )
