"""The ports of a host: `Program` above it, `Driver` for its parts, `Signer` for a beacon key.

A daemon implements `Program` and passes itself to `Host.run`. Connections, fetches, multicast and
metadata sources get a `Driver`, never the whole `Host`, so that no file imports the one above it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from firedoor.effects import Effect
from firedoor.identity import PeerId
from firedoor.node.node import Node
from firedoor.node.settings import NodeSettings
from firedoor.runtime.clocks import Clock
from firedoor.trust.keys import Authority
from firedoor.wire.messages import Message


class Program(Protocol):
    """What a daemon adds to the host. Nothing here may block; the host calls it in its loop."""

    def on_message(self, message: Message, sender: PeerId) -> None:
        """An announcement, a report, a receipt, a roster or a recorded notice came.

        When this node itself has recorded an order, `sender` is its own id.
        """

    def on_synced(self, peer: PeerId) -> None:
        """Nothing is undelivered between this node and `peer`."""

    def on_gone(self, peer: PeerId) -> None:
        """A standing connection has ended."""

    def on_cut(self) -> None:
        """An order of any kind was admitted; if it is a halt, less may move or run from now on."""

    def on_changed(self) -> None:
        """What may move here has changed other than by an order that came just now.

        A resume acts, a lease came or lapsed, an order was committed, or this node has caught up.
        """

    async def on_complete(self, manifest: str) -> None:
        """Every piece of a release is here."""

    def on_no_room(self, manifest: str) -> None:
        """The fetch of a release was given up; `Fetching.no_room` says why."""


class IdleProgram:
    """A `Program` that does nothing: the host has it until `Host.run` brings the daemon's."""

    def on_message(self, message: Message, sender: PeerId) -> None:
        """Do nothing."""

    def on_synced(self, peer: PeerId) -> None:
        """Do nothing."""

    def on_gone(self, peer: PeerId) -> None:
        """Do nothing."""

    def on_cut(self) -> None:
        """Do nothing."""

    def on_changed(self) -> None:
        """Do nothing."""

    async def on_complete(self, manifest: str) -> None:
        """Do nothing."""

    def on_no_room(self, manifest: str) -> None:
        """Do nothing."""


class Signer(Protocol):
    """A beacon key at work: the origin's, a second origin's or a witness's."""

    def lease(self, ids: tuple[bytes, ...], nonces: bytes, held: Authority) -> bytes:
        """The signed answer to these nonces: these orders are committed, metadata is as `held`."""

    def vouch(self, record: bytes) -> bytes:
        """The origin's record with the signature of this key added."""


class Driver(Protocol):
    """What a part of the host may use: who this node is, what it decides, and four actions."""

    @property
    def settings(self) -> NodeSettings:
        """Who this node is, for its whole life."""

    @property
    def clock(self) -> Clock:
        """The clocks of this machine."""

    @property
    def node(self) -> Node:
        """What decides."""

    @property
    def trusted(self) -> asyncio.Event:
        """Set once signed metadata was read, so that orders can be checked."""

    @property
    def program(self) -> Program:
        """The daemon that this host serves."""

    def apply(self, effects: list[Effect]) -> None:
        """Execute `effects` in order."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` under the host's care; its errors end it alone, in the log."""

    def send(self, peer: PeerId, message: object) -> bool:
        """Queue one message for `peer`; whether it was queued."""

    def drop(self, peer: PeerId, why: str) -> None:
        """End the connection to a peer."""
