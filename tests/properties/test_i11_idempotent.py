"""I11: the same snapshot twice writes nothing the second time; an idle client costs no writes."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qguard.snapshot import Torrents
from tests.properties.scenes import TRACKERS, caps, clients
from tests.support.columns import applied, changes, decide, rules


@given(client=clients, cap=caps, percentage=st.integers(0, 100), link=st.sampled_from([None, 1, 100, 40_000, 10**7]))
def test_the_second_cycle_writes_nothing(client: Torrents, cap: int, percentage: int, link: int | None) -> None:
    rule_set = rules(TRACKERS % cap, rollout_percentage=percentage, **({"link_upload_speed": link} if link else {}))
    # A trickle below the threshold presses on the standing limit once it has one, and wakes: that is another snapshot.
    client = replace(client, upspeed=np.where(client.upspeed < 10_240, 0, client.upspeed))
    first = decide(client, rule_set)
    limited, claims = applied(first)
    # The awake ones keep uploading as they did.
    second = decide(
        replace(limited, uploaded=limited.uploaded + limited.upspeed * 5), rule_set, claims, first.state, at=5.0
    )
    assert changes(second) == {}


@given(client=clients, cap=caps)
def test_an_idle_client_costs_no_writes(client: Torrents, cap: int) -> None:
    idle = replace(client, upspeed=np.zeros_like(client.upspeed))
    state, claims = None, {}
    for turn in range(4):
        decided = decide(idle, rules(TRACKERS % cap), claims, state, at=300.0 * turn)
        assert turn == 0 or changes(decided) == {}
        idle, claims = applied(decided, claims)
        state = decided.state
