"""The settings: one frozen model per section; each field says its unit, its range and why its default is what it is.

The descriptions are what docs/configuration.md and the JSON schema show.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from qguard.config.fields import (
    AUTO,
    EMBEDDED,
    AllowedHosts,
    Bool,
    Cap,
    Choice,
    ClientUrl,
    Domains,
    FilePath,
    Float,
    HookUrl,
    Host,
    Int,
    Interval,
    Level,
    ListenHost,
    Networks,
    OptionalBool,
    OptionalInt,
    OptionalPath,
    OptionalPercentage,
    OptionalRate,
    OptionalText,
    OptionalUrl,
    Pattern,
    PollInterval,
    PositiveRate,
    RateOrZero,
    Seconds,
    Secret,
    Tags,
    Text,
    TlsCheck,
    TrackerId,
    Words,
)


class Section(BaseModel):
    """What all sections have in common: fixed once read, no key that is not known, no values in error texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)


def _poll_interval(read_so_far: dict[str, Any]) -> Interval:
    older_name = read_so_far.get("update_interval")
    return AUTO if older_name is None else float(older_name)


class Global(Section):
    """How often and how much is done, and where the service listens."""

    update_interval: Annotated[Seconds, Field(ge=1, le=3600)] | None = Field(
        None, description="Seconds, 1 to 3600. Older name of poll_interval; counts only where that is absent."
    )
    poll_interval: PollInterval = Field(
        default_factory=_poll_interval,
        description="Seconds between two cycles, 1 to 3600, or auto; either is stretched on a client that answers"
        " slowly. auto is qBittorrent's own refresh interval (1.5 unless changed there) with `adaptive`, which steers"
        " rates and can be no better than it is quick, and 5 with strategies whose limits add up to the caps.",
        json_schema_extra={"default": AUTO},
    )
    active_torrent_threshold_kb: Int = Field(
        10,
        ge=1,
        le=2**20,
        description="KiB/s, 1 to 1048576. A torrent that uploads this much, or half of its own limit if that is less,"
        " counts as awake. 10 is above what protocol chatter alone causes.",
    )
    differential_threshold: Float = Field(
        0.2,
        ge=0,
        le=1,
        description="Fraction, 0 to 1. A raise smaller than this part of the present limit waits for up to a minute"
        " (strategy `equal`; the others choose what is worth a write); a decrease never waits.",
    )
    rollout_percentage: Int = Field(
        0,
        ge=0,
        le=100,
        description="Per cent of the torrents that are managed, 0 to 100. 0 observes and previews and writes nothing,"
        " so that a new installation changes nothing until it is asked to.",
    )
    host: ListenHost = Field(
        "127.0.0.1",
        description="Address or name to listen on. Loopback, since anything wider needs a key (see server.api_key)."
        " A change needs a restart.",
    )
    port: Int = Field(8089, ge=1, le=65535, description="TCP port to listen on, 1 to 65535. A change needs a restart.")
    allocation_strategy: Text = Field(
        "equal",
        description="How a tracker's cap is split among its torrents: the name of an installed strategy. `equal`"
        " is the easiest to predict.",
    )
    max_managed_torrents: Int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Torrents, 1 to 1000000. How many torrents the strategies `weighted` and `soft` weigh one by one;"
        " the others of a tracker weigh the same and share one limit. 1000 covers what one client usually has uploading"
        " at once.",
    )
    min_torrent_upload_speed: RateOrZero = Field(
        10 * 1024,
        description="Rate, 0 to 2^42 bytes/s. A torrent that uploads is not squeezed below this while the cap allows"
        " (strategies `weighted` and `soft`). 10 KiB/s keeps an upload slot worth having; 0 is no floor.",
    )
    max_torrent_share: Float = Field(
        0.6,
        gt=0,
        le=1,
        description="Fraction of its tracker's cap, above 0 to 1, that one torrent gets at most while others can use"
        " the rest (strategies `weighted` and `soft`). 0.6 leaves something for the others whatever the scores say.",
    )
    leechers_weight: Float = Field(
        0.6,
        ge=0,
        le=1,
        description="Fraction, 0 to 1, of a torrent's score that its leechers make up; the rest is its rate (strategies"
        " `weighted` and `soft`). 0.6 puts those that can be served before those that are.",
    )
    full_score_leechers: Int = Field(
        20,
        ge=1,
        le=1_000_000,
        description="Leechers, 1 to 1000000, from which a torrent has the full score for them. With 20 there are always"
        " some to upload to.",
    )
    full_score_rate: PositiveRate = Field(
        2**20,
        description="Rate, 1 to 2^42 bytes/s, from which a torrent has the full score for it. 1 MiB/s is what one fast"
        " leecher takes.",
    )
    borrow_threshold_ratio: Float = Field(
        0.9,
        ge=0.5,
        le=1,
        description="Fraction of its cap, 0.5 to 1, that a tracker must use before it may borrow (strategy `soft`)."
        " Below 0.9 there is room left, so that more would not be used.",
    )
    max_borrow_fraction: Float = Field(
        0.5,
        ge=0,
        le=1,
        description="Fraction of its own cap, 0 to 1, that a tracker may borrow on top at most. 0.5 keeps the effective"
        " cap within sight of the one that was configured.",
    )
    smoothing_alpha: Float = Field(
        0.4,
        ge=0,
        le=1,
        description="Weight of the newest value in the smoothed effective cap (strategy `soft`), 0 to 1. 0.4 follows"
        " a lasting change in about four cycles and passes over a single spike; 0 freezes lending.",
    )
    min_effective_delta: Float = Field(
        0.1,
        ge=0,
        le=1,
        description="Fraction, 0 to 1. Changes of an effective cap smaller than this are left out (strategy `soft`)."
        " 0.1 is less than the noise of measured rates.",
    )
    max_overcommit: Float = Field(
        1.5,
        ge=1,
        le=1.5,
        description="How far the limits of the `adaptive` strategy may add up above the cap, 1 to 1.5 times. The upper"
        " end by default: it uses the cap best and still bounds what is left behind if qguard dies.",
    )
    dry_run: Bool = Field(
        default=False,
        description="true or false. true observes and previews and writes nothing to qBittorrent, whatever the rollout"
        " says. false, since rollout_percentage already starts at 0.",
    )
    dry_run_store_path: OptionalText = Field(
        None, description="Path. Accepted from older files; no use here, since a preview needs no file."
    )
    link_upload_speed: OptionalRate = Field(
        None,
        description="Rate, up to 2^42 bytes/s. The upload speed of the line, which all trackers share above their caps;"
        " when set, uncapped trackers are held within it too. None, since the client's own global limit already"
        " protects the line.",
    )
    respect_original_limits: Bool = Field(
        default=True,
        description="true or false. true never raises a torrent above the finite limit that its owner had set before"
        " qguard came.",
    )
    on_shutdown: Annotated[Literal["keep", "restore"], Choice] = Field(
        "keep",
        description="keep or restore: whether a clean stop leaves the limits in force or puts the original ones back."
        " keep, so that a restart or an update is no gap in the caps; limits of `adaptive`, which may add up to more"
        " than a cap, are lowered to it first.",
    )
    multi_tracker: Annotated[Literal["first", "strictest"], Choice] = Field(
        "first",
        description="first or strictest: which rule counts for a torrent with several trackers, the first in file order"
        " or the one with the lowest cap. first, since the order of a file can be seen.",
    )
    downloading_floor: RateOrZero = Field(
        20 * 1024,
        description="Rate, 0 to 2^42 bytes/s. A torrent that still downloads is not squeezed below this while the cap"
        " allows: requests and choking messages count against the upload limit. 20 KiB/s leaves room for them;"
        " 0 is no floor.",
    )
    first_contact_batch: Int = Field(
        500,
        ge=1,
        le=100_000,
        description="Torrents per cycle, 1 to 100000. How many sleeping torrents get their first standing limit in one"
        " cycle: each makes the client write the torrent's resume data. 500 is done with thousands in a"
        " few cycles and leaves the disk time for uploading.",
    )
    max_api_calls_per_cycle: OptionalInt = Field(
        None, description="Calls. Accepted from older files; no use here, since a cycle makes few calls by design."
    )
    cache_ttl_seconds: OptionalInt = Field(
        None, description="Seconds. Accepted from older files; no use here, since every cycle reads afresh."
    )
    auto_unlimit_on_inactive: OptionalBool = Field(
        None,
        description="true or false. Accepted from older files; no use here: sleeping torrents hold a standing limit, so"
        " that they cannot burst when they wake.",
    )

    @property
    def active_threshold(self) -> int:
        """The activity threshold in bytes/s."""
        return self.active_torrent_threshold_kb * 1024


