"""The methods that clients may send, of all revisions of MCP."""

from __future__ import annotations

from typing import Final

TOOLS_LIST: Final = "tools/list"
TOOLS_CALL: Final = "tools/call"
DISCOVER: Final = "server/discover"
LISTEN: Final = "subscriptions/listen"

REQUESTS: Final = (
    "initialize",
    "ping",
    DISCOVER,
    TOOLS_LIST,
    TOOLS_CALL,
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    LISTEN,
    "completion/complete",
    "logging/setLevel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "tasks/cancel",
)
"""Those that are answered."""

OWN_NOTIFICATIONS: Final = frozenset(
    {
        "notifications/initialized",
        "notifications/cancelled",
        "notifications/progress",
        "notifications/roots/list_changed",
        "notifications/elicitation/complete",
        "notifications/tasks/status",
    }
)
"""The protocol's own notifications: each belongs to something that was asked before."""

SUBJECTS: Final = {
    TOOLS_CALL: "tools",
    "prompts/get": "prompts",
    "resources/read": "resources",
    "resources/subscribe": "resources",
    "resources/unsubscribe": "resources",
    LISTEN: "resources",
}
"""Method -> what kind of thing its request is about, as capabilities call it."""
