from __future__ import annotations

import locale
import re
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fisao_pipeline.method.object_spans import (
    PHRASE_BOUNDARIES,
    Mention,
    ObjectVocabulary,
    find_mentions,
    mark_repeats,
    mention_token_spans,
    modifier_starts,
)
from fisao_pipeline.method.vocabulary import file_digest
from fisao_pipeline.method.vocabulary.plurals import plurals

sys.path.insert(0, str(Path(__file__).parents[1] / "references"))
from slow_benchmarks import slow_mentions, slow_modifier_start, slow_token_span

COCO = ObjectVocabulary.from_name("coco")
COMMON = ObjectVocabulary.from_name("coco+common")


def found(text: str, vocabulary: ObjectVocabulary = COCO) -> list[tuple[str, str]]:
    return [(mention.category, mention.text) for mention in find_mentions(text, vocabulary)]


class TestFindMentions:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("A hot dog next to a dog.", [("hot dog", "hot dog"), ("dog", "dog")]),
            ("a teddy bear and a bear", [("teddy bear", "teddy bear"), ("bear", "bear")]),
            ("TRAFFIC  Lights", [("traffic light", "TRAFFIC  Lights")]),
            (
                "traffic\nlight, traffic-light",
                [("traffic light", "traffic\nlight"), ("traffic light", "traffic-light")],
            ),
            ("hot. dog", [("dog", "dog")]),
            ("the cattle, dogma and a carpet", [("cow", "cattle")]),
            ("a man-made lake, a horse-drawn cart, cat-like, a semi-truck", []),
            ("a dog--cat; dog/cat", [("dog", "dog"), ("cat", "cat"), ("dog", "dog"), ("cat", "cat")]),
            ("the woman's dog\u2019s bowl", [("person", "woman"), ("dog", "dog"), ("bowl", "bowl")]),
            (
                "knives, mice, oxen, people",
                [
                    (c, t)
                    for c, t in zip(
                        ("knife", "mouse", "cow", "person"), ("knives", "mice", "oxen", "people"), strict=True
                    )
                ],
            ),
            (
                "sheep and buses and wine glasses",
                [("sheep", "sheep"), ("bus", "buses"), ("wine glass", "wine glasses")],
            ),
            ("baseball bats", [("baseball bat", "baseball bats")]),
            ("dog_1 dog2 dog", [("dog", "dog")]),
            ("", []),
            ("   \n", []),
            ("\U0001f415", []),
        ],
    )
    def test_hand_computed(self, text, expected):
        assert found(text) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a train track", []),
            ("train tracks near a train", [("train", "train")]),
            ("the home plate", []),
            ("a baby bear", [("bear", "baby bear")]),
            ("adult elephants", [("elephant", "adult elephants")]),
            ("a baby animal", []),
            ("a baby", [("person", "baby")]),
            ("a passenger jet", [("airplane", "passenger jet")]),
            ("a toilet seat", [("toilet", "toilet seat")]),
            ("a bow tie", [("tie", "bow tie")]),
        ],
    )
    def test_special_cases_of_chair(self, text, expected):
        assert found(text) == expected

    def test_offsets_survive_letters_whose_lower_case_is_longer(self):
        # "İ".lower() has two characters: offsets into a lower-cased text would be off by one each.
        text = "İİİ DOG ß \U0001f415 cat"
        assert len(text.lower()) != len(text)
        assert [(m.text, text[m.char_start : m.char_end]) for m in find_mentions(text, COCO)] == [
            ("DOG", "DOG"),
            ("cat", "cat"),
        ]

    def test_accents_composed_and_decomposed(self):
        vocabulary = ObjectVocabulary.from_lines(["café", "cafe bar"])
        assert found("a cafe\u0301 and a CAFÉ", vocabulary) == [("café", "cafe\u0301"), ("café", "CAFÉ")]
        assert found("a dog\u0301") == []

    def test_full_width_letters(self):
        assert found("ｄｏｇ") == [("dog", "ｄｏｇ")]

    def test_time_grows_with_the_text_and_not_with_the_vocabulary(self):
        """One pass, not one search per name; as ratios of CPU time, because the shape checks of the tests cost much."""
        caption = "A man rides a skateboard past a red bus while two dogs watch from a bench by the traffic light. "
        short = cpu_seconds(caption * 5, COMMON)
        assert cpu_seconds(caption * 5, SMALL) > short / 4
        assert cpu_seconds(caption * 100, COMMON) < 4 * 20 * short


