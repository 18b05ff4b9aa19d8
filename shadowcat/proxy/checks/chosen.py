"""Which checks a route has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shadowcat.config import model
from shadowcat.config.rules import has_rules
from shadowcat.proxy.checks.hidden_tools import HiddenTools
from shadowcat.proxy.checks.policy import PolicyCheck

if TYPE_CHECKING:
    from shadowcat.proxy.checks import Check
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.route import Route


def checks_of(plane: DataPlane, route: Route, section: model.Route) -> Sequence[Check]:
    """Those that its section calls for, in the order of asking; made anew with each configuration, so that
    nothing is remembered of an older one.
    """
    checks: list[Check] = []
    if plane.audit is not None and plane.audit.room is not None:
        checks.append(plane.audit.room)
    if route.limits is not None:
        checks.append(route.limits)
    if route.tools.hides_any:
        checks.append(HiddenTools(route.tools))
    if has_rules(section):
        checks.append(PolicyCheck(plane, route, section))
    return tuple(checks)
