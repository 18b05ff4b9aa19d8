"""A browser that follows redirects, keeps cookies, and says where its requests come from."""

from __future__ import annotations

import http.client
from http.cookies import SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.e2e.harness import Shadowcat

PUBLIC = "https://mcp.example"
CALLBACK = f"{PUBLIC}/.shadowcat/callback"
LOGIN = "/.shadowcat/login"
LOGOUT = "/.shadowcat/logout"


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def location(self) -> str:
        """Where it leads."""
        return self.headers["Location"]


def fetch(address: tuple[str, int], method: str, target: str, body: bytes | None, **fields: str) -> Answer:
    """One request on a connection of its own; `_` in names of fields stands for `-`."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


class Browser:
    """One user's browser; it knows the proxy as https://mcp.example."""

    def __init__(self, cat: Shadowcat, subject: str | None = None) -> None:
        self.cat = cat
        self.subject = subject
        self.cookies: dict[str, str] = {}
        self.set: list[str] = []
        """The values of every Set-Cookie."""

    def ask(self, method: str, target: str, body: bytes | None = None, **fields: str) -> Answer:
        """Ask the proxy, as a page of its own origin does; fields that are empty are left out."""
        usual = {"Host": "mcp.example", "Sec_Fetch_Site": "same-origin"}
        if self.cookies:
            usual["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if body is not None:
            usual["Content_Type"] = "application/json"
        sent = {name: value for name, value in (usual | fields).items() if value}
        answer = fetch(self.cat.address, method, target, body, **sent)
        for text in answer.headers.get_all("Set-Cookie") or []:
            self.set.append(text)
            for name, morsel in SimpleCookie(text).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        return answer

    def begin(self, **parameters: str) -> str:
        """Start to log in; where the browser is sent."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        answer = self.ask("GET", f"{LOGIN}{query}", Sec_Fetch_Site="none")
        assert answer.status == 302, answer
        return answer.location

    def approve(self, url: str) -> str:
        """Approve at the issuer; where the browser is sent back to."""
        hint = f"&login_hint={self.subject}" if self.subject else ""
        parts = urlsplit(url)
        answer = fetch(
            (parts.hostname or "", parts.port or 80), "GET", f"{parts.path}?{parts.query}{hint}", None
        )
        assert answer.status == 302, answer
        return answer.location

    def come_back(self, url: str) -> Answer:
        """Go where the issuer has sent the browser."""
        assert url.startswith(f"{CALLBACK}?"), url
        return self.ask("GET", url.removeprefix(PUBLIC), Sec_Fetch_Site="cross-site")

    def log_in(self, **parameters: str) -> Answer:
        """The whole way."""
        return self.come_back(self.approve(self.begin(**parameters)))

    def post(self, body: bytes, path: str = "/mcp", **fields: str) -> Answer:
        """A message, with nothing but cookies to tell whose it is."""
        return self.ask("POST", path, body, Accept="application/json, text/event-stream", **fields)


def parameters(url: str) -> dict[str, str]:
    """What a URL's query says."""
    return dict(parse_qsl(urlsplit(url).query))


def without(url: str, *names: str, **others: Any) -> str:
    """A URL with some parameters gone, and others set."""
    found = {name: value for name, value in parameters(url).items() if name not in names} | others
    return f"{url.partition('?')[0]}?{urlencode(found)}"
