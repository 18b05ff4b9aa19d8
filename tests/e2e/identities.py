"""An upstream that says in each answer for whom it took the request; it can hold many, and mix them up."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import socket
import threading
from typing import Any, Final, Self

import jwt

AUDIENCE: Final = "up"
SECRET: Final = "a secret that the upstream knows, too: 64 bytes, as HS512 wants."
CREDENTIAL: Final = {
    "assertion": {
        "secret": SECRET, "algorithm": "HS256", "issuer": "https://mcp.example", "audience": AUDIENCE,
    }
}  # fmt: skip
_SESSION: Final = "mcp-session-id"
_PATIENCE: Final = 30


class IdentityUpstream:
    """Takes the proxy's assertions; issues sessions, each to one subject, whom alone it expects in it.

    Every second answer is a stream, in chunks that end anywhere.
    """

    def __init__(self) -> None:
        self.crossed: list[tuple[str, str]] = []
        """Whose session it was, and who came."""
        self.served = 0
        self._owners: dict[str, str] = {}
        self._known: dict[str, str] = {}
        self._held: list[asyncio.Future[None]] = []
        self._hold = 0
        self._random = random.Random(6)
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/mcp"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def hold(self, count: int) -> None:
        """Answer nothing until so many requests are here; then all of them, in no order."""
        asyncio.run_coroutine_threadsafe(self._set(count), self._loop).result(_PATIENCE)

    async def _set(self, count: int) -> None:
        self._hold = count

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = dict(line.split(": ", 1) for line in head.rstrip().split("\r\n")[1:])
                fields = {name.lower(): value for name, value in fields.items()}
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                writer.write(await self._answer(fields, json.loads(body)))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _answer(self, fields: dict[str, str], message: dict[str, Any]) -> bytes:
        subject = self._subject(fields["authorization"].removeprefix("Bearer "))
        session = fields.get(_SESSION)
        if session is not None and self._owners[session] != subject:
            self.crossed.append((self._owners[session], subject))
        self.served += 1
        if "id" not in message:
            return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
        await self._turn()
        extra = ""
        if message["method"] == "initialize":
            session = secrets.token_hex(16)
            self._owners[session] = subject
            extra = f"Mcp-Session-Id: {session}\r\n"
            result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {}}
            result["serverInfo"] = {"name": subject, "version": "1"}
        else:
            result = {"for": subject, "text": message["params"]["arguments"]["text"]}
        text = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        return self._stream(text, extra) if self._random.random() < 0.5 else _object(text, extra)

    def _subject(self, assertion: str) -> str:
        if assertion not in self._known:
            claims = jwt.decode(assertion, SECRET, ["HS256"], audience=AUDIENCE)
            self._known[assertion] = claims["sub"]
        return self._known[assertion]

    async def _turn(self) -> None:
        if not self._hold:
            await asyncio.sleep(self._random.random() * 0.005)
            return
        mine = self._loop.create_future()
        self._held.append(mine)
        if len(self._held) == self._hold:
            held, self._held, self._hold = self._held, [], 0
            self._random.shuffle(held)
            for each in held:
                each.set_result(None)
        await mine

    def _stream(self, text: bytes, extra: str) -> bytes:
        event = b"event: message\r\ndata: " + text + b"\r\n\r\n"
        cut = self._random.randrange(1, len(event))
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (event[:cut], event[cut:]))
        head = (
            f"HTTP/1.1 200 OK\r\n{extra}Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        return head.encode() + chunks + b"0\r\n\r\n"


def _object(text: bytes, extra: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\n{extra}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text
