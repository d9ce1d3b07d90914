"""Run `image_ingestion` on so many images that memory shows.

`python -m tests.ingestion.many_images 1000000 FOLDER CONF`, in the project's folder.

Files and decoding are stood in for, all else is the stage as shipped: COCO's two annotation files with the same ids for
copies, LLaVA-Instruct rows, splits by source, the quarantine and the parquet files. One JSON line says what it took.
"""

import hashlib
import json
import logging
import sys
import time
from pathlib import Path

import yaml
from kedro.io import DataCatalog, MemoryDataset
from tests.peak_memory import peak_memory_mib

from fisao_pipeline.datasets.image_folder import ImageCheck
from fisao_pipeline.params.image_ingestion import ImageIngestionParams
from fisao_pipeline.pipelines.image_ingestion import create_pipeline

CATEGORIES = 80
SETTINGS = {
    "source_splits": {"train2017": ["calibration", "training", "probe"], "instances_val2014.json": ["held_out"]},
    "template_splits": ["held_out"],
}


class ManyImages:
    """A folder of nine tenths train2017 and one tenth val2014, every picture of which is in train2017 too."""

    root = Path("many")

    def __init__(self, count):
        self.count = count

    def train(self):
        return [f"train2017/{number:012d}.jpg" for number in range(self.count - self.count // 10)]

    def val(self):
        return [f"val2014/COCO_val2014_{number:012d}.jpg" for number in range(self.count // 10)]

    def files(self):
        return [*self.train(), *self.val()]

    def check(self, file_name, max_pixels):
        digest = hashlib.sha256(file_name[-16:].encode()).hexdigest()
        return ImageCheck(640, 480, digest, digest[:32], "JPEG")


def write_list(stream, rows):
    separator = "["
    for row in rows:
        stream.write(separator + row)
        separator = ", "
    stream.write("]")


def write_coco(path, names):
    with path.open("w") as stream:
        stream.write('{"info": {}, "images": ')
        ids = [int(name[-16:-4]) for name in names]
        rows = zip(ids, names, strict=True)
        entry = '{"id": %d, "file_name": "%s", "height": 480, "width": 640}'
        write_list(stream, (entry % (number, name.rpartition("/")[2]) for number, name in rows))
        stream.write(', "annotations": ')
        entry = '{"id": %d, "image_id": %d, "category_id": %d, "bbox": [1.5, 2.5, 30.5, 40.5], "iscrowd": 0}'
        write_list(
            stream, (entry % (2 * n + k, n, (n // 7 + k * (n % 11)) % CATEGORIES) for n in ids for k in range(2))
        )
        stream.write(', "categories": ')
        write_list(stream, (json.dumps({"id": number, "name": f"thing {number}"}) for number in range(CATEGORIES)))
        stream.write("}")


def write_llava(path, names):
    entry = (
        '{"id": "%s", "image": "%s", "conversations": [{"from": "human", "value": "<image>\\nWhat is in picture %d?"}, '
        '{"from": "gpt", "value": "A thing that stands on another thing, and beside them both a third one."}]}'
    )
    with path.open("w") as stream:
        bases = (name.rpartition("/")[2] for name in names)
        write_list(stream, (entry % (base[:-4], base, number) for number, base in enumerate(bases)))


def entries(folder, conf):
    """The shipped catalog, with this folder's files."""
    found = yaml.safe_load((conf / "catalog_image_ingestion.yml").read_text().replace("${globals:data}", "data"))
    for entry in found.values():
        entry["filepath"] = str(folder / entry["filepath"])
    found["raw_annotations"]["filepath"] = [str(folder / f"instances_{part}.json") for part in ("train2017", "val2014")]
    found["raw_prompts"]["filepath"] = str(folder / "llava.json")
    del found["image_folder"]
    return found


def main():
    count, folder, conf = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    logging.getLogger("kedro").setLevel(logging.ERROR)
    images = ManyImages(count)
    write_coco(folder / "instances_train2017.json", images.train())
    write_coco(folder / "instances_val2014.json", images.val())
    write_llava(folder / "llava.json", images.train())
    base = yaml.safe_load((conf / "parameters_image_ingestion.yml").read_text())["image_ingestion"]
    catalog = DataCatalog.from_config(entries(folder, conf))
    catalog["image_folder"] = MemoryDataset(images, copy_mode="assign")
    catalog["params:image_ingestion"] = MemoryDataset(ImageIngestionParams(**base | SETTINGS), copy_mode="assign")
    stages, rows = [], {}
    started, written_mib = time.process_time(), peak_memory_mib()
    nodes = create_pipeline().nodes
    for number, node in enumerate(nodes):
        before = time.process_time()
        inputs = [catalog.load(name) for name in node.inputs]
        answers = node.run(dict(zip(node.inputs, inputs, strict=True)))
        del inputs
        for name in list(answers):
            if name in {"image_manifest", "prompts"}:
                rows[name.removeprefix("image_")] = len(answers[name])
            if name not in catalog:
                catalog[name] = MemoryDataset(copy_mode="assign")
            catalog.save(name, answers.pop(name))
        needed = {name for later in nodes[number + 1 :] for name in later.inputs}
        for name in set(node.inputs) - needed:  # as Kedro's runner does
            catalog.release(name)
        peak_mib = peak_memory_mib()
        stages.append([node.name, round(time.process_time() - before, 1), peak_mib])
    took = {"written_mib": written_mib, "peak_mib": peak_mib, "cpu_seconds": round(time.process_time() - started, 1)}
    print(json.dumps({"images": count, "rows": rows, **took, "stages": stages}))  # noqa: T201


if __name__ == "__main__":
    main()
