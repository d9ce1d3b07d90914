"""A tiny verifier of random weights of each kind, with its real classes, saved as the hub's folders are."""

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tests.backbone_zoo import bert_tokenizer, texts
from transformers import BertTokenizer, Blip2Config, Blip2Processor, SiglipConfig, SiglipModel, SiglipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from fisao_pipeline.pocket import builders

SIDE = {"height": 32, "width": 32}


def save_clip(folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        processor = builders.build_verifier_processor(texts())
        model = builders.build_verifier(processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_siglip(folder: Path, captions: Sequence[str] = ()) -> Path:
    """With a byte-level tokenizer, as a tokenizer may be that is not SigLIP's own."""
    tokenizer = builders.build_verifier_processor(captions or texts()).tokenizer
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SiglipModel(SiglipConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 16}))
    model.save_pretrained(folder)
    SiglipProcessor(image_processor=SiglipImageProcessorPil(size=SIDE), tokenizer=tokenizer).save_pretrained(folder)
    return folder


def save_blip2(
    folder: Path, tokenizer: BertTokenizer | None = None, architecture: str = "Blip2ForImageTextRetrieval"
) -> Path:
    tokenizer = tokenizer or bert_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config={**small, "image_size": 32, "patch_size": 16},
        qformer_config={
            **small,
            "vocab_size": len(tokenizer) + 1,
            "encoder_hidden_size": 16,
            "max_position_embeddings": 12,
            "cross_attention_frequency": 1,
            "use_qformer_text_input": True,
        },
        text_config={
            "model_type": "opt",
            "hidden_size": 16,
            "ffn_dim": 16,
            "num_hidden_layers": 1,
            "vocab_size": 20,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 16,
        },
        num_query_tokens=5,
        image_text_hidden_size=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, architecture)(config)
        torch.nn.init.normal_(model.query_tokens)
        # The default spread is so small that all texts would score alike.
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and name != "query_tokens":
                torch.nn.init.normal_(parameter, std=0.3)
    processor = Blip2Processor(BlipImageProcessorPil(size=SIDE), tokenizer, num_query_tokens=5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