def cpu_seconds(text: str, vocabulary: ObjectVocabulary) -> float:
    def once() -> float:
        start = time.process_time()
        for _ in range(5):
            find_mentions(text, vocabulary)
        return time.process_time() - start

    return min(once() for _ in range(5))


WORDS = st.sampled_from(
    [
        "dog",
        "Dogs",
        "hot",
        "teddy",
        "bear",
        "BEARS",
        "train",
        "track",
        "tracks",
        "wine",
        "glass",
        "glasses",
        "baby",
        "man",
        "made",
        "stove",
        "top",
        "oven",
        "light",
        "traffic",
        "street",
        "İ",
        "\U0001f415",
        "é",
        "seat",
        "toilet",
    ]
)
GAPS = st.sampled_from([" ", "  ", "-", "\n", ", ", ". ", "\u2011", "--", "'"])
TEXTS = st.lists(st.tuples(WORDS, GAPS), max_size=12).map(lambda parts: "".join(word + gap for word, gap in parts))


def spelled_out(vocabulary: ObjectVocabulary) -> dict[str, str | None]:
    names: dict[str, str | None] = {}
    for category, phrases in [*vocabulary.synonyms.items(), (None, vocabulary.ignored)]:
        for phrase in phrases:
            for form in (phrase.lower(), *plurals(phrase.lower())):
                names.setdefault(form, category)
    return names


COCO_NAMES = spelled_out(
    ObjectVocabulary(
        {
            c: w
            for c, w in COCO.synonyms.items()
            if c
            in {
                "dog",
                "hot dog",
                "bear",
                "teddy bear",
                "train",
                "oven",
                "chair",
                "wine glass",
                "person",
                "toilet",
                "traffic light",
            }
        },
        COCO.ignored,
    )
)
SMALL = ObjectVocabulary(
    {c: w for c, w in COCO.synonyms.items() if c in set(filter(None, COCO_NAMES.values()))}, COCO.ignored
)


class TestMentionProperties:
    @settings(max_examples=60, deadline=None)
    @given(TEXTS)
    def test_agrees_with_trying_every_name_everywhere(self, text):
        mentions = [(m.category, m.char_start, m.char_end) for m in find_mentions(text, SMALL)]
        assert mentions == slow_mentions(text, COCO_NAMES)

    @settings(max_examples=200, deadline=None)
    @given(st.one_of(TEXTS, st.text(max_size=60)))
    def test_spans_slice_the_text_and_do_not_overlap(self, text):
        mentions = find_mentions(text, COMMON)
        assert all(text[m.char_start : m.char_end] == m.text and m.text for m in mentions)
        assert all(a.char_end <= b.char_start for a, b in pairwise(mentions))

    @settings(max_examples=100, deadline=None)
    @given(TEXTS)
    def test_an_unrelated_word_before_shifts_every_span(self, text):
        shift = len("Xylem. ")
        shifted = [
            Mention(m.category, m.text, m.char_start + shift, m.char_end + shift) for m in find_mentions(text, COCO)
        ]
        assert find_mentions("Xylem. " + text, COCO) == shifted

    @settings(max_examples=100, deadline=None)
    @given(TEXTS, TEXTS)
    def test_sentences_add_up(self, first, second):
        joined = [m.category for m in find_mentions(f"{first} . {second}", COCO)]
        assert joined == [m.category for part in (first, second) for m in find_mentions(part, COCO)]


