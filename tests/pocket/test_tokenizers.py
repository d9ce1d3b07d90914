"""Tokenizers learnt from what the pocket world says: small, the same in every process, and nothing is lost in them."""

import subprocess
import sys

import pytest

from fisao_pipeline.pocket import language, tokenizers
from fisao_pipeline.pocket.scenes import CATEGORIES


@pytest.fixture(scope="module")
def llama(captions):
    return tokenizers.learn_llama_tokenizer(captions)


@pytest.fixture(scope="module")
def bert(captions):
    return tokenizers.learn_bert_tokenizer(captions)


def test_names_fall_into_several_tokens_of_a_policy(llama):
    """As in the tokenizers of large models, so that a reward's place among sub-words matters."""
    lengths = {name: len(llama(name, add_special_tokens=False)["input_ids"]) for name in CATEGORIES}
    assert sum(length > 1 for length in lengths.values()) > 20, lengths


def test_any_text_survives_a_policys_tokenizer(llama):
    for text in ("A café for two 🐕!", "line\nbreak", *language.CAPTION_PROMPTS):
        assert llama.decode(llama(text, add_special_tokens=False)["input_ids"]) == text


def test_a_named_token_is_the_one_in_the_vocabulary(captions, llama):
    named = tokenizers.learn_llama_tokenizer(captions, image_token=tokenizers.IMAGE_TOKEN)
    assert named.image_token_id == llama.convert_tokens_to_ids(tokenizers.IMAGE_TOKEN)
    assert named.get_vocab() == llama.get_vocab()


def test_without_its_names_a_tokenizer_is_the_same(captions, llama):
    named = tokenizers.learn_llama_tokenizer(captions, image_token=tokenizers.IMAGE_TOKEN)
    bare = tokenizers.without_names(named)
    assert not hasattr(bare, "image_token")
    assert bare.get_vocab() == named.get_vocab()
    for text in ("A café for two 🐕!", *captions[:20]):
        assert bare(text)["input_ids"] == named(text)["input_ids"]


def test_words_that_it_learnt_are_whole_to_a_q_former_and_others_are_letters(bert):
    assert bert.tokenize("There is a DOG!") == ["there", "is", "a", "dog", "!"]
    assert bert.tokenize("zorb") == ["z", "##o", "##r", "##b"]
    assert bert.unk_token_id not in bert("a photo of a zorb-1, (yes/no)?")["input_ids"]


def test_tokenizers_are_the_same_in_every_process():
    """Numbers that come from the order of a hash map would differ, and with them the models, from run to run."""
    script = (
        "import hashlib, random; from fisao_pipeline.pocket import language, scenes, tokenizers; "
        "rng = random.Random(0); own = scenes.draw_scenes(200, 1); "
        "texts = [language.describe(rng, scene, 0.5) for scene in own]; "
        "kinds = ('clip', 'llama', 'bert'); "
        "learnt = [getattr(tokenizers, f'learn_{kind}_tokenizer')(texts) for kind in kinds]; "
        "print(*(hashlib.sha256(t.backend_tokenizer.to_str().encode()).hexdigest() for t in learnt))"
    )
    printed = {
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(printed) == 1, printed
