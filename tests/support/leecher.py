"""A BitTorrent leecher that holds a demand exactly and drops what it gets.

It is a measuring instrument: it asks for blocks only as its budget allows and counts payload as it arrives.
https://www.bittorrent.org/beps/bep_0003.html
"""

import asyncio
import os
import random
import struct
import time
from collections import deque
from typing import Final, Literal

from tests.support.meter import Meter

BLOCK: Final = 16 * 1024
TICK: Final = 0.02
_KEEP_ALIVE: Final = 50.0  # peers are dropped after 120 s of silence
_CHOKE, _UNCHOKE, _INTERESTED, _REQUEST, _PIECE, _CANCEL = 0, 1, 2, 6, 7, 8
_HEADER: Final = struct.Struct(">IB")
_PIECE_HEAD: Final = struct.Struct(">IBII")
_ASK: Final = struct.Struct(">IBIII")
_HANDSHAKE_SIZE: Final = 68


class Leecher(asyncio.Protocol):
    """One peer of one torrent. Everything here runs in the event loop's thread.

    Args:
        infohash: hexadecimal.
        size: of the content in bytes.
        piece: piece length in bytes.
        peer: address of the seed.
        source: our address, in 127.0.0.0/8.
        demand: bytes/s.
        order: how it walks through the content.
        when_idle: what becomes of the connection while the demand is 0.
        tries: connection attempts in a row before it gives up.

    Attributes:
        meter: payload bytes.
        state: "away", "connecting", "choked", "ready" or "failed".
        trouble: why the last connection ended.
    """

    # What belongs to one connection; `_forget_connection` gives all of it its first value.
    _transport: asyncio.Transport | None
    _asked: deque[tuple[int, int, int]]  # piece, begin, length
    _outstanding: int  # bytes in _asked
    _head: bytearray  # of the message that is coming in
    _head_size: int
    _head_seen: int
    _skip: int  # bytes of that message after its head
    _in_payload: bool
    _sent: float

    def __init__(
        self,
        infohash: str,
        size: int,
        piece: int,
        peer: tuple[str, int],
        *,
        source: str = "127.0.0.1",
        demand: float = 0.0,
        order: Literal["sequential", "random"] = "sequential",
        when_idle: Literal["open", "close"] = "open",
        tries: int = 60,
    ) -> None:
        self.infohash = infohash
        self.demand = demand
        self.meter = Meter()
        self.state = "away"
        self.trouble = ""
        self._info = bytes.fromhex(infohash)
        self._blocks, self._per_piece = size // BLOCK, piece // BLOCK
        self._peer, self._source = peer, source
        self._order, self._when_idle, self._tries = order, when_idle, tries
        self._failures, self._next_try = 0, 0.0
        self._connect: asyncio.Task[None] | None = None
        self._next_block = random.randrange(self._blocks)
        self._budget, self._filled = 0.0, time.monotonic()
        self._forget_connection()

    @property
    def wants_connection(self) -> bool:
        """Whether it is or tries to be connected."""
        return self.demand > 0 or self._when_idle == "open"

    def set_demand(self, demand: float) -> None:
        """Change the demand, bytes/s; at 0 what was asked for and not sent yet is cancelled."""
        now = time.monotonic()
        self._fill(now)
        self.demand = demand
        self._trim()
        self.tick(now)

    def tick(self, now: float) -> None:
        """Ask for what the budget allows, connect or disconnect as the demand wants it; to be called every `TICK`."""
        wanted = self.wants_connection
        if self._transport is None:
            if wanted and self._connect is None and self.state != "failed" and now >= self._next_try:
                self._connect = asyncio.get_running_loop().create_task(self._open())
            self._budget, self._filled = 0.0, now
        elif not wanted:
            self._transport.close()
        elif self.state == "ready" and self.demand > 0:
            self._fill(now)
            self._ask(now)
        else:
            self._filled = now
            if now - self._sent > _KEEP_ALIVE:
                self._send(bytes(4), now)

    async def close(self) -> None:
        """End the connection for good."""
        self.demand, self._when_idle = 0.0, "close"
        if self._connect is not None:
            self._connect.cancel()
            await asyncio.gather(self._connect, return_exceptions=True)
        if self._transport is not None:
            self._transport.abort()

    async def _open(self) -> None:
        self.state = "connecting"
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: self, *self._peer, local_addr=(self._source, 0))
        except OSError as error:
            self._gone(str(error))
        finally:
            self._connect = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # what create_connection makes
        self._transport = transport
        self.state = "choked"
        self._send(b"\x13BitTorrent protocol" + bytes(8) + self._info + b"-QT0001-" + os.urandom(12), time.monotonic())

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone(str(exc or "closed"))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        at, end = 0, len(data)
        while at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                if self._in_payload:
                    self.meter.count(step, now)
            else:
                self._head += data[at : at + self._head_size - len(self._head)]
                at += len(self._head) - self._head_seen
                self._head_seen = len(self._head)
                if self._head_seen == self._head_size and not self._on_head(bytes(self._head), now):
                    return
        if self.state == "ready" and self.demand > 0:
            self._fill(now)
            self._ask(now)

    def _on_head(self, head: bytes, now: float) -> bool:
        """Take a complete head; extend it or begin to skip what follows it. False when the connection is given up."""
        if self._head_size == _HANDSHAKE_SIZE:
            if head[28:48] != self._info:
                return self._give_up("it does not serve this torrent")
            self._failures = 0
            self._send(_HEADER.pack(1, _INTERESTED), now)
        elif len(head) == 4:
            if head != bytes(4):
                self._head_size = 5
                return True
        elif len(head) == 5:
            length, kind = _HEADER.unpack(head)
            if kind == _PIECE:
                self._head_size = 13
                return True
            self._skip, self._in_payload = length - 1, False
            if kind == _UNCHOKE:
                self.state, self._filled = "ready", now
            elif kind == _CHOKE:
                # A choke discards what was asked for.
                self.state = "choked"
                self._asked.clear()
                self._outstanding = 0
        else:
            length, _, piece, begin = _PIECE_HEAD.unpack(head)
            self._skip, self._in_payload = length - 9, True
            self._answered(piece, begin)
        self._head.clear()
        self._head_seen, self._head_size = 0, 4
        return True

    def _answered(self, piece: int, begin: int) -> None:
        # Nearly always the oldest; a cancelled block that came all the same is no longer in the queue.
        asked = self._asked
        for position, (a_piece, a_begin, length) in enumerate(asked):
            if (a_piece, a_begin) == (piece, begin):
                del asked[position]
                self._outstanding -= length
                return

    def _fill(self, now: float) -> None:
        # No more than a fifth of a second is caught up with: a demand is a rate, not a debt. The block on top is
        # the one that is being saved for; without it what accrues between two ticks would be lost.
        most = self.demand * 0.2 + self._block_size()
        self._budget = min(self._budget + self.demand * (now - self._filled), most)
        self._filled = now

    def _ask(self, now: float) -> None:
        block = self._block_size()
        window = self._window()
        asks = []
        while self._budget >= block and self._outstanding + block <= window:
            if self._order == "random" or self._next_block >= self._blocks:
                self._next_block = random.randrange(self._blocks) if self._order == "random" else 0
            piece, number = divmod(self._next_block, self._per_piece)
            self._next_block += 1
            asks.append(_ASK.pack(13, _REQUEST, piece, number * BLOCK, block))
            self._asked.append((piece, number * BLOCK, block))
            self._outstanding += block
            self._budget -= block
        if asks:
            self._send(b"".join(asks), now)

    def _trim(self) -> None:
        window = self._window() if self.demand > 0 else 0
        cancels = []
        while self._asked and self._outstanding > window:
            piece, begin, length = self._asked.pop()
            self._outstanding -= length
            cancels.append(_ASK.pack(13, _CANCEL, piece, begin, length))
        if cancels and self._transport is not None:
            self._send(b"".join(cancels), time.monotonic())

    def _block_size(self) -> int:
        # Four blocks a second or more, down to 1 KiB, so that a small demand is a trickle and no row of lumps.
        block = BLOCK
        while block > 1024 and block * 4 > self.demand:
            block //= 2
        return block

    def _window(self) -> int:
        # One second of demand is in flight: enough for the seed, which gives quota out twice a second, to be held back
        # by its limit alone. Never the whole content, so that no block is asked for twice at a time.
        return min(max(int(self.demand), 4 * self._block_size()), 8 * 1024 * 1024, self._blocks * BLOCK * 3 // 4)

    def _send(self, data: bytes, now: float) -> None:
        assert self._transport is not None
        self._transport.write(data)
        self._sent = now

    def _give_up(self, trouble: str) -> bool:
        self.trouble = trouble
        if self._transport is not None:
            self._transport.abort()
        return False

    def _gone(self, trouble: str) -> None:
        self._failures += 1
        self._next_try = time.monotonic() + min(0.1 * self._failures, 1.0)
        self.state = "failed" if self._failures >= self._tries else "away"
        self.trouble = self.trouble or trouble
        self._forget_connection()

    def _forget_connection(self) -> None:
        self._transport = None
        self._asked = deque()
        self._outstanding = 0
        self._head, self._head_size, self._head_seen = bytearray(), _HANDSHAKE_SIZE, 0
        self._skip, self._in_payload = 0, False
        self._sent = 0.0
