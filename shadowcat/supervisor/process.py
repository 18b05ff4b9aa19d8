"""One child process: fork, the ties that keep it from outliving the supervisor, and its lifeline."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

import setproctitle

from shadowcat.errors import ShadowcatError
from shadowcat.log import LOGGER
from shadowcat.shm.shared import Lifeline

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_READY: Final = b"R"
_FAILED: Final = b"F"
_MESSAGE_LIMIT: Final = 8192
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
# The terminal sends these to the whole foreground group, but the supervisor alone decides what follows.
_LEFT_TO_SUPERVISOR: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class ChildLifeline:
    """The child's end of the socket pair to the supervisor; implements Lifeline."""

    __slots__ = ("_socket",)

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        """Readable when the supervisor is gone."""
        return self._socket.fileno()

    def ready(self) -> None:
        """Tell the supervisor that this process serves."""
        self._send(_READY)

    def failed(self, message: str) -> None:
        """Tell the supervisor why this process cannot start."""
        self._send(_FAILED + message.encode("utf-8", "replace")[:_MESSAGE_LIMIT])

    def _send(self, data: bytes) -> None:
        # Without a supervisor there is nobody to tell; end of file will end this process.
        with contextlib.suppress(OSError):
            self._socket.send(data)


class Child:
    """The supervisor's view of a running child."""

    __slots__ = ("lifeline", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, lifeline: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.lifeline = lifeline

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a child that has just ended is left alone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def receive(self) -> Report:
        """Read what the child said on its lifeline, as far as it has."""
        ready, cause, closed = False, None, False
        while True:
            try:
                message = self.lifeline.recv(_MESSAGE_LIMIT + 1)
            except BlockingIOError:
                break
            except OSError:
                closed = True
                break
            if not message:
                closed = True
                break
            if message[:1] == _READY:
                ready = True
            else:
                cause = message[1:].decode("utf-8", "replace")
        return Report(ready, cause, closed)

    def reap(self) -> str:
        """Wait for the child, which has ended, and say how: "exit status 1", "killed by SIGKILL"."""
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        assert result is not None
        if result.si_code == os.CLD_EXITED:
            return f"exit status {result.si_status}"
        return f"killed by {signal.Signals(result.si_status).name}"

    def close(self) -> None:
        """Close the supervisor's descriptors of this child."""
        os.close(self.pidfd)
        self.lifeline.close()


class Report(NamedTuple):
    """What a child said on its lifeline."""

    ready: bool
    cause: str | None
    """Why it cannot start."""
    closed: bool
    """It has closed its end, most likely by ending."""


def spawn(title: str, main: Callable[[Lifeline], int], forget: Callable[[], None]) -> Child:
    """Fork a child. Call it from the main thread only: PR_SET_PDEATHSIG watches the forking *thread*.

    Args:
        title: Process title, as shown by ps.
        main: Runs in the child; its result is the exit status.
        forget: Runs in the child first; closes what only the supervisor or a sibling may hold.

    Raises:
        OSError: No process, memory or descriptor is to be had.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    supervisor = os.getpid()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    # A signal between fork and reset would be written to the self-pipe, which the child still shares.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _become(title, main, forget, ChildLifeline(theirs), supervisor)
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    try:
        return Child(pid, os.pidfd_open(pid), ours)
    except OSError:
        # Out of descriptors: a child that cannot be watched must not run.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ours.close()
        raise


def _become(
    title: str,
    main: Callable[[Lifeline], int],
    forget: Callable[[], None],
    lifeline: ChildLifeline,
    parent: int,
) -> NoReturn:
    """Turn the fork into the child; never returns into the supervisor's stack."""
    status = 1
    try:
        # Refused in some sandboxes; end of file on the lifeline says the same.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in _LEFT_TO_SUPERVISOR:
            signal.signal(number, signal.SIG_IGN)
        forget()
        setproctitle.setproctitle(title)
        faulthandler.enable()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        status = main(lifeline)
    except ShadowcatError as error:
        lifeline.failed(str(error))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - nothing may travel up into the supervisor's frames
        LOGGER.critical("internal error", exc_info=True)
        lifeline.failed(f"internal error: {type(error).__name__}: {error}")
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
