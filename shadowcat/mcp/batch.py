"""JSON-RPC batches, which only revision 2025-03-26 has (transports, "Sending Messages to the Server")."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import Envelope, Kind, peek

MAX_BATCH: Final = 100
"""Most messages in a batch."""

_EMPTY: Final = re.compile(r"[ \t\n\r]*\[[ \t\n\r]*\][ \t\n\r]*")
_FIRST: Final = re.compile(r"[ \t\n\r]*\[[ \t\n\r]*")
_NEXT: Final = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_LAST: Final = re.compile(r"[ \t\n\r]*\][ \t\n\r]*")
# The stdlib parser, because msgspec takes no lone surrogate. Numbers stay text: int() is quadratic in digits.
_decode: Final = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


def read_batch(body: bytes) -> list[Envelope] | Refusal:
    """Read the messages of a batch, each as strictly as a message that comes alone. Never raises.

    Args:
        body: what `peek` found to be a batch: it has vouched for UTF-8 and bounded the number of values.

    Returns:
        The envelopes in their order; or why the batch as a whole is refused.
    """
    try:
        elements = split_batch(body)
    except ValueError:
        return Refusal.NOT_JSON
    except RecursionError:
        return Refusal.TOO_DEEP
    if len(elements) > MAX_BATCH:
        return Refusal.BATCH
    envelopes = [peek(element) for element in elements]
    for envelope in envelopes:
        if envelope.fault is not None:
            return envelope.fault
        if envelope.kind is Kind.BATCH:
            return Refusal.NOT_A_MESSAGE
        # Only when `initialize` is over is it known that batches are allowed (lifecycle, "Initialization").
        if envelope.method == "initialize":
            return Refusal.BATCH
    if not envelopes:
        return Refusal.NOT_A_MESSAGE
    # Requests and notifications, or responses, says the revision. When the session is lost, a mixture could
    # neither be sent again (its responses are for the old server) nor dropped (its requests are not).
    if len({envelope.kind is Kind.RESPONSE for envelope in envelopes}) > 1:
        return Refusal.BATCH
    return envelopes


def kind_of(batch: Sequence[Envelope]) -> Kind:
    """Tell what a batch that `read_batch` accepted is as a whole: it asks if any of its messages does."""
    kinds = {envelope.kind for envelope in batch}
    return Kind.REQUEST if Kind.REQUEST in kinds else kinds.pop()


def split_batch(body: bytes) -> list[bytes]:
    """The elements of an array, as spelled; no more than one above the limit.

    Raises:
        ValueError: no array, or not JSON.
        RecursionError: nested too deep.
    """
    text = body.decode()
    elements: list[bytes] = []
    if _EMPTY.fullmatch(text):
        return elements
    delimiter = _FIRST.match(text)
    while delimiter is not None and len(elements) <= MAX_BATCH:
        start = delimiter.end()
        _, end = _decode(text, start)
        elements.append(text[start:end].encode())
        if _LAST.fullmatch(text, end):
            return elements
        delimiter = _NEXT.match(text, end)
    if delimiter is None:
        raise ValueError
    return elements
