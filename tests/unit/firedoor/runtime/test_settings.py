"""What a settings file may say, and the sentence that names what it may not."""

from pathlib import Path

import pytest

from firedoor.errors import FiredoorError, Malformed, Unavailable
from firedoor.runtime.settings import check_command, read_agent, read_mirror, split_address


def agent(folder: Path, text: str = "", **changes: str) -> Path:
    """An agent.toml with `text` at its end and some values changed."""
    return _file(folder, {"fleet_root": f"{folder}/root.json"} | changes, text)


def mirror(folder: Path, text: str = "", **changes: str) -> Path:
    base = {"fleet_root": f"{folder}/root.json"}
    return _file(folder, base | changes, text)


def _file(folder: Path, values: dict[str, str], text: str) -> Path:
    (folder / "root.json").write_text("{}")
    table = {"state": f"{folder}/state", "site": "branch"} | values
    lines = [f'{key} = "{value}"' for key, value in table.items()]
    path = folder / "settings.toml"
    path.write_text("\n".join(lines) + "\n" + text)
    return path


def product(name: str, **values: str) -> str:
    pairs = {"root": f"/srv/{name}"} | values
    return f"[products.{name}]\n" + "".join(f'{key} = "{each}"\n' for key, each in pairs.items())


def test_a_plain_file_is_taken(tmp_path: Path) -> None:
    settings = read_agent(agent(tmp_path, 'mdns = ["all"]\n' + product("kiosk")))
    assert (settings.site, settings.products["kiosk"].version) == ("branch", "newest")
    assert read_mirror(mirror(tmp_path, 'upstream = ["origin.example:7443"]\n')).upstream
    # A stick feeds it.
    assert not read_mirror(mirror(tmp_path, 'lease = "air-gapped"\n')).upstream


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("unknown = 1\n", "unknown"),
        ('listen = "127.0.0.1"\n', "HOST:PORT"),
        ('listen = "127.0.0.1:1²"\n', "HOST:PORT"),
        ('listen = "127.0.0.1:70000"\n', "HOST:PORT"),
        ('mirrors = ["nowhere"]\n', "HOST:PORT"),
        ('mdns = ["nonsense"]\n', "mdns"),
        ('mdns = ["all", "127.0.0.1"]\n', "mdns"),
        ("[limits]\nsend_bytes_per_s = -1\n", "send_bytes_per_s"),
        (product("kiosk", root=""), "products.kiosk.root"),
        (product("kiosk", handler="msi"), "products.kiosk.handler"),
        (product("kiosk", version="a/../b"), "products.kiosk.version"),
        (product("kiosk") + 'check = ["unclosed \\""]\n', "products.kiosk.check"),
        (product("kiosk") + 'check = [""]\n', "products.kiosk.check"),
        (product("kiosk") + product("manuals", root="/srv/kiosk"), "products.manuals.root"),
        ("not toml", "TOML"),
    ],
)
def test_what_an_agent_cannot_follow_is_refused_by_name(
    tmp_path: Path, text: str, named: str
) -> None:
    with pytest.raises(Malformed, match=named.replace(".", r"\.")):
        read_agent(agent(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "upstream"),
        ('upstream = ["o:1"]\norigin_folder = "."\n', "both"),
        ('upstream = ["o:1"]\nenrol_listen = "nonsense"\n', "HOST:PORT"),
        ('upstream = ["o:1"]\nlisten = "0.0.0.0:1"\nenrol_listen = "0.0.0.0:1"\n', "enrol_listen"),
        ('upstream = ["o:1"]\npassphrase_file = "p"\n', "passphrase_file"),
    ],
)
def test_what_a_mirror_cannot_be_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(Malformed, match=named):
        read_mirror(mirror(tmp_path, text))


@pytest.mark.parametrize(
    "path",
    [
        lambda folder: agent(folder, fleet_root="/nowhere/root.json"),
        lambda folder: mirror(folder, 'origin_folder = "/nowhere"\n'),
        lambda folder: folder / "nowhere.toml",
    ],
)
def test_a_file_that_is_not_there_is_said(tmp_path: Path, path: object) -> None:
    made = path(tmp_path)  # type: ignore[operator]  # one of the functions above
    with pytest.raises(Unavailable):
        (read_mirror if "origin_folder" in _text(made) else read_agent)(made)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("text", ["h:1", "[::1]:7443", "mirror.example:65535"])
def test_an_address_is_a_host_and_a_port(text: str) -> None:
    host, port = split_address(text)
    assert host.strip("[]") in text
    assert text.endswith(str(port))


def test_a_command_with_arguments_is_one() -> None:
    check_command("check", "sh -c 'exit 0'")
    with pytest.raises(FiredoorError):
        check_command("check", "   ")
