import pytest
from factories import make_counter, write_model

from digitsum.storage.location import Location, locate


@pytest.fixture
def scores(tmp_path) -> Location:
    return locate(str(tmp_path / "scores"))


@pytest.fixture(scope="session")
def model_uri(tmp_path_factory) -> str:
    """Give a small counter of fresh weights, for images of 16x24 with at most 2 digits."""
    path = tmp_path_factory.mktemp("model") / "model"
    sizes = dict.fromkeys(("stem_channels", "body_channels", "row_channels"), 4)
    write_model(path, make_counter(column_channels=8, num_mixers=1, **sizes))
    return str(path)
