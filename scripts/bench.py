"""Measure the allocators, from 1,000 to 100,000 torrents: `make bench`.

What is measured is one request after another, as cycles make them: the state is carried along, rates jitter, a torrent
in a thousand falls asleep and as many wake. Times are medians of processor time. Those of one run can be compared with
each other; those of two machines, or of one machine on two days, can not: hence the loops in plain Python beside them.
"""

import argparse
import hashlib
import math
import statistics
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from allocators.base import (
    MAX_LIMIT,
    Allocation,
    Float64,
    Int64,
    Options,
    Request,
    check,
    load_strategy,
    overcommit_of,
    promised_rate,
)
from allocators.claims import HEADROOM, LEAST_ROOM, TIGHT
from allocators.grid import FEW, STEP
from allocators.scoring import STEADY, UNIT
from allocators.settle import BAND, UNUSED
from allocators.standing import DEFAULT_WAKEUPS
from allocators.waterfill import waterfill
from qguard import plan as planning
from qguard.plan import Why

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
TRACKERS = 50
PARTS_AWAKE = (0.1, 1.0)
STRATEGIES = ("equal", "weighted", "soft", "adaptive")
SEED = 20_26
CYCLE = 5.0
COLD, WARM = 8, 41
"""Cycles until strategies have settled, and cycles that are measured."""

JITTER = 0.05
"""Standard deviation of a rate around what the torrent wants or may have."""

RESTLESS = 0.001
"""The part of the torrents that falls asleep in each cycle, and that wakes."""

TARGETS = {"equal": 0.5, "weighted": 5.0, "soft": 5.0, "adaptive": 5.0, "plan": 5.0, "first plan": 5.0}
TARGET_SIZE = 30_000
"""Milliseconds, and for how many torrents."""


class World:
    """A client and its swarm: what each torrent would upload if it might, and what its limit lets through."""

    def __init__(self, torrents: int, part_awake: float) -> None:
        self.random = np.random.default_rng([SEED, torrents, int(part_awake * 10)])
        random = self.random
        # A few trackers with many torrents, many with few.
        share = np.arange(1, TRACKERS + 1) ** -0.8
        size = np.maximum((share / share.sum() * torrents).astype(np.int64), 1)
        size[0] += torrents - size.sum()
        self.start = np.cumsum(size) - size
        self.size = size
        self.awake = random.random(torrents) < part_awake
        self.wants = random.lognormal(np.log(40 * 1024), 1.5, torrents)
        self.leechers = random.geometric(0.3, torrents).astype(np.int64)
        self.ceiling = np.where(random.random(torrents) < 0.02, 200 * 1024, MAX_LIMIT)
        self.floor = np.where(random.random(torrents) < 0.02, 20 * 1024, 0)
        # From a tracker that is given half of what its torrents want to one that is given twice as much.
        wanted = np.add.reduceat(np.where(self.awake, self.wants, 0), self.start)
        self.cap = np.maximum(wanted * np.exp2(random.uniform(-1, 1, TRACKERS)), 2**20).astype(np.int64)
        self.priority = random.integers(1, 11, TRACKERS)
        self.infohash = np.array(
            [
                row
                for first, count in zip(self.start, size, strict=True)
                for row in sorted(hashlib.sha1(b"%d" % i).hexdigest() for i in range(first, first + count))
            ],
            "S40",
        )
        self.limit = np.zeros(torrents, np.int64)
        self.pressed = np.zeros(torrents, np.bool_)

    def requests(self) -> Iterator[Request]:
        """One request after another; `limit` is what the client has at that moment."""
        count = len(self.limit)
        few = int(RESTLESS * count)
        elapsed = 0.0
        while True:
            if not self.awake.all():
                tired = self.random.choice(np.flatnonzero(self.awake), few)
                fresh = self.random.choice(np.flatnonzero(~self.awake), few)
                self.awake[tired], self.awake[fresh] = False, True
            finite = np.where(self.limit > 0, self.limit, np.inf)
            noise = 1 + JITTER * self.random.standard_normal(count)
            rate = np.where(self.awake, np.maximum(np.minimum(self.wants * noise, finite), 0), 0)
            # As `qguard.demand` judges it.
            self.pressed = self.awake & (rate >= np.where(self.pressed, 0.70, 0.85) * finite)
            yield Request(
                tracker=tuple(f"tracker-{g}" for g in range(TRACKERS)),
                start=self.start,
                base_cap=self.cap,
                outside=np.zeros(TRACKERS, np.int64),
                wakeups=np.full(TRACKERS, DEFAULT_WAKEUPS, np.int64),
                priority=self.priority,
                guaranteed=np.zeros(TRACKERS, np.int64),
                hard=np.zeros(TRACKERS, np.bool_),
                may_lend=np.ones(TRACKERS, np.bool_),
                may_borrow=np.ones(TRACKERS, np.bool_),
                infohash=self.infohash,
                rate=rate,
                leechers=self.leechers,
                awake=self.awake.copy(),
                pressing=self.pressed,
                current=self.limit.copy(),
                floor=self.floor,
                ceiling=self.ceiling,
                elapsed=elapsed,
            )
            elapsed = CYCLE


