"""Listening sockets: one per slot, exclusive, honest about what is wrong."""

from __future__ import annotations

import select
import socket
import stat
from pathlib import Path

import pytest

from shadowcat.config.addresses import Address
from shadowcat.errors import StartError
from shadowcat.supervisor.sockets import AdminListener, Listeners, socket_name

LOOPBACK = Address("127.0.0.1", 0)


def accepted(listeners: Listeners, total: int) -> list[int]:
    """How many of so many connections each gets: the kernel may be behind with the last ones."""
    counts = dict.fromkeys(listeners.all, 0)
    while sum(counts.values()) < total:
        ready, _, _ = select.select(listeners.all, [], [], 10)
        assert ready, f"{total} have connected, and {sum(counts.values())} are there"
        for one in ready:
            one.accept()[0].close()
            counts[one] += 1
    assert select.select(listeners.all, [], [], 0)[0] == []
    return list(counts.values())


def port_of(listeners: Listeners) -> int:
    return listeners.by_address[0][0].getsockname()[1]


def test_port_0_is_one_port_for_all_slots_and_all_of_them_get_connections():
    listeners = Listeners([LOOPBACK], 4, 256)
    names = {socket_name(one) for one in listeners.all}
    assert listeners.names == list(names)
    clients = [socket.create_connection(("127.0.0.1", port_of(listeners))) for _ in range(200)]
    assert min(accepted(listeners, 200)) > 0
    for client in clients:
        client.close()
    listeners.close()


def test_several_addresses_and_ipv6():
    listeners = Listeners([LOOPBACK, Address("::1", 0)], 2, 16)
    assert [len(sockets) for sockets in listeners.by_address] == [2, 2]
    assert listeners.names[1].startswith("[::1]:")
    assert listeners.by_address[1][0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    listeners.close()


def test_the_same_port_on_both_families():
    listeners = Listeners([LOOPBACK], 2, 16)
    other = Listeners([Address("::1", port_of(listeners))], 2, 16)
    other.close()
    listeners.close()


@pytest.mark.parametrize("slots", [1, 3])
def test_a_second_instance_is_refused_and_the_address_named(slots):
    listeners = Listeners([LOOPBACK], slots, 16)
    address = Address("127.0.0.1", port_of(listeners))
    with pytest.raises(StartError, match=rf"127\.0\.0\.1:{address.port}.*in use"):
        Listeners([address], slots, 16)
    listeners.close()


def test_nothing_stays_open_when_the_second_address_fails():
    listeners = Listeners([LOOPBACK], 2, 16)
    busy = Address("127.0.0.1", port_of(listeners))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StartError):
        Listeners([LOOPBACK, busy], 2, 16)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    listeners.close()


def test_connections_in_time_wait_do_not_keep_the_port():
    listeners = Listeners([LOOPBACK], 1, 16)
    port = port_of(listeners)
    client = socket.create_connection(("127.0.0.1", port))
    server, _ = listeners.by_address[0][0].accept()
    server.close()  # closes first: TIME_WAIT stays on this side
    client.close()
    listeners.close()
    Listeners([Address("127.0.0.1", port)], 2, 16).close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (Address("192.0.2.1", 0), "no interface"),
        (Address("no-such-host.invalid", 0), "unknown"),
    ],
)
def test_bad_addresses_are_named(address, reason):
    with pytest.raises(StartError, match=rf"{address.host}.*{reason}"):
        Listeners([address], 1, 16)


def test_sockets_are_not_inherited_over_exec():
    listeners = Listeners([LOOPBACK], 2, 16)
    assert not any(one.get_inheritable() for one in listeners.all)
    listeners.close()


def test_no_new_handshake_begins_but_who_waits_is_served():
    listeners = Listeners([LOOPBACK], 2, 16)
    port = port_of(listeners)
    waiting = socket.create_connection(("127.0.0.1", port))
    listeners.begin_no_more()
    with socket.socket() as late:
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.connect(("127.0.0.1", port))
    waiting.sendall(b"hello")
    connections = [one.accept()[0] for one in select.select(listeners.all, [], [], 10)[0]]
    assert len(connections) == 1
    connections[0].settimeout(5)
    assert connections[0].recv(5) == b"hello"
    listeners.shut()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    connections[0].close()
    waiting.close()


def test_unix_admin_socket_is_private_and_removed(tmp_path: Path):
    path = tmp_path / "admin.sock"
    admin = AdminListener(Address(unix_path=str(path)), 16)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert admin.name == f"unix:{path}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    admin.remove()
    assert not path.exists()


def test_stale_unix_socket_is_replaced(tmp_path: Path):
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    admin = AdminListener(Address(unix_path=str(path)), 16)
    admin.remove()


def test_live_unix_socket_is_respected(tmp_path: Path):
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(StartError, match="in use"):
            AdminListener(Address(unix_path=str(path)), 16)
    assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path):
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(StartError, match="no socket"):
        AdminListener(Address(unix_path=str(path)), 16)
    assert path.read_text() == "precious"


def test_a_successors_unix_socket_is_not_removed(tmp_path: Path):
    path = tmp_path / "admin.sock"
    admin = AdminListener(Address(unix_path=str(path)), 16)
    path.rename(tmp_path / "old")
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        admin.remove()
        assert path.exists()


def test_tcp_admin_listener_in_use():
    first = AdminListener(LOOPBACK, 16)
    port = first.socket.getsockname()[1]
    with pytest.raises(StartError, match=f"127.0.0.1:{port}.*admin.*in use"):
        AdminListener(Address("127.0.0.1", port), 16)
    first.remove()


def test_a_unix_socket_is_refused_where_others_could_replace_it(tmp_path: Path):
    path = tmp_path / "shared" / "admin.sock"
    path.parent.mkdir()
    for mode in (0o777, 0o770, 0o702):
        path.parent.chmod(mode)
        with pytest.raises(StartError, match=f"unix:{path} for `admin`: other users may write to"):
            AdminListener(Address(unix_path=str(path)), 16)
        assert not path.exists()
    path.parent.chmod(0o1777)  # As /tmp is.
    AdminListener(Address(unix_path=str(path)), 16).remove()


def test_a_unix_socket_is_refused_where_modes_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "admin.sock"
    monkeypatch.setattr("os.umask", lambda mask: 0)
    monkeypatch.setattr(socket.socket, "bind", bound_to_all)
    with pytest.raises(StartError, match=r"other users may use it \(mode 777\)"):
        AdminListener(Address(unix_path=str(path)), 16)
    assert not path.exists()


def bound_to_all(one: socket.socket, address: str) -> None:
    """What a file system does that has no modes."""
    super(socket.socket, one).bind(address)
    Path(address).chmod(0o777)


def test_over_tcp_a_token_is_made_unless_there_is_one(tmp_path: Path):
    made, given = AdminListener(LOOPBACK, 16), AdminListener(LOOPBACK, 16, "0123456789abcdef")
    assert made.token_file is not None
    assert made.token == made.token_file.path.read_text().strip()
    assert (given.token, given.token_file) == ("0123456789abcdef", None)
    unix = AdminListener(Address(unix_path=str(tmp_path / "s")), 16)
    assert (unix.token, unix.token_file) == (None, None)
    for one in (made, given, unix):
        one.remove()
    assert not made.token_file.path.exists()


def test_nothing_listens_where_no_token_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nothing"))
    with pytest.raises(StartError, match=r"cannot keep the admin token in .*nothing"):
        AdminListener(LOOPBACK, 16)
