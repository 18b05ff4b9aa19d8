import pytest

from shadowcat.policy.inspect import has_foreign_charset


@pytest.mark.parametrize(
    "value",
    [
        b"application/json",
        b"application/json; charset=utf-8",
        b'application/json;charset="UTF-8"',
        b"text/plain",
    ],
)
def test_utf8_is_no_foreign_charset(value: bytes) -> None:
    assert not has_foreign_charset([value])


@pytest.mark.parametrize(
    "value",
    [b"application/json; charset=utf-7", b'application/json; a=b; Charset = "utf-16"', b"text/json;charset="],
)
def test_other_charsets_are_foreign(value: bytes) -> None:
    assert has_foreign_charset([value])
    assert has_foreign_charset([b"application/json", value])
