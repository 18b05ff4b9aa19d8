from __future__ import annotations

import base64

import pytest

from shadowcat.shm.sessions import ids

KEY = b"\xfb\xef\xff" * 6


@pytest.mark.parametrize("slot", [0, 1, 0xABCDEF, 2**20 - 1, 2**24 - 1])
def test_an_id_is_base64url_of_slot_and_key(slot: int) -> None:
    session_id = ids.encode(slot, KEY)
    assert session_id == base64.urlsafe_b64encode(slot.to_bytes(3, "big") + KEY)
    assert len(session_id) == ids.ID_CHARS
    assert ids.decode(session_id) == (slot, KEY)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + b"A",
        lambda text: text[:-1] + b"=",
        lambda text: b"\xff" + text[1:],
        lambda text: text[:-1] + b"\n",
        lambda text: text.replace(b"_", b"/"),
        lambda text: text.replace(b"-", b"+"),
        lambda text: text + b"\n",
        lambda text: text + b"====",
        lambda text: text[:4] + b" " + text[5:],
        lambda _: b"",
    ],
)
def test_an_id_has_one_spelling(spoil) -> None:
    session_id = ids.encode(5, KEY)
    assert b"_" in session_id
    assert b"-" in session_id
    assert ids.decode(spoil(session_id)) is None


def test_a_handle_names_the_slot_and_nothing_that_opens_it() -> None:
    session_id = ids.encode(0x1F, KEY)
    handle = ids.handle(0x1F, session_id)
    assert handle.startswith("1f-")
    assert ids.handle_slot(handle) == 0x1F
    assert session_id.decode() not in handle
    for bad in ("", "1f", "-0123456789abcdef", "1f-123", "xy-0123456789abcdef", "+1-0123456789abcdef"):
        assert ids.handle_slot(bad) is None
