"""The supervisor's options, through a click command like the real one."""

import click
import pytest
from click.testing import CliRunner

from shadowcat.cli.options import Options, supervisor_options
from shadowcat.errors import ConfigError

UPSTREAM = ["--upstream", "http://a/mcp"]


def invoke(*arguments, environ=None, demo_url=None):
    """Run a command with these options; returns click's result and what the command was given."""
    given = []

    @click.command()
    @supervisor_options
    def command(options: Options) -> None:
        given.append((options, options.load(environ or {}, demo_url)))

    result = CliRunner().invoke(command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result, *(given[0] if given else (None, None))


def test_every_option_has_its_effect():
    _, options, config = invoke(
        *(
            "--workers",
            "3",
            "--bind",
            "0.0.0.0:80",
            "--bind",
            "[::1]:81",
            "--admin",
            "unix:/run/s",
            "--insecure",
        ),
        *("--upstream", "a=http://a/mcp", "--upstream", "http://b/x=y"),
        *("--log-level", "debug", "--log-format", "json"),
        environ={"SHADOWCAT_ALLOWED_HOSTS": '["*"]'},
    )
    assert not options.demo
    assert (config.workers, config.listen, config.admin) == (3, ["0.0.0.0:80", "[::1]:81"], "unix:/run/s")
    assert (config.insecure, config.log.level, config.log.format) == (True, "debug", "json")
    (route,) = config.routes
    assert route.path == "/mcp"
    assert [(u.name, u.url) for u in route.upstreams] == [("a", "http://a/mcp"), ("", "http://b/x=y")]


def test_weights_and_the_strategy():
    texts = (
        "a=http://a/mcp,weight=3",
        "http://b/x,weight=2,weight=100",
        "http://c/x,weight=2/y",
        "d=http://d/m,heavy",
    )
    arguments = [part for text in texts for part in ("--upstream", text)]
    _, _, config = invoke(*arguments, "--strategy", "least_connections")
    (route,) = config.routes
    assert [(u.name, u.url, u.weight) for u in route.upstreams[:3]] == [
        ("a", "http://a/mcp", 3),
        ("", "http://b/x,weight=2", 100),
        ("", "http://c/x,weight=2/y", 1),
    ]
    assert route.balance.strategy == "least_connections"
    assert invoke(*UPSTREAM)[2].routes[0].balance.strategy == "weighted_round_robin"


def test_what_is_not_given_does_not_hide_the_file(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text(
        'workers = 5\ninsecure = true\nlisten = "0.0.0.0:1"\nallowed_hosts = ["*"]\n'
        '[log]\nlevel = "error"\nformat = "json"\n'
        '[[routes]]\npath = "/x"\nupstreams = [{ url = "http://x/" }]\n'
    )
    _, _, config = invoke("--config", str(file), "--log-level", "warning", environ={"SHADOWCAT_BACKLOG": "9"})
    assert (config.workers, config.insecure, config.listen, config.backlog) == (5, True, "0.0.0.0:1", 9)
    assert (config.log.level, config.log.format) == ("warning", "json")
    assert config.routes[0].path == "/x"


def test_upstreams_take_the_place_of_those_of_the_file(tmp_path):
    file = tmp_path / "c.json"
    file.write_text('{"routes": [{"path": "/x", "upstreams": [{"url": "http://x/"}]}]}')
    _, _, config = invoke("--config", str(file), *UPSTREAM)
    assert [(route.path, route.upstreams[0].url) for route in config.routes] == [("/x", "http://a/mcp")]


def test_admin_off():
    assert invoke("--admin", "off", *UPSTREAM)[2].admin is None


def test_demo_is_the_upstream():
    _, options, config = invoke("--demo", demo_url="http://127.0.0.1:5/mcp")
    assert options.demo
    (upstream,) = config.routes[0].upstreams
    assert (upstream.name, upstream.url) == ("demo", "http://127.0.0.1:5/mcp")


def test_nothing_to_forward_to_names_the_three_ways():
    result, _, _ = invoke("--workers", "2")
    assert result.exit_code == 2
    for way in ("--config FILE", "--upstream http://127.0.0.1:3001/mcp", "--demo"):
        assert way in result.output


def test_the_environment_is_a_way_too():
    _, _, config = invoke(environ={"SHADOWCAT_ROUTES__0__UPSTREAMS__0__URL": "http://a/"})
    assert config.routes[0].upstreams[0].url == "http://a/"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--demo", *UPSTREAM], "--demo brings its own upstream"),
        (["--strategy", "random", "--config", "x.yaml"], "--strategy is for what --upstream names"),
        (["--strategy", "best", *UPSTREAM], "--strategy"),
        (["--workers", "x"], "--workers"),
        (["--log-level", "loud"], "--log-level"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_usage_errors(arguments, message):
    result, _, _ = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0", *UPSTREAM], "workers: expected a whole number >= 1, got 0"),
        (["--bind", "0.0.0.0:80", *UPSTREAM], "set insecure: true"),
        (["--admin", "0.0.0.0:80", *UPSTREAM], "admin: 0.0.0.0:80 can be reached"),
        (["--upstream", "http://a/,weight=0"], r"routes\[0\].upstreams\[0\].weight: .*1"),
        (["--upstream", "http://a/,weight=101"], r"routes\[0\].upstreams\[0\].weight: .*100"),
        (["--upstream", "a"], r"routes\[0\].upstreams\[0\].url: not a URL"),
        (["--config", "/nonexistent.yaml"], "/nonexistent.yaml: cannot read the configuration"),
    ],
)
def test_bad_values_are_config_errors(arguments, message):
    with pytest.raises(ConfigError, match=message):
        invoke(*arguments)


def test_version():
    assert invoke("--version")[0].output == "shadowcat-supervisor, version 0.1.0\n"
