"""A tiny model of random weights for each kind of backbone, with its real classes, saved as the hub's folders are."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import transformers
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import BertTokenizer, GemmaTokenizer, LlamaTokenizer, Qwen2Tokenizer

from fisao_pipeline.models.processors import image_only
from fisao_pipeline.pocket import language
from fisao_pipeline.pocket.scenes import draw_scenes

PATCH, SIDE = 8, 32
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def texts() -> list[str]:
    rng = random.Random(0)
    return [language.describe(rng, scene, 0.5) for scene in draw_scenes(200, seed=1)]


def _words() -> list[str]:
    return sorted({f"▁{word.strip('.,')}" for text in texts() for word in text.split()})


def _letters() -> list[str]:
    return [chr(code) for code in range(33, 127)]


def _whole_words(reserved: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of characters and whole words, each word with the merges that make it from its characters."""
    vocab = {token: number for number, token in enumerate([*reserved, "▁", *_letters()])}
    merges = {}
    for word in _words():
        for end in range(2, len(word) + 1):
            merges[word[: end - 1], word[end - 1]] = None
            vocab.setdefault(word[:end], len(vocab))
    return vocab, list(merges)


def llama_tokenizer(*extra: str) -> LlamaTokenizer:
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    vocab, merges = _whole_words([*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "\n"])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = LlamaTokenizer(vocab=vocab, merges=merges, **names, padding_side="left")
    if extra:
        tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    return tokenizer


def qwen_tokenizer(*extra: str, **named: str) -> Qwen2Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(alphabet)}
    merges = []
    for word in (word.replace("▁", "Ġ") for word in _words()):
        for end in range(2, len(word) + 1):
            if word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, padding_side="left", extra_special_tokens=named)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [*QWEN, *extra], "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    )
    return tokenizer


def gemma_tokenizer(*extra: str, **named: str) -> GemmaTokenizer:
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocab, merges = _whole_words([*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "\n"])
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, padding_side="left", extra_special_tokens=named)
    if extra:
        tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    return tokenizer


def bert_tokenizer() -> BertTokenizer:
    words = [word.lstrip("▁").lower() for word in _words()]
    letters = [*_letters(), *(f"##{letter}" for letter in _letters())]
    tokens = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *letters, *words])
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})


def text_sizes(vocab_size: int, **more) -> dict:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {**sizes, "num_key_value_heads": 2, "vocab_size": vocab_size, "max_position_embeddings": 1024, **more}


def vision_sizes(**more) -> dict:
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**sizes, "image_size": SIDE, "patch_size": PATCH, **more}


def special_ids(tokenizer) -> dict:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def square(side: int = SIDE) -> dict:
    return {"height": side, "width": side}


def llama_text(tokenizer, **more) -> dict:
    return {"model_type": "llama", **text_sizes(len(tokenizer), **special_ids(tokenizer)), **more}


def qwen2_text(tokenizer, **more) -> dict:
    return {"model_type": "qwen2", **text_sizes(len(tokenizer), **special_ids(tokenizer)), **more}


