"""The pocket CLIP and LLaVA before training: real transformers classes, real processors, all small."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fisao_pipeline.pocket.pixels import IMAGE_PIXELS, PATCH_PIXELS
from fisao_pipeline.pocket.tokenizers import (
    IMAGE_TOKEN,
    POLICY_CONTEXT_TOKENS,
    VERIFIER_CONTEXT_TOKENS,
    learn_clip_tokenizer,
    learn_llama_tokenizer,
)

# LLaVA-1.5's conversation format, with a generation prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def _image_processor() -> CLIPImageProcessorPil:
    size = {"height": IMAGE_PIXELS, "width": IMAGE_PIXELS}
    return CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)


def build_verifier_processor(captions: Iterable[str], merges: int = 120) -> CLIPProcessor:
    """A CLIP processor whose byte-level BPE is learnt from ``captions``."""
    return CLIPProcessor(image_processor=_image_processor(), tokenizer=learn_clip_tokenizer(captions, merges))


def build_verifier(processor: CLIPProcessor) -> CLIPModel:
    """A CLIP of about 0.75 M parameters: image tower of 4 layers, text tower of 2, both of width 96."""
    tokenizer = processor.tokenizer
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=VERIFIER_CONTEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=IMAGE_PIXELS,
        patch_size=PATCH_PIXELS,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64))


def set_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """What ends and what fills up the model's answers."""
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def build_policy_processor(texts: Iterable[str], merges: int = 120) -> LlavaProcessor:
    """A LLaVA processor around a Llama tokenizer with byte fallback, so small that names fall into several tokens."""
    return LlavaProcessor(
        image_processor=_image_processor(),
        tokenizer=learn_llama_tokenizer(texts, merges, image_token=IMAGE_TOKEN),
        patch_size=PATCH_PIXELS,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_policy(processor: LlavaProcessor, verifier: CLIPModel) -> LlavaForConditionalGeneration:
    """A LLaVA of about 1.2 M parameters around the verifier's own image tower, which stays frozen."""
    tokenizer = processor.tokenizer
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=POLICY_CONTEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=verifier.config.vision_config.to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=(IMAGE_PIXELS // PATCH_PIXELS) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    tower = model.model.vision_tower
    tower.load_state_dict(verifier.vision_model.state_dict())
    tower.requires_grad_(False)
    set_end_tokens(model, tokenizer)
    return model
