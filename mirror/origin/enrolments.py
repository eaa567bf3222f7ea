"""Who may join: single-use tokens, and every peer that was ever given a certificate.

* A token's secret is stored as its digest only; it enrols one key, and the same key again while it
  lasts, so that a lost answer does not strand a machine.
* A renewal needs no token: the request proves the key, and this file knows its role, site and ring.
"""

import secrets
import sqlite3
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from firedoor.errors import Malformed, TooLarge, Unavailable, Untrusted
from firedoor.identity import RING_DEFAULT, Peer, PeerId, Role, checked_name
from firedoor.units import UnixTime

# A token is typed or pasted within minutes; a week covers a technician's round of far sites.
TOKEN_SPAN_MAX_S = 7 * 24 * 3600

# Tokens waiting at one time: more than a site has machines, and 4,096 rows are nothing.
TOKENS_OPEN_MAX = 4096

_TABLES = """
CREATE TABLE IF NOT EXISTS tokens (
  digest TEXT PRIMARY KEY, role TEXT NOT NULL, site TEXT NOT NULL, ring TEXT NOT NULL,
  until INTEGER NOT NULL, used_by TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS peers (
  id TEXT PRIMARY KEY, role TEXT NOT NULL, site TEXT NOT NULL, ring TEXT NOT NULL,
  enrolled_at INTEGER NOT NULL, renewed_at INTEGER NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token or an earlier enrolment allows."""

    role: Role
    site: str
    ring: str = RING_DEFAULT


class Enrolments:
    """Tokens and enrolled peers in one SQLite file; every change is durable when it returns."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.executescript(_TABLES)
            self._add_rings()
            query = "SELECT id, site FROM peers WHERE role = ?"
            # Asked for each report, in the event loop, which must not wait for a writer's disk.
            rows = self._base.execute(query, (Role.AGENT.value,)).fetchall()
            self._sites = {PeerId(row[0]): str(row[1]) for row in rows}
        except sqlite3.Error as error:
            raise Unavailable(str(path), why=str(error)) from error

    def _add_rings(self) -> None:
        """Give the tables of before there were rings their column."""
        for table in ("tokens", "peers"):
            columns = self._base.execute(f"PRAGMA table_info({table})").fetchall()
            if "ring" not in {column[1] for column in columns}:
                default = f"TEXT NOT NULL DEFAULT '{RING_DEFAULT}'"
                self._base.execute(f"ALTER TABLE {table} ADD COLUMN ring {default}")

    def close(self) -> None:
        """Let go of the file, once nobody is at it."""
        with self._lock:
            self._base.close()

    def issue(
        self, role: Role, site: str, *, span_s: int, now: UnixTime, ring: str = RING_DEFAULT
    ) -> str:
        """A new secret that enrols one peer of this role, site and ring within `span_s` seconds.

        Raises:
            Malformed: an operator's role, a site or a ring that cannot be one, a span out of range.
            TooLarge: too many tokens are open.
        """
        if role is Role.OPERATOR:
            raise Malformed("token's role", wanted="agent or mirror", got=role.value)
        checked_name("site", site)
        checked_name("ring", ring)
        if not 0 < span_s <= TOKEN_SPAN_MAX_S:
            wanted = f"1 to {TOKEN_SPAN_MAX_S} seconds"
            raise Malformed("token's span", wanted=wanted, got=str(span_s))
        secret = secrets.token_urlsafe(32)
        with self._lock:
            self._base.execute("DELETE FROM tokens WHERE until <= ?", (now,))
            (count,) = self._base.execute(
                "SELECT count(*) FROM tokens WHERE used_by IS NULL"
            ).fetchone()
            if count >= TOKENS_OPEN_MAX:
                raise TooLarge("open tokens", limit=TOKENS_OPEN_MAX, size=count + 1)
            row = (_digest(secret), role.value, site, ring, now + span_s)
            self._base.execute(
                "INSERT INTO tokens (digest, role, site, ring, until) VALUES (?, ?, ?, ?, ?)", row
            )
        return secret

    def redeem(self, secret: str, peer: PeerId, now: UnixTime) -> Grant:
        """Use up a token for `peer`, and remember the peer.

        Raises:
            Untrusted: no such token, its time is over, or another key has used it.
        """
        with self._lock, self._base:
            self._base.execute("BEGIN IMMEDIATE")
            row = self._base.execute(
                "UPDATE tokens SET used_by = ?1 WHERE digest = ?2 AND until > ?3"
                " AND (used_by IS NULL OR used_by = ?1) RETURNING role, site, ring",
                (peer, _digest(secret), now),
            ).fetchone()
            if row is None:
                raise Untrusted("token", wanted="one that is open", got="unknown, used or expired")
            self._base.execute(
                "INSERT INTO peers (id, role, site, ring, enrolled_at, renewed_at)"
                " VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT (id) DO UPDATE"
                " SET role = ?2, site = ?3, ring = ?4, renewed_at = ?5",
                (peer, *row, now),
            )
        self._note(peer, Role(row[0]), row[1])
        return Grant(Role(row[0]), row[1], row[2])

    def put_back(self, peer: Peer, now: UnixTime) -> None:
        """Remember a peer that shows a certificate of this fleet; what is known of it stays."""
        with self._lock:
            self._base.execute(
                "INSERT INTO peers (id, role, site, ring, enrolled_at, renewed_at)"
                " VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT (id) DO NOTHING",
                (peer.id, peer.role.value, peer.site, peer.ring, now),
            )
        if peer.id not in self._sites:
            self._note(peer.id, peer.role, peer.site)

    def renew(self, peer: PeerId, now: UnixTime) -> Grant:
        """The role, site and ring of an enrolled peer, which is renewing now.

        Raises:
            Untrusted: it was never enrolled.
        """
        with self._lock:
            row = self._base.execute(
                "UPDATE peers SET renewed_at = ? WHERE id = ? RETURNING role, site, ring",
                (now, peer),
            ).fetchone()
        if row is None:
            raise Untrusted(f"peer {peer[:12]}", wanted="an enrolled peer", got="an unknown one")
        return Grant(Role(row[0]), row[1], row[2])

    def site_of(self, peer: PeerId) -> str | None:
        """The site of an endpoint; None: no such one was ever enrolled."""
        return self._sites.get(peer)

    def _note(self, peer: PeerId, role: Role, site: str) -> None:
        if role is Role.AGENT:
            self._sites[peer] = site
        else:
            self._sites.pop(peer, None)

    def peers(self, role: Role) -> list[tuple[PeerId, str]]:
        """Id and site of everyone who was ever enrolled in a role, in order of id."""
        query = "SELECT id, site FROM peers WHERE role = ? ORDER BY id"
        with self._lock:
            rows = self._base.execute(query, (role.value,)).fetchall()
        return [(PeerId(row[0]), str(row[1])) for row in rows]


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
