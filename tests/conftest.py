"""Settings for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A deadline per example measures the machine's other work as much as the code; so does the time that it takes
# to make examples.
settings.register_profile("shadowcat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shadowcat")


@pytest.fixture(scope="session", autouse=True)
def runtime_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Token files of supervisors that tests start, and kill, are not left among the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        patch.delenv("SHADOWCAT_ADMIN_TOKEN", raising=False)
        yield
