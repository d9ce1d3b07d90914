"""What `python -m fisao_pipeline` does beside `run`: adapters that leave the project, models that come into it."""

import click

from fisao_pipeline.export import export, merge
from fisao_pipeline.pinning import convert, pin


@click.group(commands=[merge, export, pin, convert])
def cli() -> None:
    """Adapters that leave the project, models that come into it."""
