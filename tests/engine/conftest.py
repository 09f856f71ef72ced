"""What the tests of the engine share."""

import pytest

from yinggem.engine.library import open_library


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where no C compiler was, there is nothing to test but the sentence that says so."""
    if isinstance(reason := open_library(), str):
        for item in items:
            if "engine" in item.path.parts and "without" not in item.name:
                item.add_marker(pytest.mark.skip(reason=reason))
