"""The pocket BLIP-2 and InstructBLIP before training: real transformers classes, real processors, all small."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from fisao_pipeline.pocket.builders import llama_config, set_end_tokens
from fisao_pipeline.pocket.language import CAPTION_PROMPTS, QUESTION
from fisao_pipeline.pocket.pixels import IMAGE_PIXELS, PATCH_PIXELS
from fisao_pipeline.pocket.tokenizers import (
    IMAGE_TOKEN,
    VERIFIER_CONTEXT_TOKENS,
    learn_bert_tokenizer,
    learn_llama_tokenizer,
)

QUERY_TOKENS = 16
_WIDTH = 96


def _image_processor() -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": IMAGE_PIXELS, "width": IMAGE_PIXELS})


def _vision_sizes() -> dict[str, Any]:
    """The image tower of both: 4 layers of width 96, the pocket CLIP's size."""
    return {
        "hidden_size": _WIDTH,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_PIXELS,
        "patch_size": PATCH_PIXELS,
        # The classes' own default is a ten-billionth.
        "initializer_range": 0.02,
    }


def _qformer_sizes(vocab_size: int) -> dict[str, Any]:
    """The Q-Former of both: 2 layers of width 96, each of which looks at the image."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": _WIDTH,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "encoder_hidden_size": _WIDTH,
        "cross_attention_frequency": 1,
        "max_position_embeddings": VERIFIER_CONTEXT_TOKENS,
        # So small a model needs none.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def build_blip2_processor(captions: Iterable[str]) -> Blip2Processor:
    """A BLIP-2 processor that knows the words of ``captions`` and of what an InstructBLIP is asked."""
    tokenizer = learn_bert_tokenizer([*captions, *CAPTION_PROMPTS, QUESTION.format("")])
    return Blip2Processor(_image_processor(), tokenizer, num_query_tokens=QUERY_TOKENS)


def build_blip2(processor: Blip2Processor) -> Blip2ForImageTextRetrieval:
    """A BLIP-2 of about 0.8 M parameters with projections of image and text into a common space."""
    config = Blip2Config(
        vision_config=_vision_sizes(),
        qformer_config={**_qformer_sizes(len(processor.tokenizer)), "use_qformer_text_input": True},
        num_query_tokens=QUERY_TOKENS,
        image_text_hidden_size=64,
    )
    model = Blip2ForImageTextRetrieval(config)
    # They start at zero, all alike, and would stay so.
    torch.nn.init.normal_(model.query_tokens, std=config.initializer_range)
    return model


def build_instructblip_processor(texts: Iterable[str], verifier: Blip2Processor) -> InstructBlipProcessor:
    """An InstructBLIP processor whose Q-Former reads the verifier's tokens, and whose language model those of LLaVA."""
    return InstructBlipProcessor(
        image_processor=_image_processor(),
        tokenizer=learn_llama_tokenizer(texts),
        qformer_tokenizer=verifier.tokenizer,
        num_query_tokens=QUERY_TOKENS,
    )


def build_instructblip(
    processor: InstructBlipProcessor, verifier: Blip2ForImageTextRetrieval
) -> InstructBlipForConditionalGeneration:
    """An InstructBLIP of about 1.6 M parameters: the verifier's image tower, frozen, and its Q-Former to begin with."""
    tokenizer = processor.tokenizer
    config = InstructBlipConfig(
        vision_config=_vision_sizes(),
        qformer_config=_qformer_sizes(len(processor.qformer_tokenizer)),
        text_config=llama_config(tokenizer).to_dict(),
        num_query_tokens=QUERY_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
    )
    model = InstructBlipForConditionalGeneration(config)
    model.vision_model.load_state_dict(verifier.vision_model.state_dict())
    model.vision_model.requires_grad_(False)
    model.qformer.load_state_dict(_qformer_state(verifier))
    model.query_tokens.data.copy_(verifier.query_tokens.data)
    set_end_tokens(model, tokenizer)
    return model


def _qformer_state(verifier: Blip2ForImageTextRetrieval) -> dict[str, torch.Tensor]:
    """The verifier's Q-Former under the names of InstructBLIP's, which holds embeddings and their norm itself."""
    state = {f"embeddings.{name}": tensor for name, tensor in verifier.embeddings.state_dict().items()}
    for name, tensor in verifier.qformer.state_dict().items():
        state[f"embeddings.{name}" if name.startswith("layernorm.") else name] = tensor
    return state
