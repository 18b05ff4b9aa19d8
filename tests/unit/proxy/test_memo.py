from __future__ import annotations

import pytest

from shadowcat.http1.memo import Cut, Cutter, Entry, Memo, Recall

LIMIT = 32 * 1024
CUTTER = Cutter((b"traceparent", b"mcp-name"))
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"


def head(*lines: bytes) -> bytes:
    return b"POST /mcp HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in (b"Host: x", *lines)) + b"\r\n"


def cut(data: bytes) -> Cut:
    found = CUTTER.cut(data)
    assert found is not None
    return found


def entry(data: bytes) -> Entry[str]:
    return cut(data).entry("verdict")


def recall_of(known: bytes, limit: int = LIMIT) -> Recall[str]:
    recall: Recall[str] = Recall(limit, Memo(10, 10_000))
    keep(recall, known)
    return recall


def keep(recall: Recall[str], known: bytes) -> None:
    recall.keep(entry(known), cut(known), known)


def match(data: bytes, known: bytes, limit: int = LIMIT) -> tuple[tuple[bytes, ...], int, int] | None:
    """Compare `data` with a connection's last head, `known`."""
    recall = recall_of(known, limit)
    if not recall.match(data):
        return None
    assert recall.verdict == "verdict"
    return recall.values, recall.length, recall.end


# Cutting.


def test_what_is_cut_out_and_what_is_kept_make_up_the_head() -> None:
    data = head(b"Content-Length: 12", b"Mcp-Name: echo", b"Accept: */*", b"traceparent: " + TRACE)
    found = cut(data)
    assert found.values == (b"echo", TRACE)
    assert found.names() == [b"mcp-name", b"traceparent"]
    assert found.length_at == 0
    pieces = [b"12", *found.values]
    rebuilt = found.literals[0]
    for value, literal in zip(pieces, found.literals[1:], strict=True):
        rebuilt += value + literal
    assert rebuilt == data


def test_content_length_may_stand_anywhere() -> None:
    data = head(b"Mcp-Name: echo", b"content-length: 0", b"Traceparent: " + TRACE)
    found = cut(data)
    assert found.length_at == 1
    assert found.values == (b"echo", TRACE)
    assert found.names() == [b"mcp-name", b"traceparent"]


def test_a_head_without_varying_lines_is_one_literal() -> None:
    data = head(b"Accept: */*")
    assert cut(data).literals == (data,)
    assert cut(data).length_at == -1
    assert cut(data).values == ()
    assert cut(data).names() == []


def test_the_request_line_is_never_cut() -> None:
    data = b"GET /Content-Length:%20 HTTP/1.1\r\nHost: x\r\n\r\n"
    assert cut(data).literals == (data,)


@pytest.mark.parametrize(
    "digits", [b"", b"+5", b"-0", b"05", b"00", b" 5", b"5 ", b"5,5", b"0x5", b"12345678901", b"\xb2", b"5_0"]
)
def test_a_content_length_that_is_not_plain_digits_is_not_cut(digits: bytes) -> None:
    assert CUTTER.cut(head(b"Content-Length: " + digits)) is None


@pytest.mark.parametrize(
    "value", [b"", b" a", b"a ", b"\ta", b"a\t", b"a\tb", b"\x00", b"a\x7f", b"\xe9", b"a\nb", b"x" * 1025]
)
def test_a_varying_value_that_is_not_plain_is_not_cut(value: bytes) -> None:
    assert CUTTER.cut(head(b"traceparent: " + value)) is None


# Matching.


def test_a_match_gives_values_length_and_end() -> None:
    known = head(b"Mcp-Name: a", b"Content-Length: 1", b"traceparent: b")
    data = head(b"Mcp-Name: echo it", b"Content-Length: 1234567890", b"traceparent: " + TRACE)
    assert match(data + b"body", known) == ((b"echo it", TRACE), 1234567890, len(data))


def test_without_content_length_the_length_is_zero() -> None:
    data = head(b"Accept: */*")
    assert match(data, data) == ((), 0, len(data))


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"+5", b"-5", b"-0", b"05", b"00", b"5 ", b" 5", b"5\t", b"5,5", b"5, 5", b"0x5", b"5e0", b"5.0",
        b"12345678901", b"99999999999999999999", b"\xb2", b"\xd9\xa5", b"5\n", b"5\n6", b"5\x00", b"1_0",
        b"5\r", b"5\rContent-Length: 6",
    ],
)  # fmt: skip
@pytest.mark.parametrize("others", [(), (b"traceparent: a",)])
def test_a_bad_content_length_right_after_its_good_twin(bad: bytes, others: tuple[bytes, ...]) -> None:
    good = head(b"Content-Length: 5", *others)
    assert match(good, good) is not None
    assert match(head(b"Content-Length: " + bad, *others), good) is None


