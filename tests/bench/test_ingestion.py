"""Pictures a second through the ingestion's checks against decoding them and nothing else."""

import pytest
from PIL import Image
from tests.bench.side_by_side import Rival, Work
from tests.bench.worlds import photographs, shipped_block

from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.ingestion.images import check_images
from fisao_pipeline.params.image_ingestion import ImageIngestionParams

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]


def test_ingestion(compare, shipped, tmp_path):
    opened = photographs(shipped)
    files = [tmp_path / f"{image_id}.jpg" for image_id in shipped.images]
    for file in files:
        opened(file.stem).save(file, quality=90)
    params = ImageIngestionParams.model_validate({**shipped_block("image_ingestion"), "workers": 1})
    folder = ImageFolder(tmp_path)

    def decode() -> None:
        for file in files:
            with Image.open(file) as image:
                image.convert("RGB")

    compare(
        Work("ingestion", len(files), "pictures", "640 × 480 JPEG, one worker; checks, SHA-256, digest of the pixels"),
        lambda: check_images(folder, params),
        [Rival("decoding alone", decode, is_floor=True)],
    )
