"""Tools cut out of messages, and nothing else changed."""

from __future__ import annotations

import json

import pytest

from shadowcat.mcp.tool_lists import MAX_LIST, ListError, filter_message, may_list


def shows(name: str) -> bool:
    return not name.startswith("d")


def cut(text: bytes, *, is_private: bool = False) -> bytes:
    return filter_message(text, shows, is_private=is_private)


def listed(*tools: str, more: str = "") -> bytes:
    return ('{"jsonrpc":"2.0","id":7,"result":{"tools":[' + ",".join(tools) + "]" + more + "}}").encode()


A = '{"name":"a","n":1.50,"x":{"name":"d"}}'
B = '{ "b" : [1e400, {}], "name" : "b" }'
D = '{"inputSchema":{"name":"a"},"name":"d"}'


@pytest.mark.parametrize(
    ("tools", "left"),
    [
        ([A, D, B], [A, B]),
        ([D], []),
        ([D, D, A], [A]),
        ([A, D], [A]),
        # Of which it is not known what a client makes.
        ([A, '{"name":"a","name":"d"}', '{"name":"d","name":"a"}'], [A]),
        ([A, "{}", '"d"', "[]", '{"name":5}', '{"name":null}', '{"title":"a"}', '[["name","a"]]'], [A]),
        ([A, r'{"name":"\u0064"}', r'{"n\u0061me":"d"}'], [A]),
    ],
)
def test_what_is_left(tools: list[str], left: list[str]) -> None:
    assert cut(listed(*tools)) == listed(*left)


def test_everything_else_stays_as_it_is_spelled() -> None:
    before = b' {\n"id" : 1.0e2 ,"unknown":{"tools":[{"name":"d"}]},"result": {"nextCursor" : "d", "tools" :'
    after = b', "ttlMs":1.0,"_meta":{"tools":["d"],"\\u00e9":"\xc3\xa9\\ud83d"} } , "jsonrpc":"2.0"}\r\n'
    text = before + f"[ {A} , {D},\n{B} ]".encode() + after
    assert cut(text) == before + f"[{A},{B}]".encode() + after


@pytest.mark.parametrize(
    "text",
    [
        listed(A, B),
        listed(),
        listed("[]").replace(b"[[]]", b"null"),
        listed("{}").replace(b"[{}]", b'{"name":"d"}'),
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"\\"tools\\"","data":{"tools":[%b]}}}'
        % D.encode(),
        b'{"method":"x","params":{"tools":[%b]}}' % D.encode(),
        b'{"result":["tools",%b]}' % D.encode(),
        b'{"id":7,"result":{"structuredContent":{"tools":[%b]}}}' % D.encode(),
        b'"tools"',
        b'["tools",1,[]]',
        b"{} trailing garbage that holds no list",
        b"\xff",
        b"",
    ],
)
def test_what_holds_no_hidden_tool_is_not_touched(text: bytes) -> None:
    assert cut(text) is text


def test_all_lists_of_a_text() -> None:
    one = listed(A, D)
    text = b"[ %b ,1, %b]" % (one, one)
    assert cut(text) == b"[ %b ,1, %b]" % (listed(A), listed(A))
    twice = b'{"result":{"tools":[%b],"tools":[%b,%b]},"result":{"tools":[%b]}}' % (
        D.encode(), A.encode(), D.encode(), D.encode(),
    )  # fmt: skip
    assert cut(twice) == b'{"result":{"tools":[],"tools":[%b]},"result":{"tools":[]}}' % A.encode()
    assert cut(b'{"result":{"t\\u006Fols":[%b]}}' % D.encode()) == b'{"result":{"t\\u006Fols":[]}}'


@pytest.mark.parametrize("tools", [[A], [A, D], []])
@pytest.mark.parametrize(
    ("more", "marked"),
    [
        ("", None),
        (',"cacheScope":"public","ttlMs":5', ',"cacheScope":"private","ttlMs":5'),
        (',"cacheScope":"private"', ',"cacheScope":"private"'),
        (',"cacheScope":null', ',"cacheScope":"private"'),
        (',"cacheScope":"public","cacheScope":"private"', ',"cacheScope":"private","cacheScope":"private"'),
    ],
)
def test_a_modern_list_is_marked_as_private(tools: list[str], more: str, marked: str | None) -> None:
    left = listed(*(tool for tool in tools if tool != D), more=more if marked is None else marked)
    if marked is None:
        left = left.replace(b'"result":{', b'"result":{"cacheScope":"private",')
    assert cut(listed(*tools, more=more), is_private=True) == left
    assert b"private" in left


def test_only_a_list_is_marked() -> None:
    text = b'{"result":{"cacheScope":"public","resources":[],"_meta":{"tools":[]}}}'
    assert cut(text, is_private=True) is text


@pytest.mark.parametrize(
    "text",
    [
        listed(A)[:-1],
        listed(A) + b"x",
        listed(A) + listed(A),
        listed(A).replace(b",", b"", 1),
        listed(A).replace(b":", b"", 1),
        listed(A).replace(b"}]", b"},]"),
        listed("NaN"),
        listed('{"name":01}'),
        listed('{"name":"a\n"}'),
        listed('{"name":"\\x"}'),
        b"\xef\xbb\xbf" + listed(A),
        b'{"tools":"\xff"}',
        listed(A).decode().encode("utf-16"),
        listed("[" * 100_000 + "]" * 100_000),
        b'{"tools"',
        b'{"result":{"tools"',
        b'{"result":{"tools":[',
        b'{"result":{"tools":[]',
        b"<html>\"tools\"",
        b'{5:"tools"}',
        listed(A, '"%s"' % ("x" * MAX_LIST)),
    ],
)  # fmt: skip
def test_what_cannot_be_read_does_not_pass(text: bytes) -> None:
    with pytest.raises(ListError):
        cut(text)


def test_a_lone_surrogate_in_a_name_is_what_a_call_has() -> None:
    seen: list[str] = []

    def note(name: str) -> bool:
        seen.append(name)
        return True

    filter_message(listed(r'{"name":"x\ud83d"}', r'{"name":"\ud83d\ude00"}'), note, is_private=False)
    assert seen == ["x\ufffd", "\U0001f600"]


def test_what_may_be_a_list() -> None:
    assert not may_list(b'{"result":{"content":[{"text":"all my tools: \\u00e9 \\"tools\\""}]}}')
    assert may_list(json.dumps({"result": {"tools": []}}).encode())
    assert may_list(b'"\\u0074\\u006f\\u006F\\u006c\\u0073"')
