"""The control process from its fork to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

import uvloop
from aiohttp import web

from shadowcat.config.model import AuthorizationCode, Config, OAuthClient
from shadowcat.config.seats import Snapshot
from shadowcat.control.admin.limits import LimitsApi
from shadowcat.control.admin.server import Admin
from shadowcat.control.audit.file import AuditFile
from shadowcat.control.audit.writer import AuditWriter
from shadowcat.control.closer import Closer
from shadowcat.control.oauth.clerk import Clerk
from shadowcat.control.oauth.credentials import CredentialKeeper
from shadowcat.control.oauth.examiner import Examiner
from shadowcat.control.oauth.exchange import Exchanges
from shadowcat.control.oauth.fetch import Fetcher
from shadowcat.control.oauth.grants import Grants
from shadowcat.control.oauth.keys import KeyKeeper
from shadowcat.control.oauth.login_events import LoginEvents
from shadowcat.control.oauth.login_pages import LoginPages
from shadowcat.control.oauth.logins import Logins
from shadowcat.control.oauth.tokens import TokenClient, TokenResponse
from shadowcat.control.oauth.upstream_grants import UpstreamGrants
from shadowcat.control.oauth.vault import Vault
from shadowcat.control.policies import PolicyNotices
from shadowcat.control.present import Present
from shadowcat.control.publisher import Publisher
from shadowcat.control.recounter import Recounter
from shadowcat.control.reloads import Reloads
from shadowcat.control.retirement import Retirement
from shadowcat.control.sweeper import Sweeper
from shadowcat.control.upstreams.health import HealthChecker
from shadowcat.control.upstreams.outliers import Outliers
from shadowcat.shm.page import Page, State
from shadowcat.shm.shared import CONTROL, Lifeline, Shared

BEAT: Final = 0.05
_FAREWELL: Final = 1.0
"""Seconds an answer in progress may take once the process is told to end."""


def run(
    shared: Shared,
    sockets: Sequence[socket.socket],
    lifeline: Lifeline,
    source: Callable[[], Config] | None = None,
    *,
    token: str | None,
) -> int:
    """Serve the admin listener until SIGTERM.

    Args:
        shared: What the supervisor made before the fork.
        sockets: Bound and listening sockets, TCP or Unix: this process's copies of the supervisor's.
        lifeline: The tie to the supervisor.
        source: Reads the configuration anew from where it came from; None if it came from nowhere.
        token: What callers of the admin listener must show; None if only Unix sockets are served.

    Returns:
        The exit status: 0 after SIGTERM or SIGQUIT.

    Raises:
        OSError: A socket cannot be served, or no descriptor is to be had.
        StartError: The audit file cannot be written.
    """
    # Asked to open the audit file anew while it starts, it does so once it can: see the worker.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    page = shared.page(CONTROL)
    page.begin(os.getpid(), time.monotonic_ns())
    writer = _audit_writer(shared, page)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(shared, sockets, lifeline, source, page, token, writer))
    return 0


def _audit_writer(shared: Shared, page: Page) -> AuditWriter | None:
    """Who writes the audit file, if there is one.

    Raises:
        StartError: It cannot be written, and this is the start of the host. Later on it is tried again.
    """
    section = shared.audit
    if section is None:
        return None
    file = AuditFile(section.path)
    if page.incarnation == 1:
        file.open()
    layout = shared.layout
    written, dropped = layout.cell("audit_written_total"), layout.cell("audit_dropped_total")
    return AuditWriter(file, shared.rings(), page.cells, written, dropped)


async def _serve(
    shared: Shared,
    sockets: Sequence[socket.socket],
    lifeline: Lifeline,
    source: Callable[[], Config] | None,
    page: Page,
    token: str | None,
    writer: AuditWriter | None,
) -> None:
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    loop.add_signal_handler(signal.SIGQUIT, os._exit, 0)
    loop.add_reader(lifeline.fileno(), os._exit, 1)
    trail = shared.trail_for(CONTROL)
    writing = None if writer is None else loop.create_task(writer.run())
    loop.add_signal_handler(signal.SIGUSR1, _nothing if writer is None else writer.reopen)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    table = shared.sessions_for(CONTROL)
    present = Present(shared)
    closer = Closer(shared, table, trail)
    health = HealthChecker(shared)
    fetcher = Fetcher()
    keeper = KeyKeeper(shared, fetcher)
    notices = PolicyNotices()
    tokens = TokenClient(fetcher)
    vault = Vault(shared.vault)
    grants = Grants(vault, fetcher, tokens)
    events = LoginEvents(trail)
    consents = UpstreamGrants(vault, grants, events)

    async def grant(section: OAuthClient) -> TokenResponse:
        if isinstance(section, AuthorizationCode):
            return await consents.token(section)
        return await tokens.token(section, "client_credentials")

    credentials = CredentialKeeper(shared, grant)
    exchanges = Exchanges(present, tokens)
    logins = Logins(shared, vault, grants, events)
    breakers = shared.breakers_with(table.locks, CONTROL)
    outliers = Outliers(shared, shared.ejections_with(table.locks, CONTROL))

    def configure(snapshot: Snapshot) -> None:
        health.configure(snapshot)
        outliers.configure(snapshot)
        table.configure(snapshot.config.sessions)
        keeper.configure(snapshot)
        notices.configure(snapshot)
        logins.configure(snapshot)
        credentials.configure(snapshot)

    publisher = Publisher(shared, present, breakers, source, [configure], trail)
    retirement = Retirement(shared, present, table, closer, publisher)
    limiter, concurrency = shared.limiter_with(table.locks), shared.concurrency_with(table.locks, CONTROL)
    limits = LimitsApi(present, limiter, concurrency)
    runner = web.AppRunner(
        Admin(present, shared, table, closer, health, publisher, limits, consents, token=token).application(),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=_FAREWELL,
    )
    await runner.setup()
    protocol = runner.server
    assert protocol is not None  # setup() made it
    servers = [await _listen(loop, protocol, listener) for listener in sockets]
    heart = _Heart(loop, page)
    sweeper = Sweeper(table, closer, Recounter(shared.sessions_for(CONTROL), loop).start)
    sweeper.start(loop)
    configure(present.snapshot)
    examiner = Examiner(keeper, fetcher)
    pages = LoginPages(present, grants, logins, examiner, consents, credentials, events)
    clerk = Clerk(shared, present, keeper, fetcher, credentials, exchanges, pages)
    reloads = Reloads(shared, publisher)
    loop.add_signal_handler(signal.SIGHUP, reloads.wake)
    work = retirement.run(), reloads.run(), outliers.run(), clerk.run()
    tasks = [loop.create_task(each) for each in work]
    page.set_state(State.READY)
    lifeline.ready()
    await end.wait()
    page.set_state(State.DRAINING)
    for server in servers:
        server.close()
    for task in tasks:
        task.cancel()
    stops = health.stop(), keeper.stop(), credentials.stop(), exchanges.stop(), logins.stop(), pages.stop()
    await asyncio.gather(runner.cleanup(), *stops)
    await fetcher.close()
    sweeper.stop()
    if writer is not None and writing is not None:
        # Last of all: the workers have ended, and whatever is done here has been.
        writer.end()
        await writing
    heart.stop()
    loop.remove_reader(lifeline.fileno())


async def _listen(
    loop: asyncio.AbstractEventLoop, protocol: web.Server, listener: socket.socket
) -> asyncio.AbstractServer:
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(protocol, sock=listener)
    return await loop.create_server(protocol, sock=listener)


def _nothing() -> None:
    """There is no file to open anew."""


class _Heart:
    """Beats in the page for as long as the loop turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, page: Page) -> None:
        self._loop = loop
        self._page = page
        self._beat()

    def _beat(self) -> None:
        self._page.beat(time.monotonic_ns())
        self._timer = self._loop.call_later(BEAT, self._beat)

    def stop(self) -> None:
        self._timer.cancel()