Result = TypeVar("Result")


@dataclass
class Measured:
    """What was found out about one strategy in one world."""

    times: dict[str, list[float]] = field(default_factory=dict)
    """Milliseconds by what was timed."""
    first_calls: int = 0
    """How many calls the first plan takes, which changes every torrent."""
    written: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    over: int = 0
    """The most by which a tracker's limits were above what they may add up to, bytes/s."""
    under: list[float] = field(default_factory=list)
    """The parts of the caps that were not given to anybody."""

    def timed(self, what: str, function: Callable[..., Result], *values: Any, **named: Any) -> Result:  # noqa: ANN401
        """Call, and note how long it takes."""
        began = time.process_time()
        result = function(*values, **named)
        self.times.setdefault(what, []).append(1000 * (time.process_time() - began))
        return result

    def ms(self, what: str) -> float:
        """The median, in milliseconds."""
        return statistics.median(self.times[what])


def measure(name: str, torrents: int, part_awake: float) -> Measured:
    """Take one strategy through its cycles."""
    world, options, result = World(torrents, part_awake), Options(), Measured()
    strategy = load_strategy(name, options)
    overcommit = overcommit_of(strategy, options)
    state = None
    since_written = np.full(torrents, np.inf)
    for cycle, request in zip(range(COLD + WARM), world.requests(), strict=False):
        warm = cycle >= COLD
        steps = result if warm else Measured()
        answer, state = steps.timed("strategy", strategy.allocate, request, state)
        steps.timed("check", check, name, request, answer, overcommit=overcommit)
        since_written += CYCLE
        why = np.where(request.awake, Why.SHARE, Why.STANDING)
        which, notes = ("plan", steps) if cycle else ("first plan", result)
        plan = notes.timed(which, make_plan, request, answer, why, since_written)
        result.first_calls = result.first_calls if cycle else len(plan.calls)
        world.limit[plan.rows], since_written[plan.rows] = plan.new, 0.0
        if warm:
            add_sums(result, request, answer, overcommit)
            result.written.append(len(plan))
            result.values.append(len(np.unique(plan.new)))
    return result


def make_plan(request: Request, answer: Allocation, why: Int64, since_written: Float64) -> planning.Plan:
    """As `qguard.decision` asks for it, without staging: the first plan holds every torrent."""
    return planning.make(
        request.current,
        answer.limit,
        why,
        since_written=since_written,
        first_contact=np.zeros(len(why), np.bool_),
        heat=request.leechers,
        small_raise=0.2,
        first_contact_batch=500,
    )


def add_sums(result: Measured, request: Request, answer: Allocation, overcommit: float) -> None:
    """How far the limits of each tracker are from its cap, K sleepers counted as `check` counts them."""
    promised = promised_rate(request, answer.limit) + request.outside
    most = np.floor(answer.effective_cap * overcommit).astype(np.int64)
    result.over = max(result.over, int((promised - most).max()))
    # Only where somebody could take more: not of trackers that sleep, or whose torrents all have a bound of their own.
    wanting = request.total(request.awake & (answer.limit < request.ceiling)) > 0
    under = np.maximum(answer.effective_cap - promised, 0)[wanting].sum()
    result.under.append(float(under / max(answer.effective_cap[wanting].sum(), 1)))


def kernel_problem(torrents: int, part_awake: float) -> tuple[Int64, Int64, Int64, Int64, Int64]:
    """Cap, start, weight, lo and hi as `weighted` would have them: sleepers have nothing to be decided."""
    world = World(torrents, part_awake)
    weight = world.random.integers(1, 2**16, torrents)
    lo = np.where(world.awake, np.minimum(10 * 1024, world.ceiling), 0)
    hi = np.where(world.awake, np.maximum(world.wants * 1.25, lo).astype(np.int64), 0)
    return world.cap, world.start, weight, lo, hi


