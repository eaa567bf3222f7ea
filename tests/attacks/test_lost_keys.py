"""A drill for each class of key, stolen and lost, with the commands that deploy/README.md names."""

import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from firedoor.errors import Unavailable
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import peer_of_certificate
from tests.live.lab import ENROL_PORT, PORT, LabSite, product_of, release_of, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]

ONLINE = ("beacon", "snapshot", "timestamp")

# What `firedoor` is given; FLEET stands for the fleet's folder.
WAYS: dict[str, tuple[str, ...]] = {
    **{
        role: ("keys", "rotate", role, "--fleet", "FLEET")
        for role in ("root", "halt", "resume", "promote", "releases/main", *ONLINE)
    },
    "operator": ("keys", "operators", "FLEET/origin", "--new", "FLEET/keys/operator-2.key"),
}


async def walk(site: LabSite, what: str, *more: str) -> str:
    """Go the way out that the guide names for this class of key; what the command says."""
    named = [word.replace("FLEET", str(site.fleet)) for word in WAYS[what]]
    return await site.firedoor(*named, *more)


# --- the fleet, and the thief -------------------------------------------------------------------


async def begin(site: LabSite, *more: str) -> str:
    """An origin and an endpoint right below it that runs kiosk 1.0; `more`: options of init."""
    prefix, address = site._lab.host("origin")
    await site.init(f"{address}:{PORT}", f"{address}:{ENROL_PORT}", *more, prefix=prefix)
    await site.start("origin")
    [name] = await site.enrol(1, ["kiosk"], mirrors=[origin_of(site)])
    await site.start(name)
    await publish(site, "1.0")
    await site.until_running("kiosk", "1.0", [name])
    return name


def origin_of(site: LabSite) -> str:
    return site.programs["origin"].address


def files(folder: Path, role: str) -> list[Path]:
    """The key files of a role."""
    stem = re.escape(role.replace("/", "-"))
    return sorted(
        path for path in folder.iterdir() if re.fullmatch(rf"{stem}(-\d+)?.key", path.name)
    )


def steal(site: LabSite, role: str) -> Path:
    """Copy the key files of a role, with the certificates in them; the thief's folder."""
    loot = site.folder / f"loot-{role.replace('/', '-')}"
    loot.mkdir()
    for path in files(site.fleet / "keys", role):
        shutil.copy(path, loot)
    return loot


def lose(folder: Path, role: str) -> None:
    for path in files(folder, role):
        path.unlink()


def by(folder: Path, role: str, count: int) -> list[str]:
    words: list[str] = []
    for path in files(folder, role)[:count]:
        words += ["--key", str(path)]
    return words


def keyid(path: Path) -> str:
    return read_key_file(path, str).keyid


def machine_of(path: Path) -> str:
    """The id by which the certificate in a key file is banned."""
    certificate = read_key_file(path, str).certificate.encode()
    return peer_of_certificate(certificate, Clock().unix()).id


async def is_refused(work: Awaitable[object]) -> bool:
    try:
        await work
    except Unavailable as error:
        print(f"refused, as it must be: {error}")
        return True
    return False


# --- what the keys of a role do -----------------------------------------------------------------


async def publish(site: LabSite, version: str, folder: Path | None = None) -> None:
    tree = site.folder / "trees" / version
    tree.mkdir(parents=True, exist_ok=True)
    (tree / "version").write_text(version, "utf-8")
    words = by(folder or site.fleet / "keys", "releases/main", 1)
    await site.firedoor("publish", "kiosk", version, str(tree), *words)


async def halt(site: LabSite, scope: str, folder: Path | None = None, *more: str) -> str:
    """Halt by one key of a folder; the order's id."""
    words = [*by(folder or site.fleet / "keys", "halt", 1), "--to", origin_of(site), *more]
    said = await site.firedoor("halt", scope, "--reason", "bad", *words)
    return said.split("signed ")[1].split(":")[0].strip()


async def resume(site: LabSite, order: str, folder: Path | None = None) -> None:
    words = [*by(folder or site.fleet / "keys", "resume", 2), "--to", origin_of(site)]
    await site.firedoor("resume", order, "--reason", "fine", *words)


async def with_two_resume_keys(site: LabSite, *words: str) -> None:
    keys = by(site.fleet / "keys", "resume", 2)
    await site.firedoor(*words, "--reason", "stolen", *keys, "--to", origin_of(site))


