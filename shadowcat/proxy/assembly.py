"""Puts a worker's data plane together from the configuration. Every way to start uses this function."""

from __future__ import annotations

import asyncio

from shadowcat.config.model import Config
from shadowcat.proxy.meters import UpstreamMeters
from shadowcat.proxy.origin import Origin
from shadowcat.proxy.plane import DataPlane
from shadowcat.proxy.pool import Pool
from shadowcat.proxy.route import Route, RouteTable
from shadowcat.shm.shared import Shared


def assemble(config: Config, shared: Shared, process: int, loop: asyncio.AbstractEventLoop) -> DataPlane:
    """Build the data plane of `process`.

    Raises:
        StartError: Something it needs cannot be used, such as a certificate file.
    """
    plane = DataPlane(config, shared, process, loop)
    routes = []
    for section in config.routes:
        route = Route(section, shared.layout, plane.cells, start=process)
        route.pools = tuple(
            Pool(
                plane,
                Origin(upstream),
                section.pool,
                share=config.workers,
                meters=UpstreamMeters(shared.layout, section, upstream, plane.cells),
            )
            for upstream in section.upstreams
        )
        routes.append(route)
    plane.route_table = RouteTable(routes)
    plane.routes = tuple(routes)
    return plane
