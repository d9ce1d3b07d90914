"""Score as many captions as COCO val2014 has images:
`python -m tests.pipelines.score_predictions.many_captions CAPTIONS.jsonl FOLDER COUNT`.

The captions are real ones, again and again with other numbers in them, so that none is like another; each image has
annotated objects and five reference captions. One JSON line says what it took.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import yaml
from tests.peak_memory import peak_memory_mib

from fisao_pipeline.params.score_predictions import ScorePredictionsParams
from fisao_pipeline.pipelines.score_predictions.inputs import read_inputs
from fisao_pipeline.pipelines.score_predictions.scoring import score_all

CONF = Path(__file__).parents[3] / "conf" / "base" / "parameters_score_predictions.yml"
CATEGORIES = ["person", "dog", "cat", "bus", "dining table", "chair", "cup", "car"]


def write(captions: list[str], folder: Path, count: int) -> None:
    texts = list(itertools.islice(itertools.cycle(captions), count))
    with (folder / "captions.jsonl").open("w") as stream:
        for number, text in enumerate(texts):
            row = {"image_id": number, "caption": text.replace("The image", f"Image number {number}")}
            stream.write(json.dumps(row) + "\n")
    images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in range(count)]
    categories = [{"id": place, "name": name} for place, name in enumerate(CATEGORIES)]
    objects = [{"image_id": n, "category_id": (n * k) % len(CATEGORIES)} for n in range(count) for k in range(7)]
    references = [
        {"image_id": n, "caption": f"{text.split('.')[0]} number {n}"} for n, text in enumerate(texts) for _ in range(5)
    ]
    for name, content in (
        ("instances", {"images": images, "categories": categories, "annotations": objects}),
        ("references", {"images": images, "annotations": references}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))


def main() -> None:
    source, folder, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    write([json.loads(line)["caption"] for line in source.read_text().splitlines()], folder, count)
    written_mib = peak_memory_mib()
    block = yaml.safe_load(CONF.read_text())["score_predictions"]
    block["bootstrap_resamples"] = 10_000
    block["chair"] |= {
        "predictions": str(folder / "captions.jsonl"),
        "instances": str(folder / "instances.json"),
        "captions": str(folder / "references.json"),
    }
    params = ScorePredictionsParams(**block)
    started = time.process_time()
    inputs = read_inputs(params)
    read_seconds = time.process_time() - started
    report, items = score_all(inputs, params)
    took = {"read_seconds": round(read_seconds, 1), "seconds": round(time.process_time() - started, 1)}
    peak_mib = peak_memory_mib()
    metrics = {name: interval["value"] for name, interval in report["benchmarks"]["chair"]["metrics"].items()}
    print(json.dumps({"items": len(items), **took, "written_mib": written_mib, "peak_mib": peak_mib, **metrics}))  # noqa: T201


if __name__ == "__main__":
    main()
