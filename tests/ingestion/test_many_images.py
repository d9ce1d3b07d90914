import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.smoke_project import PROJECT

# For a million rows; without the images themselves, which are decoded one by one.
MOST_MIB = 1024


def ingest(count: int, folder: Path) -> tuple[dict, str]:
    """What ingesting so many images took, and what was said."""
    command = [sys.executable, "-m", "tests.ingestion.many_images", str(count), str(folder), str(PROJECT / "conf/base")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_million_images_are_ingested_within_a_gigabyte(tmp_path):
    took, _ = ingest(1_000_000, tmp_path)
    assert took["images"] == 1_000_000
    assert took["rows"] == {"manifest": 900_000, "prompts": 900_000}
    assert took["written_mib"] < took["peak_mib"] <= MOST_MIB, took


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_same_on_few_images_gives_the_tables_it_claims(tmp_path):
    took, said = ingest(200, tmp_path)
    # 20 pictures of train2017 are in val2014; their rows are refused and the held-out copies asked the template.
    assert took["rows"] == {"manifest": 180, "prompts": 180}
    assert "20 x copy across splits" in said and "20 x image was quarantined" in said
