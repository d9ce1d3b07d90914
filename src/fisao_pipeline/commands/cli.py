"""What `python -m fisao_pipeline` does beside `run`: care of artifacts, adapters that leave, models that come in."""

import click

from fisao_pipeline.commands.deliver import deliver
from fisao_pipeline.commands.export import export, merge
from fisao_pipeline.commands.lineage import lineage
from fisao_pipeline.commands.pinning import convert, pin
from fisao_pipeline.commands.prune import prune
from fisao_pipeline.commands.reproduce import reproduce
from fisao_pipeline.commands.status import status


@click.group(commands=[status, lineage, reproduce, prune, deliver, merge, export, pin, convert])
def cli() -> None:
    """What is there and whether it is fresh, adapters that leave the project, models that come into it."""