def llava():
    tokenizer = llama_tokenizer("<image>")
    image_processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square())
    processor = transformers.LlavaProcessor(
        image_processor, tokenizer, PATCH, "default", chat_template=VICUNA, num_additional_image_tokens=1
    )
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **vision_sizes()},
        text_config=llama_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def llava_next():
    tokenizer = llama_tokenizer("<image>")
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    image_processor = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=square(), image_grid_pinpoints=pinpoints
    )
    processor = transformers.LlavaNextProcessor(
        image_processor, tokenizer, PATCH, "default", chat_template=VICUNA, num_additional_image_tokens=1
    )
    config = transformers.LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **vision_sizes()},
        text_config=llama_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def llava_onevision():
    tokenizer = qwen_tokenizer("<image>", "<video>")
    pinpoints = [[SIDE * rows, SIDE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    image_processor = transformers.LlavaOnevisionImageProcessorPil(size=square(), image_grid_pinpoints=pinpoints)
    processor = image_only(transformers.LlavaOnevisionProcessor)(
        image_processor,
        tokenizer,
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHATML.replace("IMAGE", "<image>\n"),
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision_sizes()},
        text_config=qwen2_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def _qwen_vl(processor_class, template: str, patch: int):
    tokenizer = qwen_tokenizer("<|image_pad|>", "<|video_pad|>")
    limits = {"shortest_edge": (2 * patch) ** 2 * 4, "longest_edge": (2 * patch) ** 2 * 24}
    image_processor = transformers.Qwen2VLImageProcessorPil(size=limits, patch_size=patch)
    pad = "<|vision_start|><|image_pad|><|vision_end|>"
    processor = image_only(processor_class)(image_processor, tokenizer, chat_template=template.replace("IMAGE", pad))
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    return tokenizer, processor, ids


def qwen2_vl():
    tokenizer, processor, ids = _qwen_vl(transformers.Qwen2VLProcessor, CHATML, 8)
    config = transformers.Qwen2VLConfig(
        text_config=text_sizes(
            len(tokenizer),
            **special_ids(tokenizer),
            rope_parameters={"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
        ),
        vision_config={"depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2, "patch_size": 8},
        **ids,
    )
    return transformers.Qwen2VLForConditionalGeneration(config), processor


def qwen2_5_vl():
    tokenizer, processor, ids = _qwen_vl(transformers.Qwen2_5_VLProcessor, CHATML, 8)
    config = transformers.Qwen2_5_VLConfig(
        text_config=text_sizes(
            len(tokenizer),
            **special_ids(tokenizer),
            rope_parameters={"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
        ),
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 8,
            "window_size": 32,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
        },
        **ids,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl():
    tokenizer, processor, ids = _qwen_vl(transformers.Qwen3VLProcessor, CHATML, 8)
    config = transformers.Qwen3VLConfig(
        text_config=text_sizes(
            len(tokenizer),
            **special_ids(tokenizer),
            head_dim=8,
            rope_parameters={
                "rope_type": "default",
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
                "rope_theta": 10000.0,
            },
        ),
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        **ids,
    )
    return transformers.Qwen3VLForConditionalGeneration(config), processor


def _idefics(config_class, model_class, image_processor, processor_class, *more):
    tokenizer = llama_tokenizer(
        "<image>",
        "<fake_token_around_image>",
        "<end_of_utterance>",
        "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
    )
    template = (
        "<s>{% for m in messages %}{{ m['role'] }}:{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    processor = processor_class(image_processor, tokenizer, *more, image_seq_len=4, chat_template=template)
    config = config_class(
        vision_config=vision_sizes(),
        text_config=llama_text(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = model_class(config)
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<end_of_utterance>"),
    ]
    return model, processor


def idefics3():
    image_processor = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    return _idefics(
        transformers.Idefics3Config,
        transformers.Idefics3ForConditionalGeneration,
        image_processor,
        transformers.Idefics3Processor,
    )


def smolvlm():
    image_processor = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    return _idefics(
        transformers.SmolVLMConfig,
        transformers.SmolVLMForConditionalGeneration,
        image_processor,
        image_only(transformers.SmolVLMProcessor),
        None,
    )


def instructblip():
    tokenizer = llama_tokenizer()
    processor = transformers.InstructBlipProcessor(
        transformers.BlipImageProcessorPil(size=square()), tokenizer, bert_tokenizer(), num_query_tokens=4
    )
    config = transformers.InstructBlipConfig(
        vision_config=vision_sizes(initializer_range=0.02),
        qformer_config={
            **text_sizes(len(processor.qformer_tokenizer), max_position_embeddings=64),
            "encoder_hidden_size": 24,
            "cross_attention_frequency": 1,
        },
        text_config=llama_text(tokenizer),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = transformers.InstructBlipForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)
    return model, processor


def paligemma():
    """PaliGemma 2: Gemma 2 with sliding windows and capped logits."""
    tokenizer = gemma_tokenizer("<image>")
    image_processor = transformers.SiglipImageProcessorPil(size=square())
    image_processor.image_seq_length = (SIDE // PATCH) ** 2
    processor = transformers.PaliGemmaProcessor(image_processor, tokenizer)
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision_sizes()},
        text_config={
            "model_type": "gemma2",
            **text_sizes(len(tokenizer), **special_ids(tokenizer)),
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 24,
            "final_logit_softcapping": 0.5,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return transformers.PaliGemmaForConditionalGeneration(config), processor


def gemma3():
    tokenizer = gemma_tokenizer(
        "<start_of_turn>",
        "<end_of_turn>",
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
    )
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessorPil(size=square()), tokenizer, chat_template=GEMMA, image_seq_length=4
    )
    config = transformers.Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision_sizes()},
        text_config={
            **text_sizes(len(tokenizer), **special_ids(tokenizer)),
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<end_of_turn>"),
    ]
    return model, processor


def internvl():
    tokenizer = qwen_tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    processor = image_only(transformers.InternVLProcessor)(
        transformers.GotOcr2ImageProcessorPil(size=square(), crop_to_patches=True, max_patches=4),
        tokenizer,
        image_seq_length=4,
        chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    config = transformers.InternVLConfig(
        vision_config={**vision_sizes(), "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
        text_config=qwen2_text(tokenizer),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    return transformers.InternVLForConditionalGeneration(config), processor


ZOO: dict[str, Callable] = {
    builder.__name__: builder
    for builder in (
        llava,
        instructblip,
        llava_next,
        llava_onevision,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        idefics3,
        smolvlm,
        paligemma,
        gemma3,
        internvl,
    )
}


def build(name: str, folder: Path) -> Path:
    """Save the tiny model and its processor; its weights are larger than usual ones at the start, so that they tell."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = ZOO[name]()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(4.0)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Picture:
    """Pictures of different sizes and shapes, by id."""

    sizes: ClassVar[dict[str, tuple[int, int]]] = {
        "square": (48, 48),
        "wide": (120, 40),
        "tall": (40, 90),
        "large": (150, 130),
    }

    def __call__(self, image_id: str) -> Image.Image:
        width, height = self.sizes[image_id]
        generator = torch.Generator().manual_seed(width * height)
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        return Image.fromarray(pixels.numpy())
