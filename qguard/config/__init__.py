"""The configuration file: where it is, what it may say, what is wrong with it."""

from qguard.config.errors import BadValueError, ConfigError, Problem
from qguard.config.fields import AUTO, Interval
from qguard.config.load import Loaded, find, load, parse
from qguard.config.model import (
    CrossSeed,
    Global,
    Logging,
    QBittorrent,
    Rollback,
    Server,
    Settings,
    TrackerRule,
)
from qguard.config.proposed import parse_proposed
from qguard.config.schema import json_schema, redacted, restart_needed, secret_values
from qguard.config.units import describe_cap, parse_duration, parse_rate

__all__ = [
    "AUTO",
    "BadValueError",
    "ConfigError",
    "CrossSeed",
    "Global",
    "Interval",
    "Loaded",
    "Logging",
    "Problem",
    "QBittorrent",
    "Rollback",
    "Server",
    "Settings",
    "TrackerRule",
    "describe_cap",
    "find",
    "json_schema",
    "load",
    "parse",
    "parse_duration",
    "parse_proposed",
    "parse_rate",
    "redacted",
    "restart_needed",
    "secret_values",
]
