"""What the configuration and the commands given since say about each tracker rule, as (R,) columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from allocators.base import (
    MAX_LIMIT,
    Allocator,
    Options,
    UnknownStrategyError,
    load_strategy,
    overcommit_of,
    settles,
)
from qguard.config import ConfigError, Problem, Settings
from qguard.ledger import Control
from qguard.snapshot import Bool, Int64
from qguard.trackers import Matcher

EVERYWHERE: Final = "*"
"""The scope of a pause or a percentage that is not for one tracker."""

NO_CAP: Final = -1

Controls = Mapping[tuple[str, str], Control]


@dataclass(frozen=True, slots=True)
class Override:
    """Another cap for a tracker, for a while."""

    rate: int
    """bytes/s, `NO_CAP` for none."""
    until: float | None
    """Epoch seconds; None until it is cleared."""
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules in file order; R of them."""

    settings: Settings
    matcher: Matcher
    allocator: Allocator
    ids: tuple[str, ...]
    cap: Int64
    """bytes/s, `NO_CAP` for none."""
    manage: Bool
    percentage: Int64
    """Of the rollout, 0 to 100."""
    paused: Bool
    reassert: Bool
    ceiling: Int64
    """bytes/s, the rule's own upper bound for one torrent."""
    observe_only: str = ""
    """Why nothing at all may be written at present; empty when it may."""
    overcommit: float = 1.0
    """How far limits may add up above a cap, where the strategy promises rates rather than limits."""
    small_raise: float = 0.0
    """A raise by less than this fraction may wait; 0 where the strategy sees to that."""
    at_rest: bool = False
    """The limits are to hold by themselves: they add up to no more than the caps, whatever the strategy promises."""
    overrides: Mapping[str, Override] = field(default_factory=dict)
    """By tracker id: those in force, which `cap` follows."""

    @property
    def capped(self) -> Bool:
        """Rules whose torrents get limits: those with a cap, and all when the link is known."""
        linked = self.settings.global_.link_upload_speed is not None
        return np.asarray((self.cap != NO_CAP) | linked, np.bool_)

    def reasserts(self, tracker: str) -> bool:
        """Whether foreign values on this tracker are overwritten."""
        return tracker in self.ids and bool(self.reassert[self.ids.index(tracker)])


def make(
    settings: Settings,
    controls: Controls,
    wall_now: float,
    *,
    matcher: Matcher,
    allocator: Allocator,
    observe_only: str = "",
) -> Policy:
    """Put configuration and commands together."""
    rules = settings.trackers
    others = {rule.id: found for rule in rules if (found := override(controls, rule.id, wall_now))}
    caps = {rule.id: NO_CAP if rule.max_upload_speed is None else rule.max_upload_speed for rule in rules}
    caps |= {tracker: found.rate for tracker, found in others.items()}
    return Policy(
        settings=settings,
        matcher=matcher,
        allocator=allocator,
        ids=tuple(rule.id for rule in rules),
        cap=np.array([caps[rule.id] for rule in rules], np.int64),
        manage=np.array([r.manage for r in rules], np.bool_),
        percentage=np.array([percentage(settings, controls, r.id) for r in rules], np.int64),
        paused=np.array([bool(pause_reason(controls, r.id, wall_now)) for r in rules], np.bool_),
        reassert=np.array([r.on_foreign_change == "reassert" for r in rules], np.bool_),
        ceiling=np.array([r.max_torrent_upload_speed or MAX_LIMIT for r in rules], np.int64).clip(max=MAX_LIMIT),
        observe_only="global.dry_run is on" if settings.global_.dry_run else observe_only,
        overrides=others,
        overcommit=overcommit_of(allocator, strategy_options(settings)),
        small_raise=0.0 if settles(allocator) else settings.global_.differential_threshold,
    )


def make_allocator(settings: Settings) -> Allocator:
    """The configured strategy with its options.

    Raises:
        ConfigError: it cannot be made.
    """
    name, options = settings.global_.allocation_strategy, strategy_options(settings)
    try:
        made = load_strategy(name, options)
        overcommit_of(made, options)
    except UnknownStrategyError:
        raise
    except Exception as error:  # whatever somebody else's code raises
        raise ConfigError(
            [
                Problem(
                    file=Path("configuration"),
                    line=None,
                    column=None,
                    key="global.allocation_strategy",
                    value=name,
                    message=f"this strategy cannot be made ({type(error).__name__}: {error})",
                    remedy="choose another one, or repair its distribution",
                )
            ]
        ) from error
    return made


def strategy_options(settings: Settings) -> Options:
    """What the configuration says to strategies."""
    return Options(**{field.name: getattr(settings.global_, field.name) for field in fields(Options)})


def make_matcher(settings: Settings) -> Matcher:
    """The configured rules, compiled."""
    return Matcher(settings.trackers, strictest=settings.global_.multi_tracker == "strictest")


def file_percentage(settings: Settings, scope: str) -> int | None:
    """The rollout percentage that the file itself gives for a tracker id or `EVERYWHERE`, None when it gives none."""
    if scope == EVERYWHERE:
        return settings.global_.rollout_percentage
    return next((rule.rollout_percentage for rule in settings.trackers if rule.id == scope), None)


def percentage(settings: Settings, controls: Controls, tracker: str) -> int:
    """The rollout percentage in force for a tracker: its own before the global one, a command before the file.

    A percentage set by a command holds until the file's own value for that scope changes.
    """
    for scope in (tracker, EVERYWHERE):
        in_file = file_percentage(settings, scope)
        control = controls.get(("rollout", scope))
        if control is not None and control.value["file"] == in_file:
            return int(control.value["percentage"])
        if in_file is not None:
            return in_file
    return 0


def pause_reason(controls: Controls, tracker: str, wall_now: float) -> str:
    """Why a tracker is paused, empty when it is not."""
    for scope in (EVERYWHERE, tracker):
        control = controls.get(("pause", scope))
        if control is None:
            continue
        value: Any = control.value
        until = value.get("until")
        if until is None or until > wall_now:
            return f"paused by {control.who}" + (f": {control.reason}" if control.reason else "")
    return ""


def override(controls: Controls, tracker: str, wall_now: float) -> Override | None:
    """The cap that was set for a tracker by command, None when there is none or its time is over."""
    control = controls.get(("override", tracker))
    if control is None:
        return None
    value: Any = control.value
    until = value.get("until")
    if until is not None and until <= wall_now:
        return None
    return Override(int(value["rate"]), until, control.who, value["reason"])