class TestVocabulary:
    def test_coco(self):
        assert len(COCO.categories) == 80
        assert COCO.categories[0] == "person"
        assert COCO.categories[-1] == "toothbrush"

    def test_common_adds_to_coco_without_touching_its_words(self):
        assert COMMON.categories[:80] == COCO.categories
        assert len(COMMON.categories) >= 280
        assert all(COMMON.synonyms[name] == COCO.synonyms[name] for name in COCO.categories)
        for word in ("can", "saw", "rose", "watch", "key", "ring"):
            assert COMMON.canonical(word) is None, f"{word!r} is mostly no object in captions"

    @pytest.mark.parametrize(
        ("word", "category"),
        [
            ("Bikes", "bicycle"),
            ("hot-dog", "hot dog"),
            ("people", "person"),
            ("lamp", None),
            ("train track", None),
            ("dog cat", None),
            ("", None),
            ("hot", None),
        ],
    )
    def test_canonical(self, word, category):
        assert COCO.canonical(word) == category

    def test_lines(self):
        vocabulary = ObjectVocabulary.from_lines(["# note", "", " dog ,  hound", "cat,", "dog, pup", "! dog days"])
        assert vocabulary.synonyms == {"dog": ("dog", "hound", "pup"), "cat": ("cat",)}
        assert vocabulary.ignored == ("dog days",)
        assert found("dog days of a pup", vocabulary) == [("dog", "pup")]

    def test_word_of_two_categories(self):
        with pytest.raises(ValueError, match=r"'Jet' belongs both to category 'airplane' and to category 'printer'"):
            ObjectVocabulary.from_lines(["airplane, jet", "printer, Jet"])

    def test_made_plural_of_two_categories(self):
        with pytest.raises(ValueError, match="'axes' belongs both"):
            ObjectVocabulary.from_lines(["axe", "ax"])

    def test_spelled_out_word_beats_made_plural(self):
        vocabulary = ObjectVocabulary.from_lines(["drinking glass, glass", "eyeglasses, glasses"])
        assert found("glass glasses", vocabulary) == [("drinking glass", "glass"), ("eyeglasses", "glasses")]

    def test_ignored_word_of_a_category(self):
        with pytest.raises(ValueError, match="category 'dog' and to the ignored phrases"):
            ObjectVocabulary.from_lines(["dog", "! dog"])

    @pytest.mark.parametrize("lines", [[], ["", "# only a comment"], ["! train track"]])
    def test_empty(self, lines):
        with pytest.raises(ValueError, match="words\\.txt: no category"):
            ObjectVocabulary.from_lines(lines, "words.txt")
        with pytest.raises(ValueError, match=r"^vocabulary: no category"):
            ObjectVocabulary.from_lines(lines)

    def test_no_name(self):
        with pytest.raises(ValueError, match="line 2: no name"):
            ObjectVocabulary.from_lines(["dog", ", cat"])

    def test_no_word(self):
        with pytest.raises(ValueError, match=r"'\?\?' holds no word"):
            ObjectVocabulary.from_lines(["??"])

    def test_from_file_and_load(self, tmp_path):
        path = tmp_path / "words.txt"
        path.write_text("\ufeffdog, hünd\n", encoding="utf-8")
        assert ObjectVocabulary.from_file(path) == ObjectVocabulary.load(str(path))
        assert ObjectVocabulary.load(path).synonyms == {"dog": ("dog", "hünd")}
        assert ObjectVocabulary.load("coco") == COCO
        assert ObjectVocabulary.load("coco+common") == COMMON
        with pytest.raises(ValueError, match="'coco', 'coco\\+common'"):
            ObjectVocabulary.load("cocoa")
        with pytest.raises(ValueError, match="no built-in vocabulary 'lvis'"):
            ObjectVocabulary.from_name("lvis")

    def test_files_are_utf_8_whatever_the_locale_and_named_in_messages(self, tmp_path):
        path = tmp_path / "words.txt"
        path.write_bytes("hünd, chien".encode())
        locale_before = locale.setlocale(locale.LC_CTYPE)
        locale.setlocale(locale.LC_CTYPE, "C")
        try:
            assert ObjectVocabulary.from_file(path).categories == ("hünd",)
        finally:
            locale.setlocale(locale.LC_CTYPE, locale_before)
        path.write_bytes(b"# nothing")
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: no category"):
            ObjectVocabulary.from_file(path)

    def test_digest_is_that_of_a_files_bytes_and_a_built_in_vocabulary_has_none(self, tmp_path, monkeypatch):
        path = tmp_path / "words.txt"
        path.write_bytes(b"abc")
        # The test vector of FIPS 180-4 for "abc".
        expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert file_digest(path) == file_digest(str(path)) == expected
        assert file_digest(tmp_path / "none.txt") is None
        monkeypatch.chdir(tmp_path)
        (tmp_path / "coco").write_bytes(b"abc")
        assert file_digest("coco") is None

    @pytest.mark.parametrize(
        ("singular", "expected"),
        [
            ("dog", ("dogs",)), ("bench", ("benches",)), ("box", ("boxes",)), ("bus", ("buses",)),
            ("puppy", ("puppies",)), ("toy", ("toys",)), ("mango", ("mangos", "mangoes")), ("kangaroo", ("kangaroos",)),
            ("mouse", ("mice",)), ("pocketknife", ("pocketknives",)), ("sheep", ("sheep",)), ("ox", ("oxen",)),
            ("goose", ("geese",)), ("person", ("people", "persons")), ("policeman", ("policemen",)),
            ("woman", ("women",)), ("grandchild", ("grandchildren",)), ("ottoman", ("ottomans",)),
            ("leaf", ("leaves",)),
            ("loaf of bread", ("loaf of breads",)), ("wine glass", ("wine glasses",)), ("scissors", ()), ("people", ()),
            ("glass", ("glasses",)),
            ("brush", ("brushes",)), ("foot", ("feet",)), ("tooth", ("teeth",)), ("shelf", ("shelves",)), ("?", ()),
        ],
    )  # fmt: skip
    def test_plurals(self, singular, expected):
        assert plurals(singular) == expected


