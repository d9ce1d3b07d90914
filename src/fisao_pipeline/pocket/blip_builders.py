"""The pocket BLIP-2 and InstructBLIP before training: real transformers classes, real processors, all small."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    CLIPModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from fisao_pipeline.pocket.builders import set_end_tokens
from fisao_pipeline.pocket.language import CAPTION_PROMPTS, QUESTION
from fisao_pipeline.pocket.pixels import IMAGE_PIXELS
from fisao_pipeline.pocket.tokenizers import (
    IMAGE_TOKEN,
    VERIFIER_CONTEXT_TOKENS,
    learn_bert_tokenizer,
    without_names,
)
from fisao_pipeline.pocket.transplant import tower_sizes, transplant

QUERY_TOKENS = 16


def _image_processor() -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": IMAGE_PIXELS, "width": IMAGE_PIXELS})


def _qformer_sizes(vocab_size: int, tower_width: int) -> dict[str, Any]:
    """The Q-Former of both: 2 layers of width 96, each of which looks at the image."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "encoder_hidden_size": tower_width,
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


def build_blip2(processor: Blip2Processor, clip: CLIPModel) -> Blip2ForImageTextRetrieval:
    """A BLIP-2 of about 0.8 M parameters around the CLIP's image tower, which stays frozen."""
    vision = tower_sizes(clip.config.vision_config)
    qformer = _qformer_sizes(len(processor.tokenizer), vision["hidden_size"])
    config = Blip2Config(
        vision_config=vision,
        qformer_config={**qformer, "use_qformer_text_input": True},
        num_query_tokens=QUERY_TOKENS,
        image_text_hidden_size=64,
    )
    model = Blip2ForImageTextRetrieval(config)
    transplant(clip.vision_model, model.vision_model)
    model.vision_model.requires_grad_(False)
    # They start at zero, all alike, and would stay so.
    torch.nn.init.normal_(model.query_tokens, std=config.initializer_range)
    return model


def build_instructblip_processor(verifier: Blip2Processor, llava: LlavaProcessor) -> InstructBlipProcessor:
    """An InstructBLIP processor whose Q-Former reads the verifier's tokens, and whose language model the LLaVA's."""
    return InstructBlipProcessor(
        image_processor=_image_processor(),
        tokenizer=without_names(llava.tokenizer),
        qformer_tokenizer=verifier.tokenizer,
        num_query_tokens=QUERY_TOKENS,
    )


def build_instructblip(
    processor: InstructBlipProcessor, verifier: Blip2ForImageTextRetrieval, llava: LlavaForConditionalGeneration
) -> InstructBlipForConditionalGeneration:
    """An InstructBLIP of about 1.5 M parameters, from what the real one began with, too.

    That is the verifier's image tower, which stays frozen, its Q-Former, and the language model of the LLaVA, in the
    place of Vicuna.
    """
    tokenizer = processor.tokenizer
    vision = {**verifier.config.vision_config.to_dict(), "model_type": "instructblip_vision_model"}
    config = InstructBlipConfig(
        vision_config=vision,
        qformer_config=_qformer_sizes(len(processor.qformer_tokenizer), vision["hidden_size"]),
        text_config=llava.config.text_config.to_dict(),
        num_query_tokens=QUERY_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
    )
    model = InstructBlipForConditionalGeneration(config)
    model.vision_model.load_state_dict(verifier.vision_model.state_dict())
    model.vision_model.requires_grad_(False)
    model.qformer.load_state_dict(_qformer_state(verifier))
    model.query_tokens.data.copy_(verifier.query_tokens.data)
    model.language_model.base_model.load_state_dict(llava.model.language_model.state_dict())
    model.language_model.lm_head.load_state_dict(llava.lm_head.state_dict())
    set_end_tokens(model, tokenizer)
    return model


def _qformer_state(verifier: Blip2ForImageTextRetrieval) -> dict[str, torch.Tensor]:
    """The verifier's Q-Former under the names of InstructBLIP's, which holds embeddings and their norm itself."""
    state = {f"embeddings.{name}": tensor for name, tensor in verifier.embeddings.state_dict().items()}
    for name, tensor in verifier.qformer.state_dict().items():
        state[f"embeddings.{name}" if name.startswith("layernorm.") else name] = tensor
    return state