class QBittorrent(Section):
    """How to reach qBittorrent's Web API, and as whom."""

    url: ClientUrl = Field(
        None,
        description="`http(s)://host[:port][/base]` of the Web UI, or `embedded` for a simulated client with torrents"
        " of your trackers, to try qguard out. None: host and port below.",
    )
    host: Host = Field("localhost", description="Host name or address; used where there is no url.")
    port: Int = Field(
        8080, ge=1, le=65535, description="TCP port, 1 to 65535; used where there is no url. 8080 is qBittorrent's own."
    )
    username: OptionalText = Field(None, description="Name for the login. None where the client asks for no login.")
    password: Secret = Field(None, description="Password for the login; better as `${VAR}` or in password_file.")
    password_file: OptionalPath = Field(
        None, description="Path of a file that holds the password, as container secrets are; read at start and reload."
    )
    api_key: Secret = Field(None, description="API key of qBittorrent 5.2 or later, instead of name and password.")
    api_key_file: OptionalPath = Field(None, description="Path of a file that holds the API key.")
    verify_tls: TlsCheck = Field(
        default=True,
        description="true, false, or the path of a file with CA certificates to check an https url against. true: a"
        " password is not given to a stranger.",
    )
    timeout: Seconds = Field(
        30,
        ge=1,
        le=120,
        description="Seconds to wait for one answer, 1 to 120. 30 leaves a busy client time for a long listing.",
    )

    @property
    def is_embedded(self) -> bool:
        """Whether the client is simulated."""
        return self.url == EMBEDDED

    @property
    def base_url(self) -> str:
        """The address of the Web UI, without a slash at its end; of an embedded client this machine's."""
        if self.is_embedded:
            return "http://127.0.0.1"
        if self.url is not None:
            return self.url
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def secret_password(self) -> str | None:
        """The password, from wherever it was given."""
        return _reveal(self.password)

    @property
    def secret_api_key(self) -> str | None:
        """The API key, from wherever it was given."""
        return _reveal(self.api_key)


