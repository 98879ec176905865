"""app/preferences: the settings that have an effect here, and some that clients look at."""

import json
from collections.abc import Mapping
from typing import Any, Final

from qguard.simulator.client import Wishes
from qguard.simulator.sessions import Sessions

KIB: Final = 1024

_WISHES: Final = (
    "refresh_interval",
    "alt_up_limit",
    "up_limit",
    "max_uploads",
    "max_uploads_per_torrent",
    "autorun_on_torrent_added_enabled",
    "autorun_on_torrent_added_program",
    "autorun_enabled",
    "autorun_program",
)

_RATES: Final = frozenset({"alt_up_limit", "up_limit"})

_SESSIONS: Final = {
    "web_ui_session_timeout": "timeout",
    "web_ui_max_auth_fail_count": "most_failures",
    "web_ui_ban_duration": "ban_time",
    "web_ui_username": "username",
}

DEFAULTS: Final[Mapping[str, Any]] = {
    "alt_dl_limit": 10240,
    "anonymous_mode": False,
    "auto_tmm_enabled": False,
    "bypass_auth_subnet_whitelist": "",
    "bypass_auth_subnet_whitelist_enabled": False,
    "bypass_local_auth": False,
    "current_network_interface": "",
    "dht": False,
    "dl_limit": 0,
    "limit_lan_peers": True,
    "limit_tcp_overhead": False,
    "limit_utp_rate": True,
    "listen_port": 6881,
    "locale": "en",
    "lsd": False,
    "max_connec": -1,
    "max_connec_per_torrent": -1,
    "max_ratio": -1,
    "max_ratio_enabled": False,
    "pex": False,
    "queueing_enabled": False,
    "save_path": "/downloads",
    "save_resume_data_interval": 60,
    "scheduler_enabled": False,
    "temp_path": "/downloads/temp",
    "temp_path_enabled": False,
    "upload_choking_algorithm": 1,
    "upload_slots_behavior": 0,
    "use_https": False,
    "web_ui_address": "127.0.0.1",
    "web_ui_csrf_protection_enabled": True,
    "web_ui_domain_list": "*",
    "web_ui_host_header_validation_enabled": True,
    "web_ui_secure_cookie_enabled": True,
}
"""Kept and given back; bypass_local_auth, the two protections and save_path have an effect."""


def whole_kib(limit: int) -> int:
    """As the client takes limits of its own: whole KiB, at least one; 0 and less for none."""
    return max(limit // KIB, 1) * KIB if limit > 0 else 0


def show(wishes: Wishes, sessions: Sessions, other: Mapping[str, Any], port: int, *, modern: bool) -> dict[str, Any]:
    """All preferences."""
    shown = dict(other) | {name: getattr(wishes, name) for name in _WISHES}
    for name, attribute in _SESSIONS.items():
        value = getattr(sessions, attribute)
        shown[name] = int(value) if isinstance(value, float) else value
    shown["web_ui_port"] = port
    if modern:
        shown["web_ui_api_key"] = sessions.api_key
        shown["web_ui_sessions_count_limit"] = sessions.most
    return dict(sorted(shown.items()))


def change(raw: str, wishes: Wishes, sessions: Sessions, other: dict[str, Any]) -> None:
    """setPreferences: what is named is changed, what is unknown or cannot be read is passed over."""
    try:
        wanted = json.loads(raw)
    except ValueError:
        return
    if not isinstance(wanted, dict):
        return
    for name, value in wanted.items():
        if name in _WISHES:
            new = _like(getattr(wishes, name), value)
            setattr(wishes, name, whole_kib(new) if name in _RATES else new)
        elif name in _SESSIONS:
            attribute = _SESSIONS[name]
            setattr(sessions, attribute, _like(getattr(sessions, attribute), value))
        elif name == "web_ui_password":
            sessions.password = str(value)
        elif name in other:
            other[name] = _like(other[name], value)


def _like(old: Any, new: Any) -> Any:  # noqa: ANN401 - JSON
    """A value as the kind of another, in Qt's way."""
    if isinstance(old, bool):
        return new.lower() not in {"", "0", "false"} if isinstance(new, str) else bool(new)
    if isinstance(old, (int, float)):
        try:
            return type(old)(new)
        except (TypeError, ValueError, OverflowError):
            return type(old)(0)
    return str(new)
