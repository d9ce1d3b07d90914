"""What Kedro-Viz shows of the project: a preview of every artifact, and a site of plain files."""
