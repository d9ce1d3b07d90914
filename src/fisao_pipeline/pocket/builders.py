"""The two pocket models before training: real transformers classes, real processors, real BPE tokenizers, all small."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

IMAGE_PIXELS = 48
PATCH_PIXELS = 8
VERIFIER_CONTEXT_TOKENS = 32
POLICY_CONTEXT_TOKENS = 192
IMAGE_TOKEN = "<image>"
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


def _learn_bpe(learner: Tokenizer, texts: Iterable[str], reserved: list[str], vocab_size: int, **options: Any) -> dict:
    """Vocabulary and merges of a BPE learnt from ``texts``; ``reserved`` tokens come first, in their order.

    Without them the trainer numbers what it meets in the order of a hash map, which differs between processes.
    """
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=reserved, show_progress=False, **options)
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    return {"vocab": learnt["vocab"], "merges": [tuple(pair) for pair in learnt["merges"]]}


def build_verifier_processor(captions: Iterable[str], merges: int = 120) -> CLIPProcessor:
    """A CLIP processor whose byte-level BPE is learnt from ``captions``."""
    specials = ["<|startoftext|>", "<|endoftext|>"]
    blank = CLIPTokenizer(vocab={token: number for number, token in enumerate(specials)}, merges=[])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [f"{letter}{ending}" for ending in ("", "</w>") for letter in alphabet]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = (
        blank.backend_tokenizer.normalizer,
        blank.backend_tokenizer.pre_tokenizer,
    )
    reserved = specials + letters
    bpe = _learn_bpe(learner, captions, reserved, len(reserved) + merges, end_of_word_suffix="</w>")
    tokenizer = CLIPTokenizer(**bpe, model_max_length=VERIFIER_CONTEXT_TOKENS)
    return CLIPProcessor(image_processor=_image_processor(), tokenizer=tokenizer)


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


def build_policy_processor(texts: Iterable[str], merges: int = 120) -> LlavaProcessor:
    """A LLaVA processor around a Llama tokenizer with byte fallback, so small that names fall into several tokens."""
    specials = ["<unk>", "<s>", "</s>", "<pad>", IMAGE_TOKEN]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    alphabet = [chr(code) for code in range(33, 127)]
    learner = Tokenizer(models.BPE())
    # Merges are learnt within words: Llama's own pre-tokenizer does not split, and none learnt here crosses a blank.
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    reserved = specials + byte_tokens
    size = len(reserved) + len(alphabet) + 1 + merges
    tokenizer = LlamaTokenizer(
        **_learn_bpe(learner, texts, reserved, size, initial_alphabet=alphabet),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        model_max_length=POLICY_CONTEXT_TOKENS,
        padding_side="left",
    )
    return LlavaProcessor(
        image_processor=_image_processor(),
        tokenizer=tokenizer,
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
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