def plain_kernel(cap: Int64, start: Int64, weight: Int64, lo: Int64, hi: Int64) -> list[int]:
    """`allocators.waterfill` in plain Python, tracker by tracker, without the rows that have nothing to be decided."""
    caps, starts = cap.tolist(), [*start.tolist(), len(weight)]
    weights, least, most = weight.tolist(), lo.tolist(), hi.tolist()
    x: list[int] = []
    for g, amount in enumerate(caps):
        rows = slice(starts[g], starts[g + 1])
        x += plain_fill(amount, weights[rows], least[rows], most[rows])
    return x


def plain_fill(cap: int, weight: list[int], lo: list[int], hi: list[int], *, even: bool = False) -> list[int]:
    """Newton's method within a bracket, then whole bytes: one tracker."""
    if sum(lo) > cap:
        lo, hi = [0] * len(lo), lo
    target = min(cap, sum(hi))
    moving = [(w, a, b) for w, a, b in zip(weight, lo, hi, strict=True) if a < b]
    if not moving:
        return list(lo)
    target -= sum(a for a, b in zip(lo, hi, strict=True) if a == b)
    below, above = 0.0, max(b / w for w, _, b in moving)
    level = min(target / sum(w for w, _, _ in moving), above)
    while True:
        filled, slope = 0.0, 0
        for w, a, b in moving:
            wish = level * w
            if wish <= a:
                filled += a
            elif wish >= b:
                filled += b
            else:
                filled += wish
                slope += w
        gap = target - filled
        if abs(gap) <= max(0.25, 4e-16 * target):
            break
        if gap > 0:
            below = max(below, level)
        else:
            above = min(above, level)
        newton = level + gap / slope if slope else above
        level = newton if below < newton < above else (below + above) / 2
    return plain_whole_bytes(target, level, weight, lo, hi, even=even)