@pytest.mark.parametrize(
    "bad",
    [b"", b" a", b"a ", b"\ta", b"a\t", b"a\x00b", b"a\x7f", b"\xe9t\xe9", b"a\nb", b"a\nX: y", b"x" * 1025],
)
@pytest.mark.parametrize("others", [(), (b"Content-Length: 5",)])
def test_values_that_the_reading_would_treat_otherwise_never_match(
    bad: bytes, others: tuple[bytes, ...]
) -> None:
    known = head(b"traceparent: a", *others)
    assert match(head(b"traceparent: b", *others), known) is not None
    assert match(head(b"traceparent: " + bad, *others), known) is None


@pytest.mark.parametrize(
    "other",
    [
        head(b"Mcp-Name: a", b"X: 1", b"Content-Length: 5"),
        head(b"Mcp-Name: a", b"Content-Length: 5", b"X: 1"),
        head(b"mcp-name: a", b"Content-Length: 5"),
        head(b"Mcp-Name: a", b"Content-length: 5"),
        head(b"Content-Length: 5", b"Mcp-Name: a"),
        head(b"Mcp-Name: a", b"Content-Length: 5", b"Content-Length: 5"),
        head(b"Mcp-Name: a", b"Mcp-Name: a", b"Content-Length: 5"),
        head(b"Mcp-Name: a"),
        head(b"Content-Length: 5"),
    ],
)
def test_another_head_does_not_match(other: bytes) -> None:
    assert match(other, head(b"Mcp-Name: a", b"Content-Length: 5")) is None


def test_no_part_of_a_head_matches() -> None:
    data = head(b"Mcp-Name: a", b"Content-Length: 5", b"traceparent: b")
    for end in range(len(data)):
        assert match(data[:end], data) is None


@pytest.mark.parametrize("lines", [(b"Content-Length: 5",), (b"traceparent: b", b"Content-Length: 5")])
def test_a_head_beyond_the_limit_does_not_match(lines: tuple[bytes, ...]) -> None:
    data = head(b"Accept: */*", *lines)
    longer = data.replace(b"Length: 5", b"Length: 50")
    assert match(longer, data, len(longer)) is not None
    assert match(longer, data, len(data)) is None


def test_a_recall_knows_only_the_last_head() -> None:
    one, two = head(b"X: 1"), head(b"X: 2")
    recall: Recall[str] = Recall(LIMIT, Memo(10, 10_000))
    assert not recall.match(one)
    keep(recall, one)
    keep(recall, two)
    assert recall.match(two)
    assert not recall.match(one)
    recall.forget()
    assert not recall.match(two)


def test_a_failed_match_changes_nothing() -> None:
    known = head(b"traceparent: a", b"Content-Length: 5")
    recall = recall_of(known)
    assert not recall.match(head(b"traceparent: bbb", b"Content-Length: 05"))
    assert recall.match(known)
    assert (recall.values, recall.length, recall.end) == ((b"a",), 5, len(known))


def test_each_match_describes_its_own_head() -> None:
    recall = recall_of(head(b"traceparent: a", b"Content-Length: 5"))
    for value, length in ((b"bb", 7), (b"a", 7), (b"a", 70), (b"ccc", 0), (b"ccc", 0)):
        data = head(b"traceparent: " + value, b"Content-Length: %d" % length)
        assert recall.match(data + b"body")
        assert (recall.values, recall.length, recall.end) == ((value,), length, len(data))


def shared(*heads: bytes) -> Memo[str]:
    memo: Memo[str] = Memo(10, 10_000)
    for data in heads * 2:
        memo.admit(entry(data))
    return memo


def test_a_head_of_the_memo_matches_where_it_looks_like_the_last_one() -> None:
    first, second = (head(b"Token: %d" % number, b"Content-Length: 5", b"Mcp-Name: a") for number in (1, 2))
    recall: Recall[str] = Recall(LIMIT, shared(second))
    keep(recall, first)
    for known in (second, first):
        keep(recall, first)
        for length, name in ((5, b"a"), (77, b"a"), (77, b"bb"), (5, b"bb"), (5, b"cc")):
            data = known.replace(b"5", b"%d" % length).replace(b" a", b" " + name)
            assert recall.match(data + b"body")
            assert (recall.values, recall.length, recall.end) == ((name,), length, len(data))
    assert not recall.match(head(b"Token: 3", b"Content-Length: 5", b"Mcp-Name: a"))


