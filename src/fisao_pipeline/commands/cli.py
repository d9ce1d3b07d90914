"""What `python -m fisao_pipeline` does beside `run`: figures, care of artifacts, adapters out, models in."""

import click

from fisao_pipeline.commands.deliver import deliver
from fisao_pipeline.commands.export import export, merge
from fisao_pipeline.commands.lineage import lineage
from fisao_pipeline.commands.pinning import convert, pin
from fisao_pipeline.commands.prune import prune
from fisao_pipeline.commands.reproduce import reproduce
from fisao_pipeline.commands.show import show
from fisao_pipeline.commands.status import status
from fisao_pipeline.commands.study_docs import study_docs


@click.group(commands=[show, status, lineage, reproduce, prune, deliver, merge, export, pin, convert, study_docs])
def cli() -> None:
    """What was found, what is there and whether it is fresh, adapters that leave, models that come in."""