class CrossSeed(Section):
    """Where finished torrents are announced to cross-seed."""

    enabled: Bool = Field(
        default=False,
        description="true or false: whether finished torrents are passed on. While false, the other keys of this"
        " section may name variables that are not set.",
    )
    url: OptionalUrl = Field(None, description="`http(s)://host[:port][/path]` of cross-seed's webhook.")
    api_key: Secret = Field(None, description="cross-seed's API key.")
    timeout: Seconds = Field(
        15, ge=5, le=60, description="Seconds to wait for an answer, 5 to 60. cross-seed may search before it answers."
    )

    @property
    def secret_api_key(self) -> str | None:
        """The API key."""
        return _reveal(self.api_key)


class TrackerRule(Section):
    """Which torrents belong to a tracker, and what it may upload."""

    id: TrackerId = Field(
        description="Letters, digits, `.`, `_`, `-`; unique. Names the tracker in commands, metrics and the ledger."
    )
    name: Text = Field(
        default_factory=lambda read_so_far: str(read_so_far.get("id", "")),
        description="What people see. The id where it is absent.",
        json_schema_extra={"default": "the id"},
    )
    pattern: Pattern = Field(
        None,
        description="Regular expression, searched in each announce URL without regard to case. `'.*'` makes the rule"
        " the catch-all: there must be exactly one, as the last rule.",
    )
    match: Domains = Field(
        (), description="List of domains: an announce host that is one of them or ends with one of them matches."
    )
    categories: Words = Field(
        (), description="List of qBittorrent categories; they match torrents that never announced, too."
    )
    tags: Tags = Field((), description="List of qBittorrent tags; they match torrents that never announced, too.")
    max_upload_speed: Cap = Field(
        description="Rate, 1 to 2^42 bytes/s, or -1 or `unlimited`. The cap: what all torrents of the tracker may"
        " upload together. No default: a cap must be meant."
    )
    priority: Int = Field(
        1, ge=1, le=10, description="1 to 10. Weight when several trackers want to borrow; 1 for all is fair."
    )
    manage: Bool = Field(
        default=True,
        description="true or false. false: the torrents are counted and never written.",
    )
    rollout_percentage: OptionalPercentage = Field(
        None, description="Per cent, 0 to 100, for this tracker alone. None: global.rollout_percentage."
    )
    hard: Bool = Field(
        default=False,
        description="true or false. true: no strategy lends this tracker anything above its cap; for trackers that ban"
        " accounts which upload too fast.",
    )
    may_lend: Bool = Field(
        default=True,
        description="true or false: whether what this tracker does not use may be lent to others.",
    )
    may_borrow: Bool = Field(
        default=True,
        description="true or false: whether this tracker may borrow from others, with a strategy that lends.",
    )
    max_torrent_upload_speed: OptionalRate = Field(
        None, description="Rate, 1 to 2^42 bytes/s. A ceiling for each torrent. None: the cap alone counts."
    )
    guaranteed_upload_speed: RateOrZero = Field(
        0,
        description="Rate, 0 to 2^42 bytes/s, no more than the cap. Kept for this tracker when it wants it; only the"
        " rest is lent. 0: all of the cap may be lent while it is not used.",
    )
    on_foreign_change: Annotated[Literal["yield", "reassert", "alert"], Choice] = Field(
        "yield",
        description="yield, reassert or alert: what happens when somebody else changes a limit that qguard set. yield"
        " leaves that torrent to them; reassert sets it again; alert leaves it and reports it.",
    )

    @property
    def is_catch_all(self) -> bool:
        """Whether this rule takes what no other rule matches."""
        return self.pattern == CATCH_ALL


