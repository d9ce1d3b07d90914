"""Kill runs at random moments until they have been killed often enough, and look after each that nothing is lost.

    python -m tests.killing.campaign --kills 100 --log docs/kill_test.md

A campaign takes a small project from its pictures to the comparison, stage by stage. A stage's command is given again
until it completes; most times it is stopped before: by a signal after so much of its CPU time, or by a disk that fails.
Then

- the latest version of every artifact must be the one of an uninterrupted run, bit for bit;
- what was kept by part (responses, answers, rollouts) must be there until the artifact is saved, and not be made again;
- at the end adapter, history, rollouts, predictions and comparison must be those of the uninterrupted run.
"""

import argparse
import hashlib
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tests.killing.children import DISK, KINDS, Ended, Fate, import_what_a_run_imports, run_stage

STAGES = ("image_ingestion", "response_sampling", "reward_annotation", "policy_training", "benchmark_evaluation")
# A stage that is killed for ever would end nothing; a training has the most to go on with.
KILLS_IN_A_ROW = dict.fromkeys(STAGES, 3) | {"policy_training": 10}
KEPT = ("04_feature/response_shards", "06_models/training_checkpoints", "07_model_output/prediction_shards")
# The artifact that a stage's parts end in. Once it is there they may go, in the next run too: it keeps the artifact.
SAVED_AS = {
    "response_sampling": "responses.parquet",
    "policy_training": "training_rollouts.parquet",
    "benchmark_evaluation": "predictions.parquet",
}
# What a run that a disk has ended says: the remedy's first words, or at least the cause.
_CAUSES = ("Could not save", *map(os.strerror, DISK.values()))
TIMES = ["seconds", "tokens_per_second"]
PARAMETERS: dict[str, Any] = {
    "response_sampling": {"batch_size": 4, "responses_per_shard": 4},
    "policy_training": {
        "rounds": 3,
        "checkpoint_every_steps": 1,
        "probe_prompts": 2,
        "ppo": {"epochs": 2, "kl_target_nats": 0.01},
    },
    "benchmark_evaluation": {"batch_size": 4, "responses_per_shard": 4, "held_out_images": 4, "pope_images": 1},
}


class Lost(AssertionError):
    """Something that must not be lost is, or is not what it was."""


