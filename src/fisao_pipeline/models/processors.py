"""Loading a processor; without torchvision, one that reads videos too is loaded for images alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from transformers import PROCESSOR_MAPPING, AutoProcessor, PreTrainedConfig, ProcessorMixin
from transformers.utils import is_torchvision_available

from fisao_pipeline.models.source import code_refused

_PROCESSOR_FILES = "processor_config.json, preprocessor_config.json or tokenizer_config.json"
_VIDEO = "video_processor"
_TOKENIZERS = ("tokenizer", "qformer_tokenizer")


def load_processor(config: PreTrainedConfig, path_or_id: str, **options: Any) -> Any:
    """The processor of a model.

    transformers' video processors need torchvision, which this project does without; its image processors all have a
    form that needs Pillow alone. So a processor with a part for videos is loaded without that part.

    Args:
        config: The model's configuration.
        path_or_id: Its folder or hub id.
        options: Passed to ``from_pretrained``.

    Raises:
        ValueError: If it wants to run code of its own, its files cannot be read, or its tokenizer knows no words.
        ImportError: If it needs a package that is not installed.
    """
    what = f"the processor of {path_or_id!r}"
    processor = None
    try:
        processor = _load(config, path_or_id, **options)
    except ImportError:
        raise
    except Exception as error:  # of any kind: tokenizers raises Exception itself
        if "trust_remote_code" not in str(error):
            said = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
            raise ValueError(
                f"{what} cannot be loaded ({said}). Look at the options for it, or download or copy its files again"
            ) from error
    if processor is None:
        # transformers advises to let it run, in words that must not be followed here.
        raise ValueError(code_refused(what, _PROCESSOR_FILES))
    if wordless := [name for name in _TOKENIZERS if _knows_no_words(getattr(processor, name, None))]:
        raise ValueError(
            f"{what} has a {wordless[0]} without words, to which all are unknown: its vocabulary is not there, or of "
            f"another class than {type(getattr(processor, wordless[0])).__name__}. Download or copy its files again"
        )
    return processor


def _knows_no_words(tokenizer: Any) -> bool:
    """Whether a tokenizer was made without its vocabulary, of special tokens alone, as several are without an error."""
    if tokenizer is None:
        return False
    return len(tokenizer) <= len({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()})


def _load(config: PreTrainedConfig, path_or_id: str, **options: Any) -> Any:
    processor_class = PROCESSOR_MAPPING.get(type(config), None)
    if processor_class is None or is_torchvision_available() or _VIDEO not in processor_class.get_attributes():
        return AutoProcessor.from_pretrained(path_or_id, **options)
    return image_only(processor_class).from_pretrained(path_or_id, **options)


def image_only(processor_class: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The same processor without its part for videos."""

    class ImageOnly(processor_class):  # type: ignore[misc, valid-type]
        # SmolVLM's chat template asks it for defaults that concern videos only.
        video_processor = SimpleNamespace(num_frames=None, fps=None)

        # `__init__` stays the class's own: transformers learns from it what to save and to load.
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in processor_class.get_attributes() if name != _VIDEO]

        @classmethod
        def _get_arguments_from_pretrained(cls, *arguments: Any, **options: Any) -> list[Any]:
            # In the place of the part for videos, the last one.
            return [*super()._get_arguments_from_pretrained(*arguments, **options), None]

    ImageOnly.__name__ = ImageOnly.__qualname__ = processor_class.__name__
    return ImageOnly