CATCH_ALL = ".*"
"""The pattern of the catch-all rule."""


class Rollback(Section):
    """Where changes are recorded, and for how long."""

    database_path: FilePath = Field(
        Path("data/rollback.db"),
        validate_default=True,
        description="Path of the ledger, a SQLite database; on a local disk. A change needs a restart.",
    )
    track_all_changes: Bool = Field(
        default=True,
        description="true. Accepted from older files; false is ignored: nothing is changed without a record.",
    )
    keep_days: Int = Field(
        90,
        ge=1,
        le=36_500,
        description="Days, 1 to 36500. Older history is deleted; original limits are kept for as long as they are"
        " needed. 90 is a season of hindsight.",
    )
    max_rows: Int = Field(
        1_000_000,
        ge=1000,
        le=1_000_000_000,
        description="Rows of history, 1000 to 1000000000; the oldest go first. 1000000 bounds the size of the"
        " ledger where much changes.",
    )


class Logging(Section):
    """What is logged, and where to."""

    level: Level = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR. INFO is one line per cycle that changed something."
    )
    file: OptionalPath = Field(None, description="Path of a log file, besides standard error. None: no file.")
    max_size_mb: Int = Field(
        50, ge=1, le=10_000, description="MiB, 1 to 10000, at which the file is rotated. 50 is still quick to search."
    )
    backup_count: Int = Field(
        5,
        ge=0,
        le=1000,
        description="Rotated files that are kept, 0 to 1000. 5, with the one in use, bound the disk to six times"
        " max_size_mb.",
    )
    format: Annotated[Literal["auto", "human", "json"], Choice] = Field(
        "auto", description="auto, human or json. auto: for people on a terminal, JSON lines otherwise."
    )


class Server(Section):
    """Who may ask, and from where."""

    api_key: Secret = Field(
        None,
        description="Key for everything, 8 characters or more. None: requests from loopback need none, and where"
        " global.host is wider one is generated at first start.",
    )
    api_key_file: OptionalPath = Field(None, description="Path of a file that holds api_key.")
    read_key: Secret = Field(None, description="Key for reading and /metrics only, 8 characters or more.")
    read_key_file: OptionalPath = Field(None, description="Path of a file that holds read_key.")
    hook_key: Secret = Field(
        None,
        description="Key for POST /webhook only, 8 characters or more. None: the webhook may come from private"
        " addresses without one.",
    )
    hook_key_file: OptionalPath = Field(None, description="Path of a file that holds hook_key.")
    allowed_hosts: AllowedHosts = Field(
        (),
        description="List of host names by which browsers and hooks may call this service besides IP addresses and"
        " names without a dot: a defence against DNS rebinding.",
    )
    trusted_proxies: Networks = Field(
        (),
        description="List of IP addresses or networks of reverse proxies whose forwarding headers are believed. Without"
        " one, a request with such headers never counts as local.",
    )
    hook_url: HookUrl = Field(
        None,
        description="`http(s)://host:port` of this service as qBittorrent sees it, for `qguard hook install`. None:"
        " made from global.host and port.",
    )

    @property
    def secret_api_key(self) -> str | None:
        """The key for everything."""
        return _reveal(self.api_key)

    @property
    def secret_read_key(self) -> str | None:
        """The key for reading."""
        return _reveal(self.read_key)

    @property
    def secret_hook_key(self) -> str | None:
        """The key for the webhook."""
        return _reveal(self.hook_key)


class Settings(Section):
    """The whole configuration."""

    global_: Global = Field(default_factory=Global, alias="global")
    qbittorrent: QBittorrent
    cross_seed: CrossSeed = Field(default_factory=CrossSeed)
    trackers: tuple[TrackerRule, ...]
    rollback: Rollback = Field(default_factory=Rollback)
    logging: Logging = Field(default_factory=Logging)
    server: Server = Field(default_factory=Server)


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
