"""What hides tools, lists with and without those, and what is said of a tool that is hidden."""

from __future__ import annotations

from typing import Any, Final

from shadowcat.config.model import Policy, Tools
from shadowcat.proxy.observers.observe import Observation

from .stage import message

POLICY: Final = Policy(tools=Tools(deny=["delete_*", "drop"]))


def unknown(name: str, *, is_modern: bool = False, id_: Any = 7) -> Any:
    """What SDK servers say."""
    members = {"content": [{"text": f"Unknown tool: {name}", "type": "text"}], "isError": True}
    if is_modern:
        members["resultType"] = "complete"
    return {"jsonrpc": "2.0", "id": id_, "result": members}


LIST = message("tools/list")
A, B = b'{"name":"a","n":1.50}', b'{ "inputSchema":{"name":"drop"}, "name" : "b\\u00e9" }'
HIDDEN = b'{"name":"delete_all"}', b'{"name":"drop"}'
BOTH = b'"ttlMs":1e3,"nextCursor":"c","x":{"tools":[%b]}' % HIDDEN[0]


def listed(*tools: bytes, more: bytes = BOTH, first: bytes = b"") -> bytes:
    return b'{"jsonrpc":"2.0", "id":7,"result":{%b"tools":[%b],%b}}' % (first, b",".join(tools), more)


FULL = listed(HIDDEN[0], A, HIDDEN[1], B)
LEFT = listed(A, B)
PRIVATE = listed(A, B, first=b'"cacheScope":"private",')
EVENT = b"id: 3/4\r\nevent: message\r\ndata: %b\r\n\r\n"
NOTE = b'data: {"method":"notifications/tools/list_changed"}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nX-Other: y\r\n%b\r\n"
JSON, SSE = b"application/json", b"text/event-stream"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Notebook:
    """Notes what is told about requests."""

    def __init__(self) -> None:
        self.told: list[Observation] = []

    def observe(self, observation: Observation) -> None:
        self.told.append(observation)

    def tick(self) -> None: ...

    def reopen(self) -> None: ...

    def close(self) -> None: ...
