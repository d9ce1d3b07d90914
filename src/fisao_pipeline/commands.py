"""What `python -m fisao_pipeline` does beside `run`: care of artifacts, adapters that leave, models that come in."""

import click

from fisao_pipeline.delivery import deliver
from fisao_pipeline.export import export, merge
from fisao_pipeline.lineage import lineage
from fisao_pipeline.pinning import convert, pin
from fisao_pipeline.prune import prune
from fisao_pipeline.reproduce import reproduce
from fisao_pipeline.status import status
from fisao_pipeline.viz.command import viz_site


@click.group(commands=[status, lineage, reproduce, prune, deliver, merge, export, pin, convert, viz_site])
def cli() -> None:
    """What is there and whether it is fresh, adapters that leave the project, models that come into it."""
