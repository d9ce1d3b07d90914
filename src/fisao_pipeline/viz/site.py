"""Kedro-Viz with all previews as a site of plain files, which any web server shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import fsspec
from kedro.framework.project import PACKAGE_NAME
from kedro.io import DataCatalog
from kedro_viz.api.rest.responses.metadata import MetadataAPIResponse, get_metadata_response
from kedro_viz.api.rest.responses.save_responses import write_api_response_to_fs
from kedro_viz.data_access import data_access_manager
from kedro_viz.integrations.deployment.base_deployer import BaseDeployer
from kedro_viz.integrations.kedro.data_loader import load_data
from kedro_viz.models.metadata import NodeExtras
from kedro_viz.server import populate_data

from fisao_pipeline.datasets.atomic import AtomicVersions
from fisao_pipeline.datasets.publish import publish_in_place
from fisao_pipeline.viz.previews import origin

# By which a folder is known as such a site, and may be replaced.
MARKER = Path("api", "deploy-viz-metadata")
# What Kedro-Viz asks of others: fonts.
_ELSEWHERE = re.compile(r"\s*<link\b[^>]*\bhttps://fonts\.[^>]*>")
# The page can load nothing from anywhere else, whatever it or a preview asks for.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:"
)
# How the reader finds it the first time: left to right and as large as it gets, so without the list of names, the map
# and the layers, which stretch it. Its style sheet names a font for text that it does not define.
_FIRST_VIEW = {
    "orientation": "horizontal",
    "showFeatureHints": False,
    "layer": {"visible": False},
    "visible": {"sidebar": False, "miniMap": False},
}
_HEAD = f"""<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<style>:root {{--font-stack-monospace: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace}}</style>
<script>localStorage.KedroViz ??= '{json.dumps(_FIRST_VIEW)}'</script>
"""


class _Folder(BaseDeployer):
    """Writes the site into a folder, its page mended."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path, self._fs = folder, fsspec.filesystem("file")

    def deploy(self, is_all_previews_enabled: bool = True) -> None:
        super().deploy(is_all_previews_enabled)
        # The page asks for it and Kedro-Viz forgets it.
        metadata = MetadataAPIResponse.model_validate(get_metadata_response(), from_attributes=True)
        write_api_response_to_fs(f"{self._path}/api/metadata", metadata, self._fs)
        for name in ("telemetry.html", "autoreload.html"):
            (self._path / name).unlink(missing_ok=True)

    def _ingest_heap_analytics(self) -> None:
        """Add nothing that counts visitors."""
        page = self._path / "index.html"
        page.write_text(mended(page.read_text(encoding="utf-8")), encoding="utf-8")


def mended(page: str) -> str:
    """Kedro-Viz's page without what it loads from elsewhere, and with the graph from left to right."""
    return _ELSEWHERE.sub("", page).replace("<head>", f"<head>\n{_HEAD}", 1)


def build_site(root: Path, env: str | None, output: Path) -> None:
    """Write the site, in place of an earlier one.

    Args:
        root: The project.
        env: The environment; None for the default one.
        output: The site's folder.

    Raises:
        ClickException: There is something else.
    """
    if output.exists() and not (output / MARKER).is_file():
        raise click.ClickException(f"'{output}' is no site of Kedro-Viz and is not replaced: give another --output.")
    catalog, pipelines, _ = load_data(root, env, package_name=PACKAGE_NAME)
    data_access_manager.reset_fields()
    populate_data(data_access_manager, catalog, pipelines, measured(catalog))
    with publish_in_place(output) as staged:
        _Folder(staged).deploy()


def measured(catalog: DataCatalog) -> dict[str, NodeExtras]:
    """Rows and sizes as they are; Kedro-Viz's own are those of the last run, whatever it was of, and of a folder."""
    found: dict[str, NodeExtras] = {}
    for name in catalog:
        dataset = catalog.get(name)
        told = origin(catalog, name, dataset) if isinstance(dataset, AtomicVersions) else {}
        sizes = {"rows": told.get("rows"), "file_size": told.get("bytes")}
        found[name] = NodeExtras(stats={key: value for key, value in sizes.items() if value is not None}, styles=None)
    return found