def train_tokenizer(kind: str):
    tokenizers = pytest.importorskip("tokenizers")
    corpus = ["A hot dog and a dog near the café with a teddy bear 🐕 and a traffic light, two jalapeños."] * 4
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=kind == "llama"))
    special = ["<s>", "<unk>"]
    if kind == "llama":
        # As Llama's: the blank is a letter of the word, unknown characters fall back to bytes.
        tokenizer.normalizer = tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
        )
        # Real vocabularies hold no token across words; on a corpus this small only a split prevents it.
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("▁", "merged_with_next")
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, limit_alphabet=30, show_progress=False
        )
    else:
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=special,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


class TestTokenSpans:
    def test_hand_computed(self):
        #        A      _hot    _dog     .     and a token of no width
        offsets = [(0, 1), (1, 5), (5, 9), (9, 10), (0, 0)]
        assert mention_token_spans(offsets, find_mentions("A hot dog.", COCO)) == [(1, 3)]
        # The blank alone is a token: it is not part of the mention.
        assert mention_token_spans([(0, 1), (1, 2), (2, 5)], find_mentions("A dog", COCO)) == [(2, 3)]
        # One token holds two mentions, one mention begins inside a token.
        assert mention_token_spans([(0, 3), (3, 7)], [Mention("a", "xy", 1, 2), Mention("b", "zw", 2, 4)]) == [
            (0, 1),
            (0, 2),
        ]
        # Tokens of no width are passed over, at the ends and inside.
        assert mention_token_spans([(0, 0), (0, 2), (2, 2), (2, 3), (3, 3)], [Mention("d", "dog", 0, 3)]) == [(1, 4)]
        # A span that was handed over with its blank in front.
        assert mention_token_spans([(0, 1), (1, 2), (2, 5)], [Mention("dog", " dog", 1, 5)]) == [(2, 3)]
        assert mention_token_spans([], []) == []

    @pytest.mark.parametrize("offsets", [[], [(0, 0)], [(0, 2)], [(5, 9)], [(0, 2), (5, 9)]])
    def test_no_token(self, offsets):
        with pytest.raises(ValueError, match="no token covers 'dog' at characters 2:5"):
            mention_token_spans(offsets, [Mention("dog", "dog", 2, 5)])

    def test_backwards(self):
        with pytest.raises(ValueError, match="run backwards"):
            mention_token_spans([(3, 5), (0, 3)], [Mention("dog", "dog", 0, 3)])

    @pytest.mark.parametrize("kind", ["byte-level", "llama"])
    @pytest.mark.parametrize(
        "text",
        [
            "A hot dog.",
            "dog",
            "🐕🐕 dog 🐕 teddy bears",
            "İ café\u0301 DOG, jalapeños  and\n\ntraffic lights",
            "ｄｏｇ and dog",
        ],
    )
    def test_real_tokenizers(self, kind, text):
        encoding = train_tokenizer(kind).encode(text)
        mentions = find_mentions(text, COCO)
        spans = mention_token_spans(encoding.offsets, mentions)
        assert mentions
        for mention, (start, end) in zip(mentions, spans, strict=True):
            assert (start, end) == slow_token_span(encoding.offsets, mention.char_start, mention.char_end)
            covered = text[encoding.offsets[start][0] : encoding.offsets[end - 1][1]]
            assert mention.text in covered
            assert covered.strip() == mention.text

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=15), st.data())
    def test_agrees_with_looking_at_every_character(self, widths, data):
        ends = [sum(widths[: i + 1]) for i in range(len(widths))]
        offsets = [(end - width, end) for width, end in zip(widths, ends, strict=True)]
        if not ends[-1]:
            return
        start = data.draw(st.integers(0, ends[-1] - 1))
        end = data.draw(st.integers(start + 1, ends[-1]))
        mention = Mention("x", "x" * (end - start), start, end)
        assert mention_token_spans(offsets, [mention]) == [slow_token_span(offsets, start, end)]


