"""One Chromium for each module, and real nodes where they are asked for.

In between other tests have the thread's event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.chromium import Sitting, chromium, require_chromium
from tests.browser.nodes import Nodes, nodes

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    require_chromium()
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Real nodes and a dashboard."""
    with nodes(tmp_path_factory.mktemp("nodes")) as running:
        yield running


@pytest.fixture
def attached(world: Nodes) -> Iterator[str]:
    """A session for one test."""
    yield world.attach()
    world.leave()


@pytest.fixture
def sit(browser: Browser, world: Nodes) -> Iterator[Callable[..., Sitting]]:
    """Sit down at the browser; nothing on its console by the end."""
    sittings: list[Sitting] = []

    def sitting(**options: Any) -> Sitting:
        sittings.append(Sitting(browser, world.dashboards.url, **options))
        return sittings[-1]

    yield sitting
    for each in sittings:
        each.close()
    assert [complaint for each in sittings for complaint in each.complaints] == []
