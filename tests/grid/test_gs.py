"""The copytool gs with an imitation of Google Cloud Storage and Google's own library."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilot.util.helper import HelperPool
from tests.grid.adapters import SMALL, GsStore, move
from tests.grid.conformance import (
    PATIENCE,
    Aborts,
    Downloads,
    LostServer,
    Races,
    Running,
    Uploads,
)
from tests.grid.gate import Deaf
from tests.grid.testbed.gcs import Gcs

pytest.importorskip("google.cloud.storage")


class TestGs(Downloads, Uploads, Races, Aborts, LostServer):
    """gs:// without a login."""

    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool, gcs: Gcs) -> GsStore:
        return GsStore(tmp_path, helpers, gcs)

    # the imitation answers one request at a time: an upload that is held would hold everybody
    test_a_file_in_the_making_is_left_alone = None  # type: ignore[assignment]

    def test_one_that_hangs_does_not_cost_the_others(self, adapter: GsStore, deaf: Deaf) -> None:  # type: ignore[override]
        adapter.put("other", SMALL)
        hanging = Running(adapter.tool(), adapter.download("input", url=adapter.url_for("input", deaf.port)))
        assert deaf.heard.wait(PATIENCE)
        move(adapter.tool(), adapter.download("other", SMALL))
        hanging.cancel()
        move(adapter.tool(), adapter.download("other", SMALL))
