"""Sizes of the published models of `conf/`, as in their `config.json`, for a Hugging Face cache without weights."""

import json
from pathlib import Path
from typing import Any

SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
LLAMA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
VIT_G = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llava-hf/llava-1.5-7b-hf": {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "image_seq_length": 576,
        "image_token_index": 32000,
        "text_config": {**LLAMA_7B, "vocab_size": 32064, "max_position_embeddings": 4096},
        "vision_config": {"model_type": "clip_vision_model", **CLIP_L_336},
        "vision_feature_layer": -2,
    },
    "Salesforce/instructblip-vicuna-7b": {
        "model_type": "instructblip",
        "architectures": ["InstructBlipForConditionalGeneration"],
        "num_query_tokens": 32,
        "image_token_index": 32000,
        "text_config": {**LLAMA_7B, "vocab_size": 32064, "max_position_embeddings": 2048},
        "vision_config": VIT_G,
        "qformer_config": {"vocab_size": 30523, "encoder_hidden_size": 1408},
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1000000.0},
        },
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen3-VL-8B-Instruct": {
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "text_config": {
            "model_type": "qwen3_vl_text",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
                "rope_theta": 5000000,
            },
        },
        "vision_config": {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "out_hidden_size": 4096,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        "tie_word_embeddings": False,
    },
    "google/gemma-3-4b-it": {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "mm_tokens_per_image": 256,
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 262208,
            "max_position_embeddings": 131072,
            "sliding_window": 1024,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            **SO400M,
            "image_size": 896,
            "patch_size": 14,
            "vision_use_head": False,
        },
    },
    "openai/clip-vit-large-patch14-336": {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": 768,
        "text_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "projection_dim": 768,
        },
        "vision_config": CLIP_L_336,
    },
    "Salesforce/blip2-itm-vit-g": {
        "model_type": "blip-2",
        "architectures": ["Blip2ForImageTextRetrieval"],
        "image_text_hidden_size": 256,
        "num_query_tokens": 32,
        "vision_config": VIT_G,
        "qformer_config": {"vocab_size": 30523, "encoder_hidden_size": 1408, "use_qformer_text_input": True},
    },
    "google/siglip2-so400m-patch14-384": {
        "model_type": "siglip",
        "architectures": ["SiglipModel"],
        "text_config": {**SO400M, "vocab_size": 256000},
        "vision_config": {**SO400M, "image_size": 384, "patch_size": 14},
    },
    "google/siglip-so400m-patch14-384": {
        "model_type": "siglip",
        "architectures": ["SiglipModel"],
        "text_config": {**SO400M, "vocab_size": 32000},
        "vision_config": {**SO400M, "image_size": 384, "patch_size": 14},
    },
}
# Published counts; of BLIP-2's retrieval model none was found.
PARAMETERS = {
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
    "Salesforce/instructblip-vicuna-7b": 7_913_726_720,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "google/gemma-3-4b-it": 4_300_079_472,
    "openai/clip-vit-large-patch14-336": 427_944_193,
    "google/siglip2-so400m-patch14-384": 1_136_008_498,
    "google/siglip-so400m-patch14-384": 877_960_498,
}


def lay_in_cache(cache: Path, hub_id: str, commit: str) -> Path:
    """A model's configuration alone, as a download of a commit leaves it."""
    snapshot = cache / f"models--{hub_id.replace('/', '--')}" / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIGS[hub_id]))
    return snapshot
