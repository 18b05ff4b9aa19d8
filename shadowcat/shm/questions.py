"""What workers have to ask the control process: for keys they lack, what an issuer says of a token, logins.

Every worker has some desks. A desk holds one question at a time, and its answer:

    line    word    field           writer
    0       0       asked           worker: grows by one with each question
            1       question        worker: kind << 56 | checksum << 24 | bytes
            2-7     (unused)
    1       0       answered        control: `asked` of the question that it has answered
            1       answer          control: outcome << 56 | checksum << 24 | bytes
            2-7     (unused)
    2-              question        worker; wiped by control before it answers, as there may be a token in it
    ...             answer          control

A desk is free while `answered` is `asked`. So a worker that dies leaves desks that become free as soon as
they are answered, and a control process that takes another's place finds every question again. The checksum
tells a text that is not all there yet, which a machine that does not keep the order of stores may show.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from shadowcat.shm.region import LINE, WORD, Area, Plan, Region

DESKS: Final = 16
"""Of each worker: so many questions may be open at a time."""
QUESTION_LIMIT: Final = 10_240
"""Bytes: a token of 8 KiB, its issuer and its route."""
ANSWER_LIMIT: Final = 10_240
"""Bytes: a token of 8 KiB and its end, or what an issuer says of one."""
_LINE_WORDS: Final = LINE // WORD
_DESK: Final = 2 * LINE + QUESTION_LIMIT + ANSWER_LIMIT
_DESK_WORDS: Final = _DESK // WORD
_ASKED, _QUESTION = 0, 1
_ANSWERED, _ANSWER = _LINE_WORDS, _LINE_WORDS + 1
_LENGTH: Final = (1 << 24) - 1
_CHECKSUM_AT: Final = 24
_KIND_AT: Final = 56


class Ask(IntEnum):
    """What is asked."""

    KEYS = 1
    """That the keys of a source be fetched once more, from now on."""
    INTROSPECT = 2
    """What an issuer says of a token."""
    EXCHANGE = 3
    """A token for an upstream in exchange for a client's."""
    RENEW = 4
    """That the credential of an upstream, which does not accept it, be fetched early."""
    LOGIN = 5
    """Which token a browser's cookie stands for."""
    PAGE = 6
    """What a browser gets that logs in or out."""


class Outcome(IntEnum):
    """How it went."""

    DONE = 1
    UNAVAILABLE = 2
    """Whoever had to be asked did not answer as it should."""
    REFUSED = 3
    """Whoever was asked has said no, and would again."""


class Question(NamedTuple):
    """An open question, as control sees it."""

    worker: int
    """The slot of the worker."""
    desk: int
    number: int
    kind: Ask
    text: bytes


class Questions:
    """The desks of all workers."""

    __slots__ = ("_offset", "_region", "_words", "_workers")

    def __init__(self, region: Region, area: Area, workers: int) -> None:
        self._region = region
        self._offset = area.offset
        self._workers = workers
        self._words = region.words(area.offset, area.length // WORD)

    @staticmethod
    def plan(plan: Plan, workers: int) -> Area:
        """Set the memory aside for the desks of `workers` workers."""
        return plan.add(workers * DESKS * _DESK)

    # For a worker.

    def ask(self, worker: int, kind: Ask, text: bytes) -> int | None:
        """Put a question; tell control then.

        Returns:
            The desk; None if all are taken, or the text is longer than QUESTION_LIMIT.
        """
        if len(text) > QUESTION_LIMIT:
            return None
        for desk in range(DESKS):
            words = self._desk(worker, desk)
            if words[_ASKED] == words[_ANSWERED]:
                self._text(worker, desk, 0, len(text))[:] = text
                words[_QUESTION] = _describe(kind, text)
                words[_ASKED] += 1
                return desk
        return None

    def answer(self, worker: int, desk: int) -> tuple[Outcome, bytes] | None:
        """The answer to a desk's question; None if there is none yet."""
        words = self._desk(worker, desk)
        if words[_ASKED] != words[_ANSWERED]:
            return None
        word = words[_ANSWER]
        text = bytes(self._text(worker, desk, QUESTION_LIMIT, word & _LENGTH))
        outcome = Outcome(word >> _KIND_AT)
        return (outcome, text) if word == _describe(outcome, text) else None

    # For control.

    def open(self) -> Iterator[Question]:
        """All questions that are not answered."""
        for worker in range(self._workers):
            for desk in range(DESKS):
                words = self._desk(worker, desk)
                number, word = words[_ASKED], words[_QUESTION]
                if number == words[_ANSWERED]:
                    continue
                text = bytes(self._text(worker, desk, 0, min(word & _LENGTH, QUESTION_LIMIT)))
                kind = word >> _KIND_AT
                if kind in _KINDS and word == _describe(kind, text):
                    yield Question(worker, desk, number, Ask(kind), text)

    def reply(self, question: Question, outcome: Outcome, text: bytes = b"") -> None:
        """Answer a question; tell the worker then. A text that is too long is as good as none."""
        if len(text) > ANSWER_LIMIT:
            outcome, text = Outcome.UNAVAILABLE, b""
        words = self._desk(question.worker, question.desk)
        size = len(question.text)
        self._text(question.worker, question.desk, 0, size)[:] = bytes(size)
        self._text(question.worker, question.desk, QUESTION_LIMIT, len(text))[:] = text
        words[_ANSWER] = _describe(outcome, text)
        words[_ANSWERED] = question.number

    def _desk(self, worker: int, desk: int) -> memoryview:
        first = (worker * DESKS + desk) * _DESK_WORDS
        return self._words[first : first + 2 * _LINE_WORDS]

    def _text(self, worker: int, desk: int, offset: int, length: int) -> memoryview:
        start = self._offset + (worker * DESKS + desk) * _DESK + 2 * LINE + offset
        return self._region.view(start, length)


_KINDS: Final = frozenset(Ask)


def _describe(kind: int, text: bytes) -> int:
    return kind << _KIND_AT | zlib.crc32(text) << _CHECKSUM_AT | len(text)
