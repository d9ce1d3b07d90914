"""Spans of tokens are those of growing prefixes, at a cost that grows with the tokens and not with their square."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backbone_zoo import bert_tokenizer, gemma_tokenizer, llama_tokenizer, qwen_tokenizer

from fisao_pipeline.method.object_spans import ObjectVocabulary, find_mentions, mention_token_spans
from fisao_pipeline.models.offsets import decode_with_offsets
from fisao_pipeline.pocket.tokenizers import learn_clip_tokenizer, learn_llama_tokenizer

SAID = ["a dog and a cat on a table", "two red umbrellas, left of a café"]
TOKENIZERS = {
    "sentencepiece with bytes, blank stripped": llama_tokenizer("<image>"),
    "the same, learnt": learn_llama_tokenizer(SAID, image_token="<image>"),
    "sentencepiece with bytes": gemma_tokenizer("<image>"),
    "byte-level": qwen_tokenizer("<|image_pad|>"),
    "byte-level with word ends": learn_clip_tokenizer(SAID),
    "word pieces": bert_tokenizer(),
}
TEXTS = ["a café, 中文 and 🐕🐕", "  two  blanks ", "\ufffd 🙂\ufffd\ufffdx", "", "É" * 30, "a dog " * 12]


def by_prefixes(tokenizer, token_ids) -> tuple[str, list[tuple[int, int]]]:
    """The same, each prefix decoded from the beginning."""
    special = set(tokenizer.all_special_ids)
    text = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    spans, kept, end = [], [], 0
    for token_id in token_ids:
        start = end
        if token_id not in special:
            kept.append(token_id)
            end = max(start, len(tokenizer.decode(kept, clean_up_tokenization_spaces=False).rstrip("\ufffd")))
        spans.append((start, min(end, len(text))))
    return text, spans


def pieces(tokenizer) -> list[list[int]]:
    """Sequences worth joining: texts, bytes of characters whole and cut, wrong bytes, blanks, special tokens."""
    made = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    vocabulary = tokenizer.get_vocab()
    if "<0x00>" in vocabulary:
        for data in ["é".encode(), "🙂".encode(), "🙂".encode()[:2], b" ", b"\xff", b"A", "\ufffd".encode(), b"\x80"]:
            made.append([vocabulary[f"<0x{byte:02X}>"] for byte in data])
    return [*made, *([i] for i in tokenizer.all_special_ids), *([vocabulary[t]] for t in ("▁", "Ġ") if t in vocabulary)]


@st.composite
def sampled(draw, tokenizer):
    """Pieces, and tokens at random, which cut characters anywhere."""
    size = max(tokenizer.get_vocab().values())
    known = pieces(tokenizer)
    part = st.one_of(st.sampled_from(known), st.lists(st.integers(0, size), min_size=1, max_size=6))
    return [token_id for ids in draw(st.lists(part, max_size=14)) for token_id in ids]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_spans_are_those_of_growing_prefixes(name, data):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(sampled(tokenizer))
    assert decode_with_offsets(tokenizer, ids) == by_prefixes(tokenizer, ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_spans_of_long_responses_too(name):
    tokenizer = TOKENIZERS[name]
    known, generator = pieces(tokenizer), random.Random(0)
    ids = [token_id for _ in range(150) for token_id in generator.choice(known)]
    assert decode_with_offsets(tokenizer, ids) == by_prefixes(tokenizer, ids)


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "bytes" in name])
@pytest.mark.parametrize(
    "said", [b" A", b"  A", b" ", b" \xc3\xa9", b"\xc3A", b"\xef\xbf\xbdA", b" \xef\xbf\xbd", b"A\xff\xc3\xa9"]
)
def test_bytes_from_the_beginning(name, said):
    """Where the decoder strips a blank, it is one that bytes spell too."""
    tokenizer = TOKENIZERS[name]
    for more in ("", "dog"):
        ids = [*tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in said])]
        ids += tokenizer(more, add_special_tokens=False)["input_ids"]
        assert decode_with_offsets(tokenizer, ids) == by_prefixes(tokenizer, ids)


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, tokenizer):
        self._tokenizer, self.decoded = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def decode(self, token_ids, **options):
        self.decoded += len(token_ids)
        return self._tokenizer.decode(token_ids, **options)


@pytest.mark.parametrize("text", ["a dog and a cat, ", "中文🙂"], ids=["words", "characters of several bytes"])
@pytest.mark.parametrize("name", [name for name in TOKENIZERS if "word" not in name])
def test_the_cost_grows_with_the_tokens(name, text):
    plain = TOKENIZERS[name]
    counts = []
    for tokens in (200, 800):
        tokenizer = Counting(plain)
        decode_with_offsets(tokenizer, (plain(text * tokens, add_special_tokens=False)["input_ids"])[:tokens])
        counts.append(tokenizer.decoded)
    assert counts[1] < 4.5 * counts[0]
    assert counts[1] < 25 * 800


@pytest.fixture(scope="module")
def tokenizer(world):
    return world.policy(lora=None).tokenizer


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "text",
    [
        "There is a dog on a street.",
        "a café, a piñata and a Fahrrad für zwei",
        "two 🐕🐕 and a 🚲.",
        "",
        " leading and  double blanks ",
        "line\nbreak\tand tab",
        "中文",
    ],
)
def test_offsets_cut_the_text_into_its_tokens(tokenizer, text):
    ids = ids_of(tokenizer, text)
    decoded, spans = decode_with_offsets(tokenizer, ids)
    assert decoded == tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(decoded[start:end] for start, end in spans) == decoded
    for token, (start, end) in zip(tokenizer.convert_ids_to_tokens(ids), spans, strict=True):
        if not token.startswith("<0x"):
            assert decoded[start:end].strip() == token.replace("▁", " ").strip()


def test_a_character_of_several_bytes_belongs_to_the_last_of_them(tokenizer):
    ids = ids_of(tokenizer, "a é 🙂")
    text, spans = decode_with_offsets(tokenizer, ids)
    found = {text[start:end] for start, end in spans}
    assert {"é", "🙂"} <= {piece.strip() for piece in found}
    by_bytes = [span for token, span in zip(tokenizer.convert_ids_to_tokens(ids), spans, strict=True) if "<0x" in token]
    widths = [end - start for start, end in by_bytes]
    assert widths == [0, 1, 0, 0, 0, 1]


def test_special_tokens_have_no_width(tokenizer):
    ids = ids_of(tokenizer, "a dog")
    dressed = [tokenizer.bos_token_id, *ids, tokenizer.pad_token_id, tokenizer.eos_token_id]
    text, spans = decode_with_offsets(tokenizer, dressed)
    assert text == "a dog"
    assert [spans[i] for i in (0, -2, -1)] == [(0, 0), (5, 5), (5, 5)]
    assert spans[1:-2] == decode_with_offsets(tokenizer, ids)[1]


def test_a_tokenisation_that_the_tokenizer_would_not_choose(tokenizer):
    """The policy may spell a word letter by letter; the spans are of the tokens it took."""
    letters = tokenizer.convert_tokens_to_ids(list("dog"))
    assert ids_of(tokenizer, "dog") != letters
    text, spans = decode_with_offsets(tokenizer, letters)
    assert text == "dog"
    assert spans == [(0, 1), (1, 2), (2, 3)]


def test_an_unfinished_character_at_the_end(tokenizer):
    ids = [*ids_of(tokenizer, "dog"), tokenizer.convert_tokens_to_ids("<0xF0>")]
    text, spans = decode_with_offsets(tokenizer, ids)
    assert text == "dog\ufffd"
    assert spans[-1] == (3, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 470), max_size=25))
def test_any_sampled_tokens_have_ordered_spans_that_cover_every_mention(tokenizer, ids):
    text, spans = decode_with_offsets(tokenizer, ids)
    assert len(spans) == len(ids)
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    mentions = find_mentions(text, ObjectVocabulary.load("coco"))
    assert len(mention_token_spans(spans, mentions)) == len(mentions)
