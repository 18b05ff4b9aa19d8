"""Puts a worker's data plane together from the configuration. Every way to start uses this function."""

from __future__ import annotations

import asyncio
import os
import random
import time
from functools import partial

from shadowcat.config import model
from shadowcat.config.model import Config
from shadowcat.proxy.access_log import AccessLog
from shadowcat.proxy.balancer import COMPARES, ERAS, Balancer, Host, Purpose
from shadowcat.proxy.log_file import LogFile
from shadowcat.proxy.meters import UpstreamMeters
from shadowcat.proxy.origin import Origin
from shadowcat.proxy.plane import DataPlane
from shadowcat.proxy.pool import Pool
from shadowcat.proxy.route import Route, RouteTable
from shadowcat.proxy.tracing import trace
from shadowcat.shm.shared import Shared, worker_number


def assemble(config: Config, shared: Shared, process: int, loop: asyncio.AbstractEventLoop) -> DataPlane:
    """Build the data plane of `process`.

    Raises:
        StartError: Something it needs cannot be used, such as a certificate file.
    """
    worker = process - worker_number(0)
    plane = DataPlane(config, shared, process, loop)
    routes: list[Route] = []
    pools: list[Pool] = []
    host = Host(
        [shared.page(each).cells for each in range(shared.processes)],
        shared.cursors_with(plane.sessions.table.locks),
        process,
        plane.clock,
        partial(random.getrandbits, 64),
    )
    for number, section in enumerate(config.routes):
        route = Route(section, shared.layout, plane.cells)
        route.pools = tuple(
            Pool(
                plane,
                Origin(upstream),
                section.pool,
                share=config.workers,
                meters=UpstreamMeters(shared.layout, section, upstream, plane.cells),
                row=row,
            )
            for row, upstream in enumerate(section.upstreams, len(pools))
        )
        route.balancer = Balancer(section, number, route.pools, host)
        route.legacy = route.balancer.members(Purpose.LEGACY)
        first = section.upstreams[0]
        if len(route.pools) == 1 and first.enabled and ERAS[first.era] == ERAS["dual"]:
            route.only = route.pools[0]
        route.compares = route.only is None and section.balance.strategy in COMPARES
        routes.append(route)
        pools.extend(route.pools)
    plane.route_table = RouteTable(routes)
    plane.routes = tuple(routes)
    plane.sessions.pools = tuple(pools)
    if config.access_log is not None:
        plane.observers = (_access_log(config.access_log, plane, shared, worker),)
    trace(plane, os.environ, worker)
    return plane


def _access_log(section: model.AccessLog, plane: DataPlane, shared: Shared, worker: int) -> AccessLog:
    cell = shared.layout.cell("access_log_dropped_total")

    def count(lines: int) -> None:
        plane.cells[cell] += lines

    file = LogFile(section.path, "access_log.path", count)
    return AccessLog(section, file, worker, plane.clock, time.time, random.random)