def test_mark_repeats():
    assert mark_repeats([]) == []
    assert mark_repeats(["dog", "cat", "dog", "dog", "cat", "bus"]) == [False, False, True, True, True, False]


@given(st.lists(st.sampled_from("abcd")))
def test_a_repeat_is_what_stands_before(categories):
    repeats = mark_repeats(categories)
    assert repeats == [category in categories[:index] for index, category in enumerate(categories)]
    # One first mention a category, and what comes later changes nothing.
    assert repeats.count(False) == len(set(categories))
    assert mark_repeats([*categories, "a"])[: len(categories)] == repeats


def phrases(text: str, max_words: int = 3) -> list[str]:
    mentions = find_mentions(text, COCO)
    return [text[s : m.char_end] for s, m in zip(modifier_starts(text, mentions, max_words), mentions, strict=True)]


MODIFIERS = st.sampled_from(["two", "red", "Large", "black-and-white", "the", "of", "Holding", "and", "3", "é", "s"])
PHRASE_TEXTS = st.lists(st.tuples(st.one_of(MODIFIERS, WORDS), GAPS), max_size=14).map(
    lambda parts: "".join(word + gap for word, gap in parts)
)


class TestModifierStarts:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("There are two red umbrellas.", ["two red umbrellas"]),
            ("a large brown dog", ["large brown dog"]),
            ("A large, brown dog", ["brown dog"]),
            ("Brown dog", ["Brown dog"]),
            ("dog", ["dog"]),
            ("a black-and-white dog", ["black-and-white dog"]),
            ("a black and white dog", ["white dog"]),
            ("a red double-decker bus", ["red double-decker bus"]),
            ("an off-white cat", ["off-white cat"]),
            ("the man's hat and the woman\u2019s big dog", ["man", "woman", "big dog"]),
            ("a man holding three umbrellas", ["man", "three umbrellas"]),
            ("a young man riding a small brown horse", ["young man", "small brown horse"]),
            ("a small cat big dog dog", ["small cat", "big dog", "dog"]),
            ("a group of dogs on two benches", ["dogs", "two benches"]),
            ("old wooden\ndog", ["dog"]),
            ("'red dog", ["dog"]),
            ("well -- red bus (blue bus) red/bus", ["red bus", "blue bus", "bus"]),
            ("THE Red  Traffic Light", ["Red  Traffic Light"]),
            ("no dogs", ["dogs"]),
            ("a very big old red bus", ["big old red bus"]),
            ("nothing", []),
        ],
    )
    def test_hand_computed(self, text, expected):
        assert phrases(text) == expected

    def test_a_compound_counts_as_one_word_and_zero_words_leave_the_name(self):
        text = "one huge black-and-white dog"
        assert [phrases(text, n) for n in range(4)] == [
            ["dog"],
            ["black-and-white dog"],
            ["huge black-and-white dog"],
            [text],
        ]
        with pytest.raises(ValueError, match="max_words must be at least 0, got -1"):
            modifier_starts("dog", [], -1)

    def test_the_closed_list_names_no_object_colour_or_number(self):
        assert not {word for word in PHRASE_BOUNDARIES if COMMON.canonical(word)}
        assert not PHRASE_BOUNDARIES & set("red blue green black white brown one two three ten big small".split())
        assert all(word == word.lower() for word in PHRASE_BOUNDARIES)

    @settings(max_examples=200, deadline=None)
    @given(PHRASE_TEXTS, st.integers(0, 4))
    def test_a_phrase_holds_its_mention_and_crosses_neither_another_nor_punctuation(self, text, max_words):
        mentions = find_mentions(text, COCO)
        starts = modifier_starts(text, mentions, max_words)
        end_before = 0
        for start, mention in zip(starts, mentions, strict=True):
            assert end_before <= start <= mention.char_start
            before = text[start : mention.char_start]
            assert not set(before) & set(",.\n'")
            assert "--" not in before
            words = before.split()
            assert len(words) <= max_words
            assert not {word.lower() for word in words} & PHRASE_BOUNDARIES
            assert before == "" or (before[-1].isspace() and not before[0].isspace())
            end_before = mention.char_end

    @settings(max_examples=200, deadline=None)
    @given(PHRASE_TEXTS, st.integers(0, 4))
    def test_agrees_with_taking_words_off_one_by_one(self, text, max_words):
        mentions = find_mentions(text, COCO)
        floors = [0, *(mention.char_end for mention in mentions)]
        expected = [
            slow_modifier_start(text, mention.char_start, floor, max_words, PHRASE_BOUNDARIES)
            for mention, floor in zip(mentions, floors, strict=False)
        ]
        assert modifier_starts(text, mentions, max_words) == expected

    @settings(max_examples=200, deadline=None)
    @given(PHRASE_TEXTS, PHRASE_TEXTS, st.integers(1, 4))
    def test_text_that_comes_later_changes_nothing(self, text, later, max_words):
        mentions = find_mentions(text, COCO)
        starts = modifier_starts(text, mentions, max_words)
        assert modifier_starts(text + later, mentions, max_words) == starts
        # A sentence later, the mentions themselves stay too.
        longer = f"{text}. {later}"
        both = find_mentions(longer, COCO)
        assert both[: len(mentions)] == mentions
        assert modifier_starts(longer, both, max_words)[: len(mentions)] == starts
        assert all(start > len(text) for start in modifier_starts(longer, both, max_words)[len(mentions) :])
