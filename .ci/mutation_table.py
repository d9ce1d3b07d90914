"""Print what `mutmut run` found: a table by module, then every mutant that no test noticed, as a diff.

Usage: mutation_table.py [--survivors]; without the flag the table alone.
"""

import sys
from collections import Counter
from pathlib import Path

from mutmut.__main__ import walk_mutatable_files
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

COLUMNS = ("killed", "timeout", "survived", "no tests")


def cells(name: str, counts: Counter[str]) -> str:
    total = counts.total()
    noticed = 100 * (counts["killed"] + counts["timeout"]) / total
    numbers = [total, *(counts[column] for column in COLUMNS), total - sum(counts[column] for column in COLUMNS)]
    return f"| {name} | " + " | ".join(map(str, numbers)) + f" | {noticed:.1f} |"


def main() -> None:
    everything: Counter[str] = Counter()
    unnoticed: list[tuple[str, Path]] = []
    print(f"| module | mutants | {' | '.join(COLUMNS)} | other | noticed, % |\n|---|{'---|' * 7}")
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        statuses = {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
        if not statuses:
            continue
        counts = Counter(statuses.values())
        everything += counts
        print(cells(f"`{path.relative_to('src/fisao_pipeline/method')}`", counts))
        unnoticed += [(name, path) for name, status in statuses.items() if status not in ("killed", "timeout")]
    print(cells("all", everything))
    if "--survivors" in sys.argv:
        for name, path in unnoticed:
            print(f"\n{name}\n{get_diff_for_mutant(name, path=path)}")


if __name__ == "__main__":
    main()
