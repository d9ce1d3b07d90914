"""How fast a LLaVA-1.5-7B of random weights samples, is annotated and learns on this GPU, against our targets.

`python -m tests.gpu.throughput --output build/gpu.md` writes a section for docs/benchmarks.md, and `build/gpu.json`. It
takes less than ten minutes on an H100; `--config quick` is for a look, `--config tiny --device cpu` tries the command.
"""

import datetime
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from tests.bench.worlds import shipped_block
from tests.gpu import report, targets
from tests.gpu.bench import CONFIGS, Bench
from tests.gpu.ceilings import copy_rate, matrix_rate
from tests.gpu.measuring import Measured, measure
from tests.gpu.report import Ceilings

from fisao_pipeline.artifacts.provenance import git_state
from fisao_pipeline.params.plan import PlanParams
from fisao_pipeline.pipelines.plan.nodes import card_here

PROJECT = Path(__file__).parents[2]


def run(bench: Bench, device: str, command: str, say: Callable[[str], None]) -> tuple[str, dict[str, Any], Measured]:
    """Ceilings first, then a round; returns the Markdown, the same for machines, and what was measured."""
    ceilings, name = _ceilings(bench, torch.device(device))
    say(f"{name}: {ceilings.matrix_flops / 1e12:.3g} TFLOPS, copies {ceilings.copy_bytes / 1e9:.3g} GB/s")
    found = measure(bench, device, say)
    rows = targets.rows(bench, found, ceilings.nominal_flops)
    where = {
        "command": command,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "device": name,
        "torch": torch.__version__,
    }
    told = (where, bench, found, ceilings, rows)
    return report.page(*told), report.as_json(*told), found


def _ceilings(bench: Bench, device: torch.device) -> tuple[Ceilings, str]:
    dtype = getattr(torch, bench.dtype)
    if device.type != "cuda":
        # No figure of a processor is of interest here: only that it works.
        small = {"rounds": 2, "repeats": 2}
        return Ceilings(None, matrix_rate(device, dtype, 256, **small), copy_rate(device, 1 << 22, **small)), "CPU"
    properties = torch.cuda.get_device_properties(device)
    name, memory_gib = properties.name, properties.total_memory / 2**30
    try:
        card = card_here(PlanParams.model_validate(shipped_block("plan")))
    except ValueError:  # a card whose figures nobody has written down is measured all the same
        nominal = None
    else:
        nominal = 1e12 * (card.float32_tflops if bench.dtype == "float32" else card.bfloat16_tflops)
    ceilings = Ceilings(nominal, matrix_rate(device, dtype), copy_rate(device))
    # Its gigabytes are no part of the round's peak, but would be of what the allocator holds.
    torch.cuda.empty_cache()
    return ceilings, f"{name} ({memory_gib:.1f} GiB)"


def _commit() -> str:
    commit, dirty = git_state(PROJECT)
    return (commit or "unknown")[:7] + ("+" if dirty else "")


@click.command()
@click.option("--config", type=click.Choice(sorted(CONFIGS)), default="target", show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Markdown; JSON beside it."
)
def main(config: str, device: str, output: Path) -> None:
    """Measure one configuration; ends with status 1 where a result is wrong, however fast."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException(
            "there is no CUDA device here: run it on a machine with an NVIDIA GPU of 80 GB, or see that it works with "
            f"`python -m tests.gpu.throughput --config tiny --device cpu --output {output}`"
        )
    command = shlex.join(["python", "-m", "tests.gpu.throughput", *sys.argv[1:]])
    page, figures, found = run(CONFIGS[config](), device, command, click.echo)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    click.echo(f"\n{page}")
    if found.faults:
        raise click.ClickException("; ".join(found.faults))


if __name__ == "__main__":
    main()
