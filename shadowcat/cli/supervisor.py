"""``shadowcat-supervisor``: starts the proxy and keeps it running."""

from __future__ import annotations

import os
import sys
from functools import partial

import click

from shadowcat.cli.options import Options, supervisor_options
from shadowcat.errors import ConfigError, StartError
from shadowcat.supervisor.main import supervise

_START_FAILED = 1
_BAD_CONFIG = 2


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@supervisor_options
def main(options: Options) -> None:
    """Run Shadowcat: a proxy for the Model Context Protocol, in as many processes as there are CPUs.

    Once everything runs, one line of JSON on standard output names the addresses. SIGTERM or SIGINT finishes
    open requests and ends it (twice: at once); SIGQUIT ends it at once. Exit status: 0 stopped as asked,
    1 the start failed, 2 the configuration or the command line is wrong.
    """
    try:
        if options.demo:
            from shadowcat.supervisor.demo import open_demo

            demo, url = open_demo()
            sys.exit(supervise(options.load(os.environ, url), demo=demo, ends_process=True))
        load = partial(options.load, os.environ)
        sys.exit(supervise(load(), source=load, ends_process=True))
    except ConfigError as error:
        click.echo(f"shadowcat-supervisor: {error}", err=True)
        sys.exit(_BAD_CONFIG)
    except StartError as error:
        click.echo(f"shadowcat-supervisor: {error}", err=True)
        sys.exit(_START_FAILED)