async def let_pass(site: LabSite, version: str, folder: Path | None = None) -> None:
    words = [*by(folder or site.fleet / "keys", "promote", 2), "--to", origin_of(site)]
    await site.firedoor("critical-fix", f"kiosk=={version}", "--reason", "the fix", *words)


# --- keys that root delegates to ----------------------------------------------------------------


def test_a_fleet_gets_over_halt_keys_stolen_and_lost(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        loot = steal(site, "halt")
        everything = ("--confirm", "everything")
        await halt(site, "everything", loot, *everything)
        await walk(site, "halt")
        # What the thief has signed outlives the rotation, and ends by a revocation.
        for each in files(loot, "halt"):
            await with_two_resume_keys(site, "revoke", keyid(each))
        # The rotation has signed it anew, so the new key's copy is lifted as well.
        for order in await in_force(site):
            await resume(site, order)
        await publish(site, "2.0")
        await site.until_running("kiosk", "2.0", [name])
        assert await is_refused(halt(site, "everything", loot, *everything))
        lose(site.fleet / "keys", "halt")
        await walk(site, "halt")
        await halt(site, "kiosk")
        await site.until_all("the new key halts", [name], is_halted)

    async def in_force(site: LabSite) -> list[str]:
        rows = (await site.statuses(["origin"]))["origin"]["orders"]
        return [row["id"] for row in rows if row.get("is_in_force")]

    tell(tmp_path, story)


def test_a_fleet_gets_over_resume_keys_stolen_and_lost(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        order = await halt(site, "kiosk")
        await site.until_all("it is halted", [name], is_halted)
        loot = steal(site, "resume")
        await walk(site, "resume")
        assert await is_refused(resume(site, order, loot))
        lose(site.fleet / "keys", "resume")
        await walk(site, "resume")
        await resume(site, order)
        await publish(site, "2.0")
        await site.until_running("kiosk", "2.0", [name])

    tell(tmp_path, story)


def test_a_fleet_gets_over_promote_keys_stolen_and_lost(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        await halt(site, "everything", None, "--confirm", "everything")
        await publish(site, "2.0")
        loot = steal(site, "promote")
        await walk(site, "promote")
        assert await is_refused(let_pass(site, "2.0", loot))
        lose(site.fleet / "keys", "promote")
        await walk(site, "promote")
        await let_pass(site, "2.0")
        await site.until_running("kiosk", "2.0", [name])

    tell(tmp_path, story)


def test_a_fleet_gets_over_a_publishers_keys_stolen_and_lost(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        loot = steal(site, "releases/main")
        await walk(site, "releases/main")
        assert await is_refused(publish(site, "6.6.6", loot))
        lose(site.fleet / "keys", "releases/main")
        await walk(site, "releases/main")
        await publish(site, "2.0")
        await site.until_running("kiosk", "2.0", [name])

    tell(tmp_path, story)


def is_halted(status: dict[str, object]) -> bool:
    return bool(release_of(status, "kiosk")["level"] == 4)


# --- the certificate in a key file --------------------------------------------------------------


def test_the_certificate_in_a_stolen_key_file_ends_and_its_owner_gets_another(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        loot = steal(site, "releases/main")
        [stolen] = files(loot, "releases/main")
        await walk(site, "releases/main")
        await with_two_resume_keys(site, "ban", machine_of(stolen))
        words = ("status", "--key", str(stolen), "--to", origin_of(site))
        assert await is_refused(site.firedoor(*words))
        # With the thief's certificate the owner's must not end: the new key file has its own.
        await publish(site, "2.0")
        await site.until_running("kiosk", "2.0", [name])

    tell(tmp_path, story)


def test_a_fleet_gets_over_a_stolen_operators_key(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await begin(site)
        [stolen] = files(steal(site, "operator"), "operator")
        await with_two_resume_keys(site, "ban", machine_of(stolen))
        assert await is_refused(site.firedoor(*token(site, stolen)))
        await walk(site, "operator")
        fresh = site.fleet / "keys" / "operator-2.key"
        assert machine_of(fresh) != machine_of(stolen)
        assert await site.firedoor(*token(site, fresh))
        assert await is_refused(site.firedoor(*token(site, stolen)))

    tell(tmp_path, story)


def test_a_fleet_gets_over_a_lost_operators_key(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await begin(site)
        lose(site.fleet / "keys", "operator")
        await walk(site, "operator")
        [fresh] = files(site.fleet / "keys", "operator")
        assert await site.firedoor(*token(site, fresh))
        # Every rotation asks the origin by it.
        await walk(site, "halt")

    tell(tmp_path, story)


def token(site: LabSite, key: Path) -> list[str]:
    enrol = f"{origin_of(site).partition(':')[0]}:{ENROL_PORT}"
    return ["token", "--role", "agent", "--site", "branch", "--enrol", enrol, "--key", str(key)]


# --- what the origin holds ----------------------------------------------------------------------


@pytest.mark.parametrize("role", ONLINE)
def test_a_fleet_gets_over_a_stolen_online_key(tmp_path: Path, role: str) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        stolen = keyid(site.fleet / "origin" / f"{role}.key")
        await walk(site, role)
        assert stolen[:12] not in await site.firedoor("keys", "list", "--fleet", str(site.fleet))
        await publish(site, "2.0")
        await site.until_running("kiosk", "2.0", [name])
        await halt(site, "kiosk")
        await site.until_all("it is halted", [name], is_halted)

    tell(tmp_path, story)


@pytest.mark.parametrize("role", ONLINE)
def test_a_fleet_gets_over_a_lost_online_key(tmp_path: Path, role: str) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        lose(site.fleet / "origin", role)
        await walk(site, role)
        await site.kill("origin")
        await site.start("origin")
        await publish(site, "2.0")
        await site.until_running("kiosk", "2.0", [name])

    tell(tmp_path, story)


def test_an_origin_that_has_lost_an_online_key_starts_so_that_root_can_turn_it(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        await site.kill("origin")
        lose(site.fleet / "origin", "timestamp")
        await site.start("origin")
        await walk(site, "timestamp")
        await publish(site, "2.0")
        await site.until_running("kiosk", "2.0", [name])

    tell(tmp_path, story)


def by_a_thief(site: LabSite) -> None:
    """Somebody has a copy."""


def by_a_broken_disk(site: LabSite) -> None:
    """Nobody has it any more."""
    lose(site.fleet / "origin", "ca")


@pytest.mark.parametrize("happens", [by_a_thief, by_a_broken_disk])
def test_machines_go_on_in_a_fleet_that_is_made_anew_for_want_of_its_certificate_authority(
    tmp_path: Path, happens: Callable[[LabSite], None]
) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        happens(site)
        root = site.programs[name].folder / "roots" / "kiosk"
        await site.kill(name)
        await site.kill("origin")
        anew = LabSite(tmp_path / "anew", site._lab)
        prefix, address = site._lab.host("anew")
        await anew.init(f"{address}:{PORT}", f"{address}:{ENROL_PORT}", prefix=prefix)
        await anew.start("origin")
        [again] = await anew.enrol(1, ["kiosk"], mirrors=[origin_of(anew)])
        # The same machine and the same product, with a state folder of its own.
        settings = anew.programs[again].folder / "settings.toml"
        text = settings.read_text("utf-8")
        own = anew.programs[again].folder / "roots" / "kiosk"
        settings.write_text(text.replace(str(own), str(root)), "utf-8")
        try:
            await anew.start(again)
            await publish(anew, "2.0")
            await anew.until_running("kiosk", "2.0", [again])
            assert (root / "current" / "version").read_text("utf-8") == "2.0"
            await halt(anew, "kiosk")
            await anew.until_all("the new fleet halts", [again], is_halted)
        finally:
            await anew.close()

    tell(tmp_path, story)


# --- root ---------------------------------------------------------------------------------------


def test_a_fleet_gets_over_a_stolen_root_key(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        loot = steal(site, "root")
        await walk(site, "root")
        signers = [word for path in files(loot, "root") for word in ("--signer", str(path))]
        assert await is_refused(walk(site, "halt", *signers))
        # What the thief tried has left half-made files; the owner goes on with them.
        await walk(site, "halt")
        await halt(site, "kiosk")
        await site.until_all("the new key halts", [name], is_halted)

    tell(tmp_path, story)


def test_a_fleet_of_three_root_keys_gets_over_one_that_is_lost(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site, "--root-keys", "3", "--root-threshold", "2")
        (site.fleet / "keys" / "root-2.key").unlink()
        await walk(site, "root")
        assert len(files(site.fleet / "keys", "root")) == 3
        await walk(site, "releases/main")
        await publish(site, "2.0")
        statuses = await site.until_running("kiosk", "2.0", [name])
        assert product_of(statuses[name], "kiosk")["rolled_back"] == 0

    tell(tmp_path, story)
