"""Programs of version 0.1 beside those of this tree, in one fleet, as while it is upgraded.

The old ones come out of this repository's own history. In the two stories each program of either
version meets each other kind of program of the other version. Every later change of the protocol
adds what it changes to what is looked at here.
"""

import json
import subprocess
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pytest

from firedoor import __version__
from firedoor.cli.demo.local_fleet import Program, version_of
from firedoor.identity import Role
from tests.live.lab import STEP_S, LabSite, Table, tell

pytestmark = pytest.mark.live

HERE = Path(__file__).parents[2]
VERSION_0_1 = "befd74c"
PACKAGES = ("firedoor", "mirror", "agent")
PRODUCT = "kiosk"


def old_code(folder: Path) -> Path:
    """The programs of version 0.1, in a folder of their own."""
    command = ("git", "-C", str(HERE), "archive", VERSION_0_1, *PACKAGES)
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip("this checkout has no history: git cannot export version 0.1")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


class MixedSite(LabSite):
    """A fleet with a mirror of each version, and below each an endpoint of each version."""

    def at_version(self, program: Program, code: Path | None) -> Program:
        """The same program, run from `code`."""
        program.code = code
        return program

    async def begin_mixed(self, old: Path, *, origin: Path | None) -> list[str]:
        """Start everything; the names of the endpoints."""
        prefix, address = self._lab.host("origin")
        # Versions meet where a fleet of 0.1 is upgraded; its CA is one of that time.
        await self.init(f"{address}:7443", f"{address}:7444", prefix=prefix, code=old)
        self.programs["origin"].code = origin
        await self.start("origin")
        upstream = {"upstream": [self.programs["origin"].address]}
        names = []
        for version, code in (("old", old), ("new", None)):
            mirror = f"{version}-mirror"
            program = self.program(mirror, Role.MIRROR, upstream)
            await self.add(self.at_version(program, code), site=version)
            await self.start(mirror)
            for other, below in (("old", old), ("new", None)):
                name = f"{other}-below-{version}"
                options: Table = {
                    "mirrors": [self.programs[mirror].address],
                    "products": {
                        PRODUCT: {"root": str(self.folder / name / "root"), "settle_s": 0.0}
                    },
                }
                endpoint = self.program(name, Role.AGENT, options | {"mdns": []})
                endpoint.options["mdns"] = []
                await self.add(self.at_version(endpoint, below), site=version)
                names.append(name)
        await self.start_all(names)
        return names

    async def publish_from(self, code: Path | None, version: str) -> None:
        """Publish 256 KiB with the command of one version."""
        tree = self.folder / "trees" / version
        tree.mkdir(parents=True)
        (tree / "content.bin").write_bytes(version.encode() * (1 << 16))
        words = ("publish", PRODUCT, version, str(tree), "--fleet", str(self.fleet))
        await self.firedoor(*words, code=code)

    async def halt_from(self, code: Path | None, scope: str, *, at: str, level: int) -> None:
        """Halt with the command of one version, at one program."""
        key = str(self.fleet / "keys" / "halt-1.key")
        words = ("halt", scope, "--reason", "it is bad", "--level", str(level), "--key", key)
        await self.firedoor(*words, "--to", self.programs[at].address, code=code)

    async def until_each_has(self, count: int, names: Sequence[str]) -> None:
        """Wait until every one of `names` has `count` halts on its disk."""
        await self.until_all(
            f"{count} halt(s) are recorded",
            names,
            lambda each: sum(row["is_recorded"] for row in each["orders"]) == count,
        )

    async def until_versions_are_known(self) -> None:
        """Wait until the origin knows the version of each endpoint whose way up is of this one."""
        agents = {name: each for name, each in self.programs.items() if each.role is Role.AGENT}
        ids = {name: (await self.status(name) or {})["id"] for name in agents}
        wanted = {ids[name]: "" for name in agents} | {ids["new-below-new"]: __version__}

        async def look() -> bool:
            rows = (await self.status("origin") or {}).get("endpoints", [])
            return {row["id"]: row["version"] for row in rows} == wanted

        await self.until("the origin knows who runs what", look, STEP_S)

    def drops(self) -> dict[str, int]:
        """How often each program has ended a conversation over something that it was sent."""
        found = {}
        for name, program in self.programs.items():
            lines = (program.folder / "log").read_text("utf-8").splitlines()
            events = [json.loads(line) for line in lines if line.startswith("{")]
            # Of two connections between a pair one is closed; keys that come later sync anew.
            found[name] = sum(
                each.get("event") == "peer-dropped" and "syncing anew" not in each.get("why", "")
                for each in events
            )
        return found


@pytest.mark.parametrize("origin", ["0.1", "this"])
def test_a_fleet_of_two_versions_installs_and_halts(tmp_path: Path, origin: str) -> None:
    old = old_code(tmp_path / "old-code")

    async def story(site: LabSite) -> None:
        assert isinstance(site, MixedSite)
        endpoints = await site.begin_mixed(old, origin=old if origin == "0.1" else None)
        everybody = list(site.programs)
        await site.publish_from(old, "1.0")
        await site.until_running(PRODUCT, "1.0", endpoints)
        await site.publish_from(None, "2.0")
        await site.until_running(PRODUCT, "2.0", endpoints)
        # Down from the origin, and up from below each mirror, by either version's command.
        await site.halt_from(old, f"{PRODUCT}==2.0", at="new-below-old", level=6)
        await site.until_each_has(1, everybody)
        await site.until_running(PRODUCT, "1.0", endpoints)
        await site.halt_from(None, f"{PRODUCT}==9.0", at="old-below-new", level=4)
        await site.until_each_has(2, everybody)
        await site.publish_from(None, "3.0")
        statuses = await site.until_running(PRODUCT, "3.0", endpoints)
        assert {version_of(each, PRODUCT) for each in statuses.values()} == {"3.0"}
        assert set(site.drops().values()) == {0}
        if origin == "this":
            await site.until_versions_are_known()

    tell(tmp_path, story, MixedSite)
