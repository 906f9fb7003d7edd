from collections.abc import Iterator

import pytest
from interpreter import prepared_interpreter


@pytest.fixture(autouse=True, scope="session")
def interpreter() -> Iterator[None]:
    with prepared_interpreter():
        yield
