"""What cannot work is refused with the reason, before its weights are loaded where that can be known."""

import json
import shutil
import traceback
from pathlib import Path

import pytest
import torch
from tests.backbone_zoo import Picture, build
from transformers import AutoConfig, LlamaConfig, MllamaConfig, SmolVLMConfig

from fisao_pipeline.models import packages
from fisao_pipeline.models.backbones.choice import KINDS, backbone_kind, check_supported
from fisao_pipeline.models.backbones.generic import BackboneKind
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.processors import load_processor
from fisao_pipeline.models.source import CHAT_KINDS, ModelNotFoundError, ModelSource, missing_model_files

SHIPPED_MODELS = Path(__file__).parents[3] / "data" / "06_models"


@pytest.fixture
def folder(world, tmp_path):
    """A copy of the untrained pocket VLM, to spoil."""
    return shutil.copytree(world.policy_source.path_or_id, tmp_path / "model")


def edit(file, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def load(folder, **options) -> Policy:
    return Policy.load(ModelSource(str(folder), dtype="float32", device="cpu", options=options))


def test_a_model_that_wants_to_run_its_own_code_is_refused(folder):
    edit(folder / "config.json", model_type="deep_thought", auto_map={"AutoConfig": "configuration.DeepThoughtConfig"})
    (folder / "configuration.py").write_text("raise AssertionError('this must not run')")
    with pytest.raises(ValueError, match=r"'deep_thought'.*Python code of its own.*auto_map.*refused"):
        load(folder)


@pytest.mark.parametrize("part", ["processor_config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_a_processor_that_wants_to_run_its_own_code_is_refused_in_our_words(folder, part):
    """transformers' own words are advice to let it run."""
    (folder / "processing.py").write_text("raise AssertionError('this must not run')")
    for file in {"processor_config.json", "preprocessor_config.json"} - {part}:
        (folder / file).unlink(missing_ok=True)
    content = json.loads((folder / part).read_text()) if (folder / part).is_file() else {}
    classes = {"processor_class": "DeepThoughtProcessor", "auto_map": {"AutoProcessor": "processing.DeepThought"}}
    (folder / part).write_text(json.dumps({**content, **classes}))
    with pytest.raises(ValueError, match=r"^the processor of '.*' brings Python code of its own.*refused") as refusal:
        load_processor(AutoConfig.from_pretrained(folder), str(folder), local_files_only=True, trust_remote_code=False)
    assert part in str(refusal.value)
    assert "trust_remote_code" not in "".join(traceback.format_exception(refusal.value.with_traceback(None)))


@pytest.mark.parametrize(
    ("config", "reason"), [(MllamaConfig(), "cross-attention"), (LlamaConfig(), "nothing here was made for it")]
)
def test_an_unsupported_kind_is_named_with_the_reason_and_what_is_supported(config, reason):
    with pytest.raises(ValueError, match=rf"'m' is of type '{config.model_type}'.*{reason}.*gemma3.*llava.*qwen2_5_vl"):
        check_supported(config, "m")


def test_an_unsupported_model_is_refused_before_its_weights_are_read(folder):
    (folder / "config.json").write_text(json.dumps(MllamaConfig().to_dict()))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"'mllama'.*cross-attention"):
        load(folder)


def test_a_smolvlm_without_num2words_is_refused_before_its_weights_are_read(folder, monkeypatch):
    (folder / "config.json").write_text(json.dumps(SmolVLMConfig().to_dict()))
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"\(smolvlm\) needs num2words: `pip install 'fisao-pipeline\[smolvlm\]'`"):
        load(folder)


def test_a_processor_without_chat_template_is_refused(world):
    policy = world.policy(lora=None)
    policy.processor.chat_template = policy.tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"\(llava\) has no chat template.*chat_template\.jinja"):
        backbone_kind(policy.backbone, policy.processor)


def test_a_folder_without_chat_template_is_refused_before_its_weights_are_read(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelNotFoundError, match=r"not complete: a chat template \(chat_template\.jinja or .* missing"):
        load(folder)


def test_the_kinds_that_need_a_chat_template_are_those_without_a_format_of_their_own():
    assert {name for name, kind in KINDS.items() if kind.chat_text is BackboneKind.chat_text} == CHAT_KINDS


