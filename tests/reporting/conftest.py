"""Pages that several tests look at, made once."""

import pytest
from tests.reporting.report_sources import EVIL, sources

from fisao_pipeline.reporting.report import report_page


@pytest.fixture(scope="session")
def plain_page() -> str:
    return report_page(sources())


@pytest.fixture(scope="session")
def hostile_page() -> str:
    """With markup in every text that comes from a user or a model."""
    return report_page(sources(EVIL))
