from __future__ import annotations

from msgspec.structs import replace

from shadowcat.config.model import Breaker, Config, Route, Sessions, Upstream
from shadowcat.config.seats import Seat
from shadowcat.control.present import Present
from shadowcat.control.publisher import Publisher
from shadowcat.policy.breaker import Event, State, state_of
from shadowcat.shm.locks import Locks
from shadowcat.shm.shared import CONTROL, Shared


def test_who_gets_a_row_does_not_get_its_breaker() -> None:
    upstreams = [Upstream(name=name, url=f"http://{name}.example/mcp") for name in "ab"]
    route = Route(upstreams=upstreams, breaker=Breaker())
    shared = Shared.create(Config(workers=1, admin=None, routes=[route], sessions=Sessions(capacity=64)))
    locks = Locks(shared._region)
    breakers = shared.breakers_with(locks, CONTROL)
    for row in range(2):
        breakers.step(row, Event.TRIPPED, Breaker(), 10**15)
    present = Present(shared)
    snapshot = present.snapshot
    ((kept, seat),) = snapshot.seats
    other = replace(
        snapshot, version=snapshot.version + 1, seats=[[kept, Seat(seat.row, seat.generation + 1)]]
    )
    Publisher(shared, present, breakers, None, []).publish(other)
    states = [state_of(breakers.words(each.row)[0]) for each in (kept, seat)]
    assert states == [State.OPEN, State.CLOSED]
    locks.close()
    shared.close()