def test_an_instructblip_needs_the_tokenizer_of_its_qformer(tmp_path):
    folder = shutil.copytree(SHIPPED_MODELS / "pocket_instructblip", tmp_path / "model")
    assert missing_model_files(folder) == []
    shutil.rmtree(folder / "qformer_tokenizer")
    with pytest.raises(ModelNotFoundError, match="not complete: the folder qformer_tokenizer missing"):
        load(folder)


def test_the_tokenizers_chat_template_will_do(world, folder):
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", chat_template=template)
    assert load(folder).encode.chat_text("What?") == world.policy(lora=None).encode.chat_text("What?")


def test_a_chat_template_that_forgets_the_image_is_refused(world, folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'][1]['text'] }}{% endfor %}")
    with pytest.raises(ValueError, match=r"Found total 0 <image> tokens"):
        world.batch(load(folder), 2)


def test_a_processor_of_another_model_is_refused(world, folder):
    """Its image tokens are not as many as the model's features; transformers' message names neither image nor cause."""
    policy = load(folder)
    policy.processor.patch_size *= 2
    with pytest.raises(ValueError, match=r"'i0\d' has \d+ image tokens and its image 36 features: .*of another model"):
        world.batch(policy, 2)


def test_an_image_token_that_is_also_the_padding_token_pads_nothing(world, folder):
    expected = world.policy(lora=None)
    edit(folder / "tokenizer_config.json", pad_token="<image>")
    policy = load(folder)
    image = policy.kind.image_token_id
    batch = world.batch(policy)
    assert not batch.attention_mask.all()
    assert not (batch.input_ids[~batch.attention_mask] == image).any()
    draw = Decoding(temperature=0.0, max_new_tokens=8)
    assert torch.equal(policy.sample(batch, draw).ids, expected.sample(world.batch(expected), draw).ids)


def test_a_tokenizer_without_anything_to_pad_with_is_refused(world):
    policy = world.policy(lora=None)
    policy.tokenizer.pad_token = "<image>"
    policy.tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"pads with '<image>'.*no end token"):
        backbone_kind(policy.backbone, policy.processor)


def test_a_llava_around_pixtral_is_refused(world):
    policy = world.policy(lora=None)
    policy.backbone.config.vision_config.model_type = "pixtral"
    with pytest.raises(ValueError, match="Pixtral"):
        backbone_kind(policy.backbone, policy.processor)


def test_an_instructblip_that_cannot_work_says_why(tmp_path):
    policy = load(build("instructblip", tmp_path / "model"))
    policy.processor.num_query_tokens = None
    with pytest.raises(ValueError, match=r"of before image tokens.*newer revision"):
        backbone_kind(policy.backbone, policy.processor)
    policy.backbone.config.use_decoder_only_language_model = False
    with pytest.raises(ValueError, match=r"around an encoder-decoder.*instructblip-vicuna-7b"):
        backbone_kind(policy.backbone, policy.processor)


def test_an_instruction_beyond_the_q_formers_context_is_cut_for_it_alone(tmp_path):
    policy = load(build("instructblip", tmp_path / "model"))
    prompt = "dog " * 150
    batch = policy.encode([prompt], ["square"], Picture())
    assert policy.encode.count_tokens([prompt], [(48, 48)]) == [batch.input_ids.shape[1]]
    assert batch.input_ids.shape[1] > 150
    assert torch.isfinite(batch.image_features[0]).all()


def test_options_reach_model_and_processor(folder):
    policy = load(folder, model={"attn_implementation": "eager"}, processor={"padding_side": "right"})
    assert not policy.shares_prompts
    assert policy.tokenizer.padding_side == "right"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": {"trust_remote_code": True}}, "trust_remote_code cannot be set"),
        ({"processor": {"local_files_only": False, "revision": "x"}}, "local_files_only, revision cannot be set"),
        ({"image_size": 96}, "'image_size' is not known; there are `model` and `processor`"),
        ({"model": "eager"}, "'model' is not known.*each a mapping"),
    ],
)
def test_options_that_must_not_be_set_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        load(folder, **options)
