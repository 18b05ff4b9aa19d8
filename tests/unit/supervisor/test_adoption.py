"""Who stands in for a slot that nobody accepts for."""

from __future__ import annotations

from shadowcat.supervisor.adoption import Adoption, Order


def carry_out(adoption: Adoption, orders: list[Order]) -> list[Order]:
    for order in orders:
        adoption.carried_out(order)
    return orders


def test_a_short_gap_needs_nobody():
    adoption = Adoption(2, 0.2)
    assert adoption.orders(0.0, [True, False]) == []
    assert adoption.orders(0.1, [True, False]) == []
    assert adoption.orders(0.15, [True, True]) == []
    assert adoption.orders(0.3, [True, False]) == []


def test_adopted_after_the_wait_and_released_on_return():
    adoption = Adoption(2, 0.2)
    adoption.orders(0.0, [True, False])
    assert carry_out(adoption, adoption.orders(0.2, [True, False])) == [Order(True, 0, 1)]
    assert adoption.acceptor(1, [True, False]) == 0
    assert adoption.orders(5.0, [True, False]) == []
    assert carry_out(adoption, adoption.orders(6.0, [True, True])) == [Order(False, 0, 1)]
    assert adoption.orders(7.0, [True, True]) == []
    assert adoption.acceptor(1, [True, True]) == 1


def test_an_order_that_could_not_be_sent_is_given_again():
    adoption = Adoption(2, 0.2)
    adoption.orders(0.0, [True, False])
    assert adoption.orders(0.2, [True, False]) == [Order(True, 0, 1)]
    assert adoption.orders(0.3, [True, False]) == [Order(True, 0, 1)]
    assert adoption.acceptor(1, [True, False]) is None


def test_orphans_are_spread():
    adoption = Adoption(4, 0.0)
    orders = []
    accepting = [True, True, False, False]
    for _ in range(2):
        orders += carry_out(adoption, adoption.orders(0.0, accepting)[:1])
    assert orders == [Order(True, 0, 2), Order(True, 1, 3)]


def test_when_the_stand_in_stops_too_another_takes_over():
    adoption = Adoption(3, 0.2)
    adoption.orders(0.0, [True, True, False])
    carry_out(adoption, adoption.orders(0.2, [True, True, False]))
    assert adoption.acceptor(2, [False, True, False]) is None
    adoption.orders(1.0, [False, True, False])
    orders = carry_out(adoption, adoption.orders(1.5, [False, True, False]))
    assert orders == [Order(True, 1, 0), Order(True, 1, 2)]


def test_a_dead_stand_in_holds_nothing():
    adoption = Adoption(2, 0.2)
    adoption.orders(0.0, [True, False])
    carry_out(adoption, adoption.orders(0.2, [True, False]))
    adoption.forget(0)
    # Its replacement accepts, but only for itself.
    assert adoption.acceptor(1, [True, False]) is None
    adoption.orders(0.3, [True, False])
    assert adoption.orders(0.6, [True, False]) == [Order(True, 0, 1)]


def test_nobody_left_to_stand_in():
    adoption = Adoption(2, 0.2)
    adoption.orders(0.0, [False, False])
    assert adoption.orders(9.0, [False, False]) == []


def test_at_once_when_told_so():
    adoption = Adoption(2, 0.2)
    assert adoption.orders(0.0, [True, False], after=0.0) == [Order(True, 0, 1)]
