"""Tokenizers of the kinds that the real models have, learnt from what the pocket world says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertTokenizer, CLIPTokenizer, LlamaTokenizer

IMAGE_TOKEN = "<image>"
VERIFIER_CONTEXT_TOKENS = 32
POLICY_CONTEXT_TOKENS = 192


def _learn_bpe(learner: Tokenizer, texts: Iterable[str], reserved: list[str], vocab_size: int, **options: Any) -> dict:
    """Vocabulary and merges of a BPE learnt from ``texts``; ``reserved`` tokens come first, in their order.

    Without them the trainer numbers what it meets in the order of a hash map, which differs between processes.
    """
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=reserved, show_progress=False, **options)
    learner.train_from_iterator(texts, trainer)
    return _bpe_of(learner)


def _bpe_of(tokenizer: Tokenizer) -> dict:
    learnt = json.loads(tokenizer.to_str())["model"]
    return {"vocab": learnt["vocab"], "merges": [tuple(pair) for pair in learnt["merges"]]}


def learn_clip_tokenizer(captions: Iterable[str], merges: int = 120) -> CLIPTokenizer:
    """CLIP's byte-level BPE, learnt from ``captions``."""
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
    return CLIPTokenizer(**bpe, model_max_length=VERIFIER_CONTEXT_TOKENS)


def learn_llama_tokenizer(texts: Iterable[str], merges: int = 120, **named: str) -> LlamaTokenizer:
    """Llama's BPE with byte fallback, so small that names fall into several tokens.

    Args:
        texts: What it is learnt from.
        merges: Pairs that it learns to join.
        named: Special tokens that the tokenizer is to have under a name, ``image_token`` for instance; the token that
            stands for an image is in the vocabulary either way.
    """
    specials = ["<unk>", "<s>", "</s>", "<pad>", IMAGE_TOKEN]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    alphabet = [chr(code) for code in range(33, 127)]
    learner = Tokenizer(models.BPE())
    # Merges are learnt within words: Llama's own pre-tokenizer does not split, and none learnt here crosses a blank.
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    reserved = specials + byte_tokens
    size = len(reserved) + len(alphabet) + 1 + merges
    return _llama_tokenizer(_learn_bpe(learner, texts, reserved, size, initial_alphabet=alphabet), named)


def without_names(tokenizer: LlamaTokenizer) -> LlamaTokenizer:
    """The same tokens, none of them special under a name: InstructBLIP's processor names its image token itself."""
    return _llama_tokenizer(_bpe_of(tokenizer.backend_tokenizer), {})


def _llama_tokenizer(bpe: dict, named: dict[str, str]) -> LlamaTokenizer:
    return LlamaTokenizer(
        **bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named,
        model_max_length=POLICY_CONTEXT_TOKENS,
        padding_side="left",
    )


def learn_bert_tokenizer(texts: Iterable[str]) -> BertTokenizer:
    """BERT's WordPiece with every word of ``texts`` whole, as BERT's has all usual ones; others fall into letters."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127)]
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})
    tokens = dict.fromkeys([*specials, *letters, *(f"##{letter}" for letter in letters), *words])
    return BertTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, model_max_length=VERIFIER_CONTEXT_TOKENS
    )
