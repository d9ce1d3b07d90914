import pytest
from tests.pocket_models import PocketWorld, build_pocket_models


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> PocketWorld:
    folder = tmp_path_factory.getbasetemp() / "pocket_models"
    return PocketWorld.make(folder if folder.exists() else build_pocket_models(folder))
