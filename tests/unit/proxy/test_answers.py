from __future__ import annotations

import http.client
import io
import json

import pytest

from shadowcat.errors import Refusal
from shadowcat.mcp.eras import Era
from shadowcat.proxy.clients.answers import answer
from shadowcat.proxy.clients.denial import Denial


class Socket(io.BytesIO):
    def makefile(self, *_: object) -> Socket:  # type: ignore[override]
        return self


def parse(message: bytes, method: str = "POST") -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(Socket(message), method=method)  # type: ignore[arg-type]
    response.begin()
    return response, response.read()


@pytest.mark.parametrize("refusal", list(Refusal))
@pytest.mark.parametrize("era", list(Era))
def test_every_refusal_is_a_json_rpc_error_with_its_status(refusal: Refusal, era: Era) -> None:
    response, body = parse(answer(Denial(refusal), era, b'"id-7"', close=False))
    assert response.status == refusal.status
    assert response.getheader("Content-Type") == "application/json"
    assert response.getheader("Content-Length") == str(len(body))
    assert response.getheader("Connection") is None
    message = json.loads(body)
    assert message["id"] == "id-7"
    assert message["error"]["code"] == (refusal.modern_code if era is Era.MODERN else refusal.code)
    assert refusal.message in message["error"]["message"]
    assert not -32019 <= message["error"]["code"] <= -32000


def test_an_unknown_id_is_null_or_absent_by_era() -> None:
    legacy = json.loads(parse(answer(Denial(Refusal.RESET), Era.LEGACY, None, close=False))[1])
    modern = json.loads(parse(answer(Denial(Refusal.RESET), Era.MODERN, None, close=False))[1])
    assert legacy["id"] is None
    assert "id" not in modern


def test_the_detail_is_told() -> None:
    _, body = parse(
        answer(Denial(Refusal.CONNECT_FAILED, detail="upstream a"), Era.LEGACY, b"1", close=False)
    )
    assert json.loads(body)["error"]["message"].endswith(": upstream a")


def test_close_is_announced() -> None:
    assert (
        parse(answer(Denial(Refusal.RESET), Era.LEGACY, b"1", close=True))[0].getheader("Connection")
        == "close"
    )


def test_head_has_no_content_but_its_length() -> None:
    response, body = parse(answer(Denial(Refusal.METHOD), Era.LEGACY, None, close=False, head=True), "HEAD")
    assert body == b""
    assert int(response.getheader("Content-Length") or 0) > 0
    assert "POST" in (response.getheader("Allow") or "")


def test_who_cannot_be_served_now_is_told_when() -> None:
    response, body = parse(answer(Denial(Refusal.QUEUE_TIMEOUT), Era.LEGACY, b"1", close=False))
    assert int(response.getheader("Retry-After") or 0) >= 1
    assert json.loads(body)["error"]["data"]["retryAfterSeconds"] >= 1