def test_content_length_is_never_looked_for_in_another_field_of_the_same_size() -> None:
    one = head(b"A: 1", b"Content-Length: 15", b"B: 1234567", b"Mcp-Name: 25")
    two = head(b"A: 1234567", b"Mcp-Name: 35", b"B: 1", b"Content-Length: 45")
    assert [len(piece) for piece in cut(one).literals] == [len(piece) for piece in cut(two).literals]
    for known, other in ((one, two), (two, one)):
        recall: Recall[str] = Recall(LIMIT, shared(one, two))
        keep(recall, other)
        keep(recall, known)
        for data in (other, known):
            if recall.match(data):
                assert (recall.values, recall.length) == (cut(data).values, cut(data).length)
            assert not recall.match(data.replace(b"Length: %d" % cut(data).length, b"Length: 05"))


def test_a_length_does_not_outlive_a_head_without_one() -> None:
    post = head(b"Token: 1", b"Content-Length: 5")
    get = head(b"Token: 2")
    recall: Recall[str] = Recall(LIMIT, shared(post, get))
    keep(recall, get)
    keep(recall, post)
    for data, length in ((post, 5), (get, 0)) * 3:
        assert recall.match(data)
        assert recall.length == length


def test_shapes_are_bounded() -> None:
    recall = recall_of(head(b"Mcp-Name: a", b"traceparent: b"))
    for number in range(1, 40):
        for other in range(1, 40):
            name, trace = b"n" * number, b"t" * other
            assert recall.match(head(b"Mcp-Name: " + name, b"traceparent: " + trace))
            assert recall.values == (name, trace)


def test_keys_are_not_concatenated() -> None:
    # The same bytes remain once the values are taken out, but they stand on different sides of the gap.
    one = head(b"X: 1", b"Content-Length: 5", b"Y: 2")
    two = head(b"X: 1", b"Y: 2", b"Content-Length: 5")
    assert cut(one).literals != cut(two).literals
    memo: Memo[str] = Memo(10, 10_000)
    memo.admit(entry(one))
    memo.admit(entry(one))
    assert memo.get(cut(one).literals) is not None
    assert memo.get(cut(two).literals) is None


def test_a_value_cannot_supply_a_line() -> None:
    plain = head(b"traceparent: a", b"X: 1")
    sly = head(b"traceparent: a\r\nX: 1\r\nX: 1")
    assert match(sly, plain) is None


# Remembering.


def numbered(number: int, size: int = 10) -> Entry[int]:
    return Entry((b"%0*d" % (size, number),), -1, number)


def test_a_head_is_admitted_on_second_sight() -> None:
    memo: Memo[int] = Memo(10, 1000)
    assert not memo.admit(numbered(1))
    assert memo.get(numbered(1).literals) is None
    first = numbered(1)
    assert memo.admit(first)
    assert memo.get(first.literals) is first
    assert len(memo) == 1


def test_what_is_used_survives_rotations_and_what_is_idle_does_not() -> None:
    memo: Memo[int] = Memo(10, 1000)
    for number in (1, 2):
        memo.admit(numbered(number))
        memo.admit(numbered(number))
    for _ in range(5):
        memo.rotate()
        assert memo.get(numbered(1).literals) is not None
    assert memo.get(numbered(2).literals) is None
    memo.rotate()
    memo.rotate()
    assert memo.get(numbered(1).literals) is None
    assert len(memo) == 0


def test_a_rotation_forgets_first_sights() -> None:
    memo: Memo[int] = Memo(10, 1000)
    memo.admit(numbered(1))
    memo.rotate()
    assert not memo.admit(numbered(1))


def test_entries_are_bounded() -> None:
    memo: Memo[int] = Memo(8, 1_000_000)
    for number in range(100):
        memo.admit(numbered(number))
        memo.admit(numbered(number))
        assert len(memo) <= 16
    assert memo.get(numbered(99).literals) is not None
    assert memo.get(numbered(0).literals) is None


def test_bytes_are_bounded() -> None:
    memo: Memo[int] = Memo(1000, 1000)
    for number in range(100):
        memo.admit(numbered(number, size=100))
        memo.admit(numbered(number, size=100))
        assert len(memo) <= 20
    assert memo.get(numbered(99, size=100).literals) is not None


def test_first_sights_are_bounded() -> None:
    memo: Memo[int] = Memo(8, 1000)
    for number in range(1000):  # A flood of heads that come once only.
        memo.admit(numbered(number))
    assert len(memo) == 0
    assert not memo.admit(numbered(0))


def test_a_hit_keeps_an_entry_young() -> None:
    memo: Memo[int] = Memo(4, 1_000_000)
    memo.admit(numbered(0))
    memo.admit(numbered(0))
    for number in range(1, 40):
        memo.admit(numbered(number))
        memo.admit(numbered(number))
        assert memo.get(numbered(0).literals) is not None
