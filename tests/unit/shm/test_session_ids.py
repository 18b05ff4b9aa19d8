from __future__ import annotations

import base64

import pytest

from shadowcat.shm.sessions import ids

RANDOM = b"\xfb\xef\xff" * 6
KEY = base64.urlsafe_b64encode(RANDOM)


@pytest.mark.parametrize("slot", [0, 1, 0xABCDEF, 2**20 - 1, 2**24 - 1])
def test_an_id_is_base64url_of_slot_and_key(slot: int) -> None:
    session_id = ids.encode(slot, KEY)
    assert session_id == base64.urlsafe_b64encode(slot.to_bytes(3, "big") + RANDOM)
    assert len(session_id) == ids.ID_CHARS
    assert ids.slot_of(session_id[: ids.PREFIX_CHARS]) == slot
    assert session_id[ids.PREFIX_CHARS :] == KEY


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    "character", [b"+", b"/", b"=", b" ", b"\n", b"\x00", b"\xff", b"@", b"[", b"`", b"{"]
)
def test_what_is_not_in_the_alphabet_names_no_slot(character: bytes, place: int) -> None:
    for good in (b"AAAA", b"____"):
        assert ids.slot_of(good) >= 0
        assert ids.slot_of(good[:place] + character + good[place + 1 :]) < 0


def test_keys_are_drawn_many_at_a_time_and_each_once() -> None:
    calls = []

    def urandom(count: int) -> bytes:
        calls.append(count)
        return b"".join((len(calls) * 1000 + at).to_bytes(18, "big") for at in range(count // 18))

    keys = ids.Keys(urandom)
    drawn = [keys.draw() for _ in range(130)]
    assert len(set(drawn)) == 130
    assert {len(base64.urlsafe_b64decode(key)) for key in drawn} == {ids.KEY_BYTES}
    assert len(calls) == 3


def test_a_handle_names_the_slot_and_nothing_that_opens_it() -> None:
    session_id = ids.encode(0x1F, KEY)
    handle = ids.handle(0x1F, session_id)
    assert handle.startswith("1f-")
    assert ids.handle_slot(handle) == 0x1F
    assert session_id.decode() not in handle
    for bad in ("", "1f", "-0123456789abcdef", "1f-123", "xy-0123456789abcdef", "+1-0123456789abcdef"):
        assert ids.handle_slot(bad) is None
