"""Makes the package executable: `python -m fisao_pipeline --pipelines=train` is `kedro run --pipelines=train`.

Beside it there are the commands of `fisao_pipeline.commands.cli`, such as `… export --output FOLDER`.
"""

import sys
from pathlib import Path
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project

from fisao_pipeline.commands.cli import cli


def main(*args: Any, **kwargs: Any) -> Any:
    """Run the project's `run` command, or one of `commands.cli`, with the arguments of the command line."""
    kwargs["standalone_mode"] = not hasattr(sys, "ps1")
    words = list(args[0]) if args else sys.argv[1:]
    if words and words[0] in cli.commands:
        return cli(words, **kwargs)
    package_name = Path(__file__).parent.name
    configure_project(package_name)
    run = find_run_command(package_name)
    return run(*args, **kwargs)


if __name__ == "__main__":
    main()
