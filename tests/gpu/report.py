"""What was measured on a GPU as a Markdown section for docs/benchmarks.md, and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.table import markdown_table
from tests.gpu.bench import Bench
from tests.gpu.kernels import Kernels
from tests.gpu.measuring import TRACED_FROM, TRACED_STEPS, Measured, Phase
from tests.gpu.peers import TOKENS, Peer
from tests.gpu.targets import Row

TOP = 10
GIB = 2**30


@dataclass(frozen=True)
class Ceilings:
    """What the device can do.

    Attributes:
        nominal_flops: The maker's peak a second, None where there is none.
        matrix_flops: Of products of large matrices in the weights' type, measured.
        copy_bytes: Read and written a second, measured.
    """

    nominal_flops: float | None
    matrix_flops: float
    copy_bytes: float


def as_json(
    where: Mapping[str, str], bench: Bench, found: Measured, ceilings: Ceilings, rows: list[Row]
) -> dict[str, Any]:
    """All figures, in plain types and without rounding."""
    phases = {
        name: {
            **asdict(phase.work),
            "seconds": phase.seconds,
            "per_second": phase.per_second,
            "peak_bytes": phase.peak_bytes,
            **{f"mfu_of_{of}": phase.utilisation(peak) for of, peak in _peaks(ceilings).items()},
        }
        for name, phase in found.phases.items()
    }
    return {
        **where,
        "configuration": {name: getattr(bench, name) for name in _SAID}
        | {"lora_rank": bench.lora.rank}
        | {"batch_size": bench.ppo.batch_size, "micro_batch_size": bench.ppo.micro_batch_size},
        "ceilings": asdict(ceilings),
        "targets": [{"target": r.name, "wanted": r.text[0], "measured": r.measured, "met": r.met} for r in rows],
        "phases": phases,
        "planned_bytes": found.planned_bytes,
        "sampling_read_bytes": found.read_bytes,
        "peers": [asdict(peer) for peer in found.peers],
        "kernels": {
            name: {
                "seconds": kernels.seconds,
                "idle_share": kernels.idle_share,
                "top": [asdict(kernel) for kernel in kernels.kernels[:TOP]],
            }
            for name, kernels in found.kernels.items()
        },
        "runs_on": found.runs_on,
        "step": found.step,
        "warnings": found.warnings,
        "faults": found.faults,
    }


def page(where: Mapping[str, str], bench: Bench, found: Measured, ceilings: Ceilings, rows: list[Row]) -> str:
    """The section, its headings of the third level."""
    head = (
        f"`{where['command']}`, commit `{where['commit']}`, {where['date']}, on one {where['device']} (torch "
        f"{where['torch']}). Configuration `{bench.name}`: K = {bench.responses} × {bench.prompts} pictures, "
        f"{bench.new_tokens} new tokens, {bench.sampling_batch} responses drawn at once, batch {bench.ppo.batch_size}, "
        f"micro-batch {found.micro_batch or bench.ppo.micro_batch_size} "
        f"{'with' if bench.checkpointing else 'without'} gradient checkpointing, LoRA of rank {bench.lora.rank}. "
        "Weights are random."
    )
    parts = [head, *(f"{name}: {words}." for name, words in found.runs_on.items())]
    parts += [f"**Wrong:** {_line(fault)}" for fault in found.faults]
    parts += [f"Warning: {_line(warning)}" for warning in found.warnings]
    parts += ["### Targets", markdown_table(["target", "wanted", "measured", "met"], map(_target_cells, rows))]
    parts += ["### Phases", _ceilings_said(found, ceilings), _phases(found, ceilings)]
    if found.planned_bytes:
        parts += ["### Memory", _memory(found)]
    if found.peers:
        parts += [
            "### Peers",
            _peers_said(),
            markdown_table(["sampling by", "ours", "theirs", "ratio"], map(_peer, found.peers)),
        ]
    said = {
        "sampling": f"steps {TRACED_FROM} to {TRACED_FROM + TRACED_STEPS - 1} of a batch",
        "update": "one micro-batch forward and backward, and the optimiser's step",
    }
    for name, kernels in found.kernels.items():
        parts += [f"### Kernels: {name}", *_kernels(said[name], kernels)]
    return "\n\n".join(parts) + "\n"


def _target_cells(row: Row) -> list[str]:
    return [row.name, *row.text, "yes" if row.met else "**no**"]


def _peaks(ceilings: Ceilings) -> dict[str, float]:
    nominal = {"nominal": ceilings.nominal_flops} if ceilings.nominal_flops else {}
    return {**nominal, "measured": ceilings.matrix_flops}


def _ceilings_said(found: Measured, ceilings: Ceilings) -> str:
    nominal = f"{ceilings.nominal_flops / 1e12:,.1f}" if ceilings.nominal_flops else "no"
    said = (
        f"Products of matrices reach {_short(ceilings.matrix_flops / 1e12)} TFLOPS here ({nominal} nominal), copies "
        f"{_short(ceilings.copy_bytes / 1e9)} GB/s, read and written bytes together. "
    )
    if "sampling" in found.phases:
        best = found.phases["sampling"].work.amount / (found.read_bytes / ceilings.copy_bytes)
        said += (
            f"At that rate sampling in these batches cannot draw more than {best:,.0f} tokens a second: each step "
            "reads all weights and the cache. "
        )
    return said + (
        "MFU counts 2 operations for each weight of a linear layer and token of a forward pass and 4 in a LoRA step, "
        "no attention, no adapter, nothing that is computed again."
    )


def _phases(found: Measured, ceilings: Ceilings) -> str:
    head = ["phase", "rate", "seconds", "MFU, nominal", "MFU, of the measured rate", "with attention", "GiB at most"]
    return markdown_table(head, [_phase_cells(name, phase, ceilings) for name, phase in found.phases.items()])


def _phase_cells(name: str, phase: Phase, ceilings: Ceilings) -> list[str]:
    nominal = f"{phase.utilisation(ceilings.nominal_flops):.1%}" if ceilings.nominal_flops else "–"
    peak = f"{phase.peak_bytes / GIB:.1f}" if phase.peak_bytes is not None else "–"
    return [
        name,
        f"{phase.per_second:,.1f} {phase.work.unit}/s",
        f"{phase.seconds:.2f}",
        nominal,
        f"{phase.utilisation(ceilings.matrix_flops):.1%}",
        f"{phase.work.flops / phase.seconds / ceilings.matrix_flops:.1%}",
        peak,
    ]


def _memory(found: Measured) -> str:
    lines = []
    for name, planned in found.planned_bytes.items():
        peak = found.phases[name].peak_bytes if name in found.phases else None
        measured = [f"{peak / GIB:.2f}", f"{planned / peak - 1:+.1%}"] if peak else ["–", "–"]
        lines.append([name, f"{planned / GIB:.2f}", *measured])
    return markdown_table(["phase", "planned, GiB", "measured, GiB", "planned is off by"], lines)


def _peers_said() -> str:
    return f"One batch of samples, up to {TOKENS} new tokens each; ours anew, of the same batch and length."


def _peer(peer: Peer) -> list[str]:
    rates = [f"{peer.ours:,.1f} new tokens/s"]
    if peer.theirs is None:
        return [peer.name, *rates, f"not run: {_line(peer.missing or '')}", "–"]
    return [peer.name, *rates, f"{peer.theirs:,.1f} new tokens/s", f"{peer.ours / peer.theirs:.2f}"]


def _kernels(what: str, kernels: Kernels) -> list[str]:
    took = f"{kernels.seconds * 1e3:.1f} ms, {kernels.idle_share:.1%} without a kernel running"
    lines = [
        [f"`{_line(kernel.name)[:90]}`", str(kernel.calls), f"{kernel.seconds * 1e3:.2f}", f"{share:.1%}"]
        for kernel in kernels.kernels[:TOP]
        for share in [kernel.seconds / kernels.busy_seconds]
    ]
    return [
        f"{what[0].upper()}{what[1:]}: {took}.",
        markdown_table(["kernel", "calls", "ms", "of all kernels' time"], lines),
    ]


def _line(text: str) -> str:
    return " ".join(text.replace("`", "'").split())


def _short(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


_SAID = ("name", "dtype", "prompts", "responses", "new_tokens", "sampling_batch", "checkpointing")
