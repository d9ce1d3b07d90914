import pandas as pd
import pytest
import yaml

from fisao_pipeline.params.image_ingestion import ImageIngestionParams


@pytest.fixture
def make_params(request):
    base = yaml.safe_load((request.config.rootpath / "conf/base/parameters_image_ingestion.yml").read_text())
    return lambda **changes: ImageIngestionParams(**{**base["image_ingestion"], **changes})


@pytest.fixture
def nothing_refused():
    return pd.DataFrame({"kind": [], "name": [], "reason": []}, dtype="str")


@pytest.fixture(scope="session")
def make_params_of_session(request):
    base = yaml.safe_load((request.config.rootpath / "conf/base/parameters_image_ingestion.yml").read_text())
    return ImageIngestionParams(**{**base["image_ingestion"], "required_splits": []})