@dataclass
class Tally:
    """What a campaign has been through."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    resumed: int = 0
    artifacts_checked: int = 0
    parts_checked: int = 0
    trainings_gone_on_with: int = 0
    rounds: int = 0

    @property
    def total(self) -> int:
        return sum(self.kills.values())


def artifacts(root: Path) -> dict[str, Path]:
    """The latest version of every versioned artifact, by name; what begins with a dot is no version."""
    found = {}
    for folder in sorted((root / "data" / "smoke").glob("0[2-8]*/*")):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        # As Kedro does it: the highest name whose artifact is there.
        versions = sorted(path for path in folder.glob(f"*/{folder.name}"))
        if versions:
            found[folder.name] = versions[-1]
    return found


def content(path: Path, root: Path) -> str:
    """Digest of an artifact without what differs from project to project, its place, and from run to run, times."""
    if path.name == "training_history.parquet":
        return pd.read_parquet(path).drop(columns=TIMES).to_json(double_precision=15)
    if path.name == "report.html":
        # Versions, runs and times are in it; what it tells of them is in the artifacts that it is made of.
        return "whole" if path.read_text(encoding="utf-8").rstrip().endswith("</html>") else "cut off"
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        if file.name != "README.md":
            digest.update(file.name.encode() + file.read_bytes().replace(str(root).encode(), b""))
    return digest.hexdigest()


def parts(root: Path) -> dict[str, int]:
    """Everything that is kept by part, with the time it was written."""
    folders = [root / "data" / "smoke" / name for name in KEPT[::2]]
    files = [file for folder in folders for file in folder.glob("[!.]*")]
    return {file.relative_to(root).as_posix(): file.stat().st_mtime_ns for file in files}


def check_artifacts(root: Path, expected: dict[str, str], tally: Tally) -> None:
    for name, path in artifacts(root).items():
        if content(path, root) != expected[name]:
            raise Lost(f"{name} is not what an uninterrupted run makes: {path}")
        tally.artifacts_checked += 1


def check_parts(before: dict[str, int], root: Path, stage: str, tally: Tally) -> None:
    """What a stage has kept is still there as it was, or gone because the artifact that it belongs to is saved."""
    after = parts(root)
    for name, written in before.items():
        tally.parts_checked += 1
        if name in after:
            if after[name] != written:
                raise Lost(f"{name} was made again")
            continue
        own, folder = Path(name), Path(name).parent
        # A round's parts are put together into one table as soon as all are there.
        whole = any(own.name.startswith(Path(o).stem) for o in after if Path(o).parent == folder)
        if not whole and SAVED_AS[stage] not in artifacts(root):
            raise Lost(f"{name} is gone, and nothing was saved")


def draw_fate(rng: random.Random, whole: Ended) -> Fate:
    """Any moment of the run."""
    kind = rng.choice(KINDS)
    if kind in DISK:
        return Fate(kind, call=rng.randint(1, max(1, whole.calls)))
    return Fate(kind, cpu_seconds=rng.uniform(0.05, 1.0) * whole.cpu_seconds)


def prepare(folder: Path, stages: Sequence[str]) -> Path:
    """A project with untrained models, pictures, and what comes before the stages."""
    from tests.pocket_models import build_pocket_models
    from tests.smoke_project import Smoke

    folder.mkdir()
    store = folder / "mlflow.db"
    root = folder / "project"
    root.mkdir()
    Smoke.make(root, _empty_store(store), build_pocket_models)
    use_store(root)
    run_uninterrupted(root, "pocket_world", folder / "prepared.log", tags=["scenes"])
    for stage in STAGES[: STAGES.index(stages[0])]:
        run_uninterrupted(root, stage, folder / "prepared.log")
    return root


def run_uninterrupted(root: Path, stage: str, log: Path, tags: list[str] | None = None) -> Ended:
    """Run a stage, and import here what it imported, for the forks to come; it tells how long these would take."""
    ended = run_stage(root, stage, PARAMETERS, log, tags=tags)
    if ended.code:
        raise RuntimeError(f"{stage} failed without being killed:\n{log.read_text()[-3000:]}")
    before = time.process_time()
    import_what_a_run_imports(log)
    return replace(ended, cpu_seconds=max(0.5, ended.cpu_seconds - (time.process_time() - before)))


def use_store(root: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/data/smoke/mlflow/mlflow.db"


def _empty_store(path: Path) -> Path:
    """In a fork: its connections are not to be shared with later ones."""
    pid = os.fork()
    if pid == 0:
        import mlflow

        mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
        os._exit(0)
    os.waitpid(pid, 0)
    return path


@dataclass(frozen=True)
class Whole:
    """The uninterrupted run: how long each stage takes, and what every artifact is."""

    stages: dict[str, Ended]
    contents: dict[str, str]


def run_whole(template: Path, folder: Path, stages: Sequence[str]) -> Whole:
    """The stages, uninterrupted."""
    root, log = folder / "whole", folder / "whole.log"
    shutil.copytree(template, root)
    use_store(root)
    ended = {}
    for stage in stages:
        ended[stage] = run_uninterrupted(root, stage, log)
        say(f"      {stage:21s} whole: {ended[stage].cpu_seconds:.1f} s of CPU, {ended[stage].calls} calls")
    return Whole(ended, {name: content(path, root) for name, path in artifacts(root).items()})


def campaign(template: Path, folder: Path, whole: Whole, rng: random.Random, left: int, tally: Tally) -> None:
    """One project from the first stage to the last, killed on the way up to ``left`` times."""
    root = folder / f"round-{tally.rounds}"
    shutil.copytree(template, root)
    use_store(root)
    end = tally.total + left
    for stage in whole.stages:
        in_a_row = 0
        while True:
            fate = (
                draw_fate(rng, whole.stages[stage]) if tally.total < end and in_a_row < KILLS_IN_A_ROW[stage] else None
            )
            before = parts(root)
            log = folder / f"{root.name}-{stage}-{in_a_row}.log"
            ended = run_stage(root, stage, PARAMETERS, log, fate)
            check_artifacts(root, whole.contents, tally)
            check_parts(before, root, stage, tally)
            if log.exists() and "Going on from a checkpoint" in " ".join(log.read_text().split()):
                tally.trainings_gone_on_with += 1
            if in_a_row:
                tally.resumed += 1
            if ended.code == 0:
                break
            if not ended.struck:
                raise Lost(f"{stage} failed without being killed:\n{log.read_text()[-3000:]}")
            _check_message(fate, ended, log)
            tally.kills[stage, fate.kind] += 1
            say(f"{tally.total:4d}  {stage:21s} {fate.kind}")
            in_a_row += 1
    left_over = [name for name in KEPT if list((root / "data" / "smoke" / name).glob("[!.]*"))]
    if left_over:
        raise Lost(f"parts and checkpoints of finished runs are still in {left_over}")
    missing = set(whole.contents) - set(artifacts(root))
    if missing:
        raise Lost(f"{missing} was never saved")
    tally.rounds += 1
    shutil.rmtree(root)


def _check_message(fate: Fate, ended: Ended, log: Path) -> None:
    text = " ".join(log.read_text().split()) if log.exists() else ""
    if fate.kind in DISK and not any(said in text for said in _CAUSES):
        raise Lost(f"a failing disk ended the run without a word of it: {text[-500:]}")
    if fate.kind in ("SIGTERM", "Ctrl-C") and ended.code not in (130, 143, -15, -2, 1):
        raise Lost(f"{fate.kind} ended the run with {ended.code}")


def report(tally: Tally, seconds: float, seed: int) -> str:
    """The log, as Markdown."""
    command = f"python -m tests.killing.campaign --kills {tally.total} --seed {seed} --log docs/kill_test.md"
    rows = [[stage, *(str(tally.kills[stage, kind]) for kind in KINDS)] for stage in STAGES]
    counts = {
        "commands given again after a kill": tally.resumed,
        "trainings that went on from a checkpoint": tally.trainings_gone_on_with,
        "latest versions looked at": tally.artifacts_checked,
        "of these corrupt, or not those of the uninterrupted run": 0,
        "finished parts looked at": tally.parts_checked,
        "of these lost or made again": 0,
        "runs from the pictures to the comparison": tally.rounds,
        "of these with another adapter, history, rollouts, predictions or comparison": 0,
    }
    return "\n".join(
        [
            "# Kill test",
            "",
            f"```bash\n{command}\n```",
            "",
            f"{tally.total} times a stage of a small run was stopped at a random moment: by a signal after so much of",
            "its CPU time, or by a disk that failed from some call on (an IO error: once). Its command was given again",
            "until it completed. The first thing that is lost ends the test, so the zeros are what it is there for.",
            f"Python {platform.python_version()}, {platform.machine()}, {seconds / 60:.0f} minutes.",
            "",
            f"| stage | {' | '.join(KINDS)} |",
            f"|---|{'---:|' * len(KINDS)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            "| | |",
            "|---|---:|",
            *(f"| {what} | {count} |" for what, count in counts.items()),
            "",
        ]
    )


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> int:
    """Returns 0; whatever is lost is raised."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="one after the other")
    arguments.add_argument("--log", type=Path)
    options = arguments.parse_args()
    torch.set_num_threads(1)  # threads would not be there after a fork
    rng, tally, started = random.Random(options.seed), Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        template = prepare(folder / "prepared", options.stages)
        whole = run_whole(template, folder, options.stages)
        while tally.total < options.kills:
            campaign(template, folder, whole, rng, options.kills - tally.total, tally)
    text = report(tally, time.monotonic() - started, options.seed)
    say(text)
    if options.log is not None:
        options.log.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
