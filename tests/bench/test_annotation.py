"""Mentions a second against one forward pass of CLIP a token, and against its image tower alone."""

import pytest
import torch
from tests.bench import plain
from tests.bench.side_by_side import Rival, Target, Work
from tests.bench.worlds import annotator, photographs, vit_b_32, written_responses

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
COMPLETIONS = 4


@pytest.mark.parametrize(
    ("size", "words_known"),
    [("pocket CLIP", True), ("CLIP ViT-B/32", True), ("CLIP ViT-B/32", False)],
)
def test_annotation(compare, shipped, size, words_known):
    is_pocket = size == "pocket CLIP"
    tokenizer = shipped.policy(lora=None).tokenizer
    verifier = shipped.verifier() if is_pocket else vit_b_32()
    open_image = shipped.open_image if is_pocket else photographs(shipped)
    annotate = annotator(shipped, verifier, open_image)
    responses = written_responses(shipped, tokenizer, COMPLETIONS)
    found, _ = annotate(responses)
    few = responses.iloc[:: len(responses) // (8 if is_pocket else 1)]
    in_few = int(found["response_id"].isin(few["response_id"]).sum())
    images = [open_image(image_id) for image_id in shipped.images]
    pixels = verifier.processor(images=images, return_tensors="pt")["pixel_values"]

    def ours() -> None:
        verifier._images.clear()
        if not words_known:
            verifier._texts.clear()
        annotate(responses)

    @torch.no_grad()
    def image_tower() -> None:
        for part in pixels.split(verifier.batch_size):
            verifier.model.get_image_features(pixel_values=part)

    naive = Rival(
        "one forward pass of CLIP a token",
        lambda: plain.score_each_token(verifier, open_image, few, tokenizer),
        amount=in_few,
        target=Target(50.0),
        rounds=None if is_pocket else 2,
    )
    floor = Rival(
        "the image tower alone, pixels ready",
        image_tower,
        target=None if is_pocket or not words_known else Target(1.15, at_most=True),
        is_floor=True,
    )
    # Words are embedded once for a verifier and kept on disk: by a project's first run.
    note = f"{len(images)} pictures, {COMPLETIONS} responses each; words {'known' if words_known else 'new, too'}"
    rivals = [naive, floor] if words_known else [floor]
    work = Work(f"annotation, {size}", len(found), "mentions", note)
    compare(work, ours, rivals, rounds=5 if words_known else 1)
