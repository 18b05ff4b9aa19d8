from __future__ import annotations

import os

from shadowcat.shm.questions import ANSWER_LIMIT, DESKS, QUESTION_LIMIT, Ask, Outcome, Question
from shadowcat.shm.shared import Shared
from tests.unit.shm.conftest import Fork

TEXT = b"who is this? " * 40


def asked(shared: Shared) -> list[Question]:
    return list(shared.questions.open())


def test_a_question_gets_its_answer(shared: Shared) -> None:
    questions = shared.questions
    desk = questions.ask(1, Ask.INTROSPECT, TEXT)
    assert desk is not None
    assert questions.answer(1, desk) is None
    (question,) = asked(shared)
    assert question == Question(1, desk, 1, Ask.INTROSPECT, TEXT)
    questions.reply(question, Outcome.DONE, b"nobody")
    assert questions.answer(1, desk) == (Outcome.DONE, b"nobody")
    assert asked(shared) == []


def test_desks_are_bounded_and_each_workers_own(shared: Shared) -> None:
    questions = shared.questions
    desks = [questions.ask(0, Ask.KEYS, b"%d" % number) for number in range(DESKS)]
    assert desks == list(range(DESKS))
    assert questions.ask(0, Ask.KEYS, b"one more") is None
    assert questions.ask(1, Ask.KEYS, b"mine") == 0
    questions.reply(asked(shared)[3], Outcome.UNAVAILABLE)
    assert questions.answer(0, 3) == (Outcome.UNAVAILABLE, b"")
    assert questions.ask(0, Ask.KEYS, b"one more") == 3


def test_what_is_too_long_is_not_asked_and_not_answered(shared: Shared) -> None:
    questions = shared.questions
    assert questions.ask(0, Ask.KEYS, bytes(QUESTION_LIMIT + 1)) is None
    desk = questions.ask(0, Ask.KEYS, bytes(QUESTION_LIMIT))
    assert desk is not None
    questions.reply(asked(shared)[0], Outcome.DONE, bytes(ANSWER_LIMIT + 1))
    assert questions.answer(0, desk) == (Outcome.UNAVAILABLE, b"")
    desk = questions.ask(0, Ask.KEYS, b"x")
    assert desk is not None
    questions.reply(asked(shared)[0], Outcome.DONE, b"y" * ANSWER_LIMIT)
    assert questions.answer(0, desk) == (Outcome.DONE, b"y" * ANSWER_LIMIT)


def test_half_a_text_is_none_yet(shared: Shared) -> None:
    questions = shared.questions
    desk = questions.ask(0, Ask.KEYS, TEXT)
    assert desk is not None
    view = questions._text(0, desk, 0, 1)
    view[0] ^= 1
    assert asked(shared) == []
    view[0] ^= 1
    (question,) = asked(shared)
    questions.reply(question, Outcome.DONE, b"answer")
    questions._text(0, desk, QUESTION_LIMIT, 1)[0] ^= 1
    assert questions.answer(0, desk) is None


def test_a_dead_workers_question_frees_its_desk_when_it_is_answered(shared: Shared, fork: Fork) -> None:
    def ask_and_die() -> None:
        for _ in range(DESKS):
            shared.questions.ask(0, Ask.KEYS, b"the end")

    os.waitid(os.P_PID, fork(ask_and_die), os.WEXITED | os.WNOWAIT)
    assert shared.questions.ask(0, Ask.KEYS, b"new") is None
    for question in asked(shared):
        shared.questions.reply(question, Outcome.DONE)
    desk = shared.questions.ask(0, Ask.KEYS, b"new")
    assert desk == 0
    assert shared.questions.answer(0, desk) is None


def test_an_answered_question_leaves_no_text(shared: Shared) -> None:
    shared.questions.ask(0, Ask.INTROSPECT, b"a very secret token")
    shared.questions.reply(asked(shared)[0], Outcome.DONE)
    assert b"secret" not in bytes(shared._region.view(0, shared._region.size))
