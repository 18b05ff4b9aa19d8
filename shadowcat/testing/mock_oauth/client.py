"""A mock OAuth server in a process of its own, and the client of its control page."""

from __future__ import annotations

from typing import Any, ClassVar

from shadowcat.testing.mock_mcp.client import MockControl, MockProcess


class OAuthMockControl(MockControl):
    """Talks to a control page; see `control` for what it offers."""

    def requests(self, count: int = 0, timeout: float = 10.0, secrets: bool = False) -> list[dict[str, Any]]:
        """Return the records, waiting until at least `count` are there or `timeout` seconds passed.

        Args:
            count: How many to wait for.
            timeout: Seconds to wait.
            secrets: Show credentials, codes and tokens, too.
        """
        path = f"/requests?count={count}&timeout={timeout}&secrets={int(secrets)}"
        found: list[dict[str, Any]] = self._call("GET", path)["requests"]
        return found

    def add_lie(self, endpoint: str, **fields: Any) -> None:
        """Put a lie in force; the fields are those of `lies.Lie`."""
        self._call("POST", "/lies", {"endpoint": endpoint, **fields})

    def lies(self) -> list[dict[str, Any]]:
        """Return the lies in force with their counts."""
        rules: list[dict[str, Any]] = self._call("GET", "/lies")["lies"]
        return rules

    def clear_lies(self) -> None:
        """Drop all lies."""
        self._call("DELETE", "/lies")

    def signing_keys(self) -> list[dict[str, Any]]:
        """Return all keys, oldest first."""
        keys: list[dict[str, Any]] = self._call("GET", "/keys")["keys"]
        return keys

    def rotate(self, algorithm: str | None = None, *, publish: bool = True) -> str:
        """Make a signing key and return its kid."""
        kid: str = self._call("POST", "/keys/rotate", {"algorithm": algorithm, "publish": publish})["kid"]
        return kid

    def publish(self, kid: str) -> None:
        """Put a key into the key set."""
        self._call("POST", "/keys/publish", {"kid": kid})

    def withdraw(self, kid: str) -> None:
        """Take a key out of the key set; it signs no more."""
        self._call("POST", "/keys/withdraw", {"kid": kid})

    def set_clock(self, offset: float) -> None:
        """Put the server's clock this many seconds ahead of the machine's."""
        self._call("POST", "/clock", {"offset": offset})

    def set_user(
        self, subject: str, claims: dict[str, Any] | None = None, scopes: list[str] | None = None
    ) -> None:
        """Set a user's extra claims and allowed scopes (None: all)."""
        self._call("POST", "/users", {"subject": subject, "claims": claims or {}, "scopes": scopes})

    def add_client(self, **metadata: Any) -> dict[str, Any]:
        """Register a client and return it; the fields are those of `records.Client`."""
        return self._call("POST", "/clients", metadata)

    def mint(self, claims: dict[str, Any] | None = None, **how: Any) -> str:
        """Sign a token; see `mint.Mint.mint`."""
        token: str = self._call("POST", "/mint", {"claims": claims or {}, **how})["token"]
        return token

    def tokens(self) -> list[dict[str, Any]]:
        """Return what was issued: claims, grant type and whether it is good, without the tokens."""
        tokens: list[dict[str, Any]] = self._call("GET", "/tokens")["tokens"]
        return tokens

    def revoke_all(self) -> None:
        """Revoke everything that was issued."""
        self._call("DELETE", "/tokens")


class OAuthMockProcess(MockProcess):
    """`shadowcat mock oauth` as a child process; it ends with this object, and with this process.

    Args:
        arguments: Further command line arguments, such as "--opaque".
        certificate: For a server that speaks TLS: PEM file with the certificate to trust.
    """

    kind: ClassVar[str] = "oauth"
    control: OAuthMockControl

    def __init__(self, *arguments: str, certificate: str | None = None) -> None:
        super().__init__(*arguments)
        self.issuer = self.url
        self.control = OAuthMockControl(self.control_url, certificate=certificate)