def plain_whole_bytes(
    target: int, level: float, weight: list[int], lo: list[int], hi: list[int], *, even: bool
) -> list[int]:
    """Bounded rows take their bound, the others share what is left, and the last bytes go to the first with room.

    Or to nobody, with `even`.
    """
    x = [0] * len(lo)
    free, bounded, free_weight = [], 0, 0
    for i, (w, a, b) in enumerate(zip(weight, lo, hi, strict=True)):
        if a < level * w < b:
            free.append(i)
            free_weight += w
        else:
            x[i] = b if level * w >= b else a
            bounded += x[i] if a < b else 0
    left = max(target - bounded, 0)
    for i in free:
        x[i] = min(max(weight[i] * left // free_weight, lo[i]), hi[i])
    rest = target - bounded - sum(x[i] for i in free)
    if even:
        rest = min(rest, 0)
    step = 1 if rest > 0 else -1
    while rest:
        for i in [*free, *(i for i in range(len(x)) if lo[i] < hi[i])]:
            if rest and lo[i] <= x[i] + step <= hi[i]:
                x[i] += step
                rest -= step
    return x


@dataclass
class Row:
    """A torrent, as the plain loops see it."""

    infohash: bytes
    rate: float
    leechers: int
    awake: bool
    pressing: bool
    current: int
    floor: int
    ceiling: int
    lo: int = 0
    hi: int = 0
    weight: int = 1
    most: int = 0
    wanted: int = 0
    held: int = 0
    claim: float = 0.0
    score: float = 0.0
    limit: int = 0


COLUMNS = ("infohash", "rate", "leechers", "awake", "pressing", "current", "floor", "ceiling")


def rows_by_tracker(request: Request) -> list[list[Row]]:
    """The torrents of a request, not timed: a program without arrays would have them like this."""
    rows = [Row(*values) for values in zip(*(getattr(request, name).tolist() for name in COLUMNS), strict=True)]
    starts = [*request.start.tolist(), len(rows)]
    return [rows[first:last] for first, last in pairwise(starts)]


def plain_budget(cap: int, wakeups: int, rows: list[Row]) -> tuple[int, list[Row]]:
    """`allocators.budget`: give sleepers their standing limit; what is left, and those that share it."""
    standing = 1 << int(min(max(cap * 0.05 / wakeups, 1), MAX_LIMIT)).bit_length() - 1
    sharing = []
    for row in rows:
        if row.awake or row.floor:
            row.lo = min(max(row.floor, 1), row.ceiling)
            row.hi = row.ceiling if row.awake else row.lo
            sharing.append(row)
        else:
            row.limit = min(row.current if standing // 2 < row.current < standing else standing, row.ceiling)
    sleepers = len(rows) - len(sharing)
    return cap - min(wakeups, 1 << (sleepers - 1).bit_length() if sleepers else 0) * standing, sharing


def plain_share(total: int, rows: list[Row], lo: list[int], tiers: list[list[int]], *, even: bool = False) -> list[int]:
    """`allocators.budget.share`."""
    if not rows:
        return []
    least, most = lo, tiers[0]
    for tier in tiers[1:]:
        if sum(most) < total:
            least, most = most, [max(a, b) for a, b in zip(tier, most, strict=True)]
    extra = plain_fill(
        max(total - len(rows), 0),
        [row.weight for row in rows],
        [min(a, b) - 1 for a, b in zip(least, most, strict=True)],
        [b - 1 for b in most],
        even=even,
    )
    return [1 + x for x in extra]


def plain_equal(request: Request, trackers: list[list[Row]]) -> list[int]:
    """`allocators.equal` in plain Python; no link, and nothing is used outside."""
    for cap, wakeups, rows in zip(request.base_cap.tolist(), request.wakeups.tolist(), trackers, strict=True):
        total, sharing = plain_budget(cap, wakeups, rows)
        shares = plain_share(total, sharing, [row.lo for row in sharing], [[row.hi for row in sharing]])
        for row, limit in zip(sharing, shares, strict=True):
            row.limit = limit
    return [row.limit for rows in trackers for row in rows]


Remembered = dict[bytes, tuple[int, float, float]]


def plain_weighted(request: Request, trackers: list[list[Row]], options: Options, before: Remembered) -> list[int]:
    """`allocators.weighted` in plain Python; no link, and nothing is used outside."""
    for rows in trackers:
        for row in rows:
            plain_score_and_claim(row, options, before)
    plain_common_weights(trackers, options.max_managed_torrents)
    for cap, wakeups, rows in zip(request.base_cap.tolist(), request.wakeups.tolist(), trackers, strict=True):
        total, sharing = plain_budget(cap, wakeups, rows)
        most = math.ceil(cap * options.max_torrent_share)
        for row in sharing:
            if row.awake:
                row.lo = min(max(options.min_torrent_upload_speed, row.lo), row.hi)
            row.most = min(max(most, row.lo), row.hi)
            row.wanted = row.most if row.pressing else min(max(math.ceil(row.claim), row.lo), row.most)
        shares = plain_share(
            total,
            sharing,
            [row.lo for row in sharing],
            [[row.wanted for row in sharing], [row.most for row in sharing], [row.hi for row in sharing]],
            even=True,
        )
        plain_settle(total, sharing, shares, plain_on_grid(total, sharing, shares))
    return [row.limit for rows in trackers for row in rows]


def plain_score_and_claim(row: Row, options: Options, before: Remembered) -> None:
    """`allocators.scoring.scores` and `allocators.claims.claims`."""
    row.held, claim, score = before.get(row.infohash, (0, 0.0, 0.0))
    leechers = min(row.leechers / options.full_score_leechers, 1)
    rate = min(row.rate / options.full_score_rate, 1)
    row.score = options.leechers_weight * leechers + (1 - options.leechers_weight) * rate
    if score > 0 and abs(row.score - score) <= STEADY * score:
        row.score = score
    row.claim = row.rate * HEADROOM + LEAST_ROOM
    if row.rate * TIGHT <= claim <= 2 * row.claim:
        row.claim = claim
    row.weight = max(round(row.score * UNIT), 1)


def plain_common_weights(trackers: list[list[Row]], most: int) -> None:
    """`allocators.scoring.weights`: beyond the best `most`, all of a tracker weigh the same."""
    awake = [(row, g) for g, rows in enumerate(trackers) for row in rows if row.awake]
    common: list[list[Row]] = [[] for _ in trackers]
    for row, g in sorted(awake, key=lambda pair: -pair[0].weight)[most:]:
        common[g].append(row)
    for rows in common:
        if rows:
            mean = max(round(sum(row.weight for row in rows) / len(rows)), 1)
            for row in rows:
                row.weight = mean


GRID = [0, *sorted({math.floor((1 + STEP) ** k) for k in range(441)}), MAX_LIMIT]


def plain_on_grid(total: int, rows: list[Row], shares: list[int]) -> list[int]:
    """`allocators.grid.on_grid`, value by value."""
    x, top = list(shares), [row.most for row in rows]
    if sum(top) < total:
        top = [row.hi for row in rows]
    total = min(max(total, len(rows)), sum(top))
    free = [i for i, share in enumerate(shares) if share < top[i]]
    if len(free) <= FEW:
        for i in sorted(free, key=lambda i: shares[i] == rows[i].lo)[: total - sum(x)]:
            x[i] += 1
        return x
    values: dict[int, list[int]] = {}
    for i in free:
        values.setdefault(bisect_right(GRID, shares[i]) - 1, []).append(i)
    lost = []
    for place, holders in values.items():
        for i in holders:
            lo = rows[i].lo
            x[i] = max(GRID[place], lo) if lo <= shares[i] else GRID[place]
            top[i] = min(GRID[place + 1], top[i])
        shared = sum(shares[i] for i in holders)
        lost.append(((sum(x[i] for i in holders) - shared) / shared, place))
    left = total - sum(x)
    for _, place in sorted(lost):
        if left <= 0:
            break
        holders = values[place]
        now, most = [x[i] for i in holders], [top[i] for i in holders]
        lifted = most if sum(most) - sum(now) <= left else plain_fill(left + sum(now), [1] * len(now), now, most)
        for i, limit in zip(holders, lifted, strict=True):
            x[i] = limit
        left -= sum(lifted) - sum(now)
    return x


def plain_settle(total: int, rows: list[Row], exact: list[int], shares: list[int]) -> None:
    """`allocators.settle.settle_fully`: keep what is near, as far as the sum allows."""
    over = -max(total, sum(shares))
    slack = []
    for i, (row, share, target) in enumerate(zip(rows, exact, shares, strict=True)):
        stays = 0 < row.held <= row.hi and abs(row.held - share) <= BAND * share
        row.limit = row.held if stays else target
        over += row.limit
        if row.limit > target:
            slack.append((target - row.limit, i))
    for less, i in sorted(slack):
        if over <= 0:
            break
        rows[i].limit = shares[i]
        over += less
    if sum(row.limit for row in rows) < (1 - UNUSED) * sum(shares):
        for row, share in zip(rows, shares, strict=True):
            row.limit = share


def measure_loops(torrents: int, part_awake: float) -> Measured:
    """Time the kernel and the plain loops in one world, and see that those give the same limits."""
    result, options = Measured(), Options()
    problem = kernel_problem(torrents, part_awake)
    world = World(torrents, part_awake)
    weighted, equal = load_strategy("weighted", options), load_strategy("equal", options)
    requests = world.requests()
    answer, memory = weighted.allocate(next(requests), None)
    world.limit[:] = answer.limit
    request = next(requests)
    columns = (column.tolist() for column in (memory.limit, memory.claim, memory.score))
    before = dict(zip(memory.infohash.tolist(), zip(*columns, strict=True), strict=True))
    for _ in range(WARM):
        filled = result.timed("kernel", waterfill, *problem)
    ours = {
        "plain kernel": filled,
        "plain equal": equal.allocate(request, None)[0].limit,
        "plain weighted": weighted.allocate(request, memory)[0].limit,
    }
    for _ in range(max(1, 30_000 // torrents)):
        theirs = {
            "plain kernel": result.timed("plain kernel", plain_kernel, *problem),
            "plain equal": result.timed("plain equal", plain_equal, request, rows_by_tracker(request)),
            "plain weighted": result.timed(
                "plain weighted", plain_weighted, request, rows_by_tracker(request), options, before
            ),
        }
    for name, loop in theirs.items():
        # Sums of floats in another order: a byte may go to a neighbour, and then what is near to that.
        differ = int((np.abs(np.array(loop) - ours[name]) > 1).sum())
        if differ > torrents // 1000 or sum(loop) != ours[name].sum():
            raise SystemExit(
                f"{name} gives {differ} of {torrents} torrents other limits: mend it before comparing times"
            )
    return result


def keep_freed_memory() -> None:
    """Free a large block once, as a service has that has read the answer of a client with thousands of torrents.

    Until a process has done so, glibc may give what it frees back to the system at every step, and the same code takes
    half as long again, or not, by what ran before it.
    """
    np.empty(2**24, np.uint8)


def main() -> None:
    """Print the tables; exit 1 when a sum of limits was over its cap."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, help=f"torrents ({', '.join(map(str, SIZES))})")
    sizes = parser.parse_args().sizes
    console = Console(highlight=False, width=150)
    began = time.monotonic()
    keep_freed_memory()
    found: dict[tuple[int, float], dict[str, Measured]] = {}
    loops: dict[tuple[int, float], Measured] = {}
    for part in PARTS_AWAKE:
        for size in sizes:
            loops[size, part] = measure_loops(size, part)
            found[size, part] = {name: measure(name, size, part) for name in STRATEGIES}
        console.print(strategies_table(part, sizes, found, loops))
    console.print(kernel_table(sizes, loops))
    console.print(first_plans_table(sizes, found))
    if TARGET_SIZE in sizes:
        console.print(targets_table(found))
    console.print(f"numpy {np.__version__}, Python {sys.version.split()[0]}, {time.monotonic() - began:.0f} s in all")
    sys.exit(int(any(one.over > 0 for case in found.values() for one in case.values())))


def strategies_table(
    part: float,
    sizes: list[int],
    found: dict[tuple[int, float], dict[str, Measured]],
    loops: dict[tuple[int, float], Measured],
) -> Table:
    """Each strategy at each size."""
    columns = ("torrents", "strategy", "ms", "plain/ms", "check ms", "plan ms", "written", "values", "over B", "under")
    table = Table(*columns, title=f"{TRACKERS} trackers, {part:.0%} of the torrents awake")
    for size in sizes:
        for name, one in found[size, part].items():
            plain = loops[size, part].ms("plain equal" if name == "equal" else "plain weighted")
            table.add_row(
                f"{size:,}" if name == STRATEGIES[0] else "",
                name,
                f"{one.ms('strategy'):.2f}",
                f"{plain / one.ms('strategy'):.1f}",
                f"{one.ms('check'):.2f}",
                f"{one.ms('plan'):.2f}",
                f"{statistics.mean(one.written):.0f}",
                f"{statistics.mean(one.values):.0f}",
                str(max(one.over, 0)),
                f"{statistics.mean(one.under):.2%}",
                end_section=name == STRATEGIES[-1],
            )
    return table


def kernel_table(sizes: list[int], loops: dict[tuple[int, float], Measured]) -> Table:
    """The kernel alone."""
    table = Table("torrents", "awake", "ms", "plain loop ms", "plain/ms", title="the kernel, allocators.waterfill")
    for part in PARTS_AWAKE:
        for size in sizes:
            loop = loops[size, part]
            table.add_row(
                f"{size:,}",
                f"{part:.0%}",
                *(f"{loop.ms(name):.2f}" for name in ("kernel", "plain kernel")),
                f"{loop.ms('plain kernel') / loop.ms('kernel'):.1f}",
                end_section=size == sizes[-1],
            )
    return table


def first_plans_table(sizes: list[int], found: dict[tuple[int, float], dict[str, Measured]]) -> Table:
    """What a plan takes in which every torrent changes, and how many calls it makes."""
    title = "the first plan, in which every torrent changes: ms (calls)"
    table = Table("torrents", "awake", *STRATEGIES, title=title)
    for part in PARTS_AWAKE:
        for size in sizes:
            case = found[size, part]
            cells = (f"{case[name].ms('first plan'):.1f} ({case[name].first_calls:,})" for name in STRATEGIES)
            table.add_row(f"{size:,}", f"{part:.0%}", *cells, end_section=size == sizes[-1])
    return table


def targets_table(found: dict[tuple[int, float], dict[str, Measured]]) -> Table:
    """What was to be reached, and whether it was. A plan counts with the strategy for which it is slowest."""
    titles = [f"{part:.0%} awake, ms" for part in PARTS_AWAKE]
    table = Table("", "target, ms", *titles, title=f"targets at {TARGET_SIZE:,} torrents")
    for what, most in TARGETS.items():
        cells = []
        for part in PARTS_AWAKE:
            case = found[TARGET_SIZE, part]
            ms = case[what].ms("strategy") if what in case else max(one.ms(what) for one in case.values())
            cells.append(f"{ms:.2f} {'met' if ms <= most else 'MISSED'}")
        table.add_row(what, f"{most}", *cells)
    return table


if __name__ == "__main__":
    main()
