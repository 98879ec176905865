"""qBittorrent's Web API over a simulated client, as far as anybody here uses it.

Which endpoints take which method, what is required, what is answered to whom: as seen on 4.5.2, 5.1.0 and 5.3.0.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from qguard.simulator import adding, listing, preferences, sync
from qguard.simulator.client import Torrent
from qguard.simulator.sessions import Session
from qguard.simulator.webui import WebUi

TEXT: Final = "text/plain; charset=UTF-8"
JSON: Final = "application/json"
LARGEST_BODY: Final = 64 * 2**20
"""Bytes."""

BANNED: Final = "Your IP address has been banned after too many failed authentication attempts."
REASONS: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
}
_NUMBER: Final = re.compile(r"[ \t\n\r\f\v]*[+-]?[0-9]+[ \t\n\r\f\v]*", re.ASCII)
_PAGE: Final = "<!DOCTYPE html>\n<title>qBittorrent (simulated)</title>\n<p>This qBittorrent is simulated by qguard.\n"


class ApiError(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, text: str | None = None) -> None:
        self.status, self.text = status, REASONS[status] if text is None else text
        super().__init__(self.text)


@dataclass(slots=True)
class Call:
    """One request that was let in, and what is to become of the caller's session."""

    ui: WebUi
    form: dict[str, str]
    files: Sequence[tuple[str, bytes]]
    session: Session | None
    peer: str
    port: int
    announce: tuple[str, ...] = ()
    """Torrents whose trackers are to be asked after the answer."""

    def need(self, *names: str) -> None:
        """Refuse a request without these parameters."""
        missing = [name for name in names if name not in self.form]
        if missing:
            modern = self.ui.traits.modern
            raise ApiError(400, f"Missing required parameters: {', '.join(missing)}" if modern else None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint says."""

    body: bytes = b""
    status: int = 200
    kind: str = TEXT


Endpoint = Callable[[Call], Answer]
GET, POST = "GET", "POST"
ENDPOINTS: Final[dict[str, tuple[Endpoint, str]]] = {}


def endpoint(path: str, only: str = "") -> Callable[[Endpoint], Endpoint]:
    """Register what answers at /api/v2/`path`; `only` is the one method that is allowed."""

    def register(made: Endpoint) -> Endpoint:
        ENDPOINTS[path] = (made, only)
        return made

    return register


def text(words: str) -> Answer:
    """Plain text."""
    return Answer(words.encode())


def as_json(value: object) -> Answer:
    """JSON."""
    return Answer(msgspec.json.encode(value), kind=JSON)


NOTHING: Final = Answer()


def number(words: str) -> int:
    """As QString::toLongLong reads it: 0 for whatever is no whole number of 64 bits."""
    value = int(words) if _NUMBER.fullmatch(words) else 0
    return value if -(2**63) <= value < 2**63 else 0


def limit_of(words: str) -> int:
    """An upload limit as setUploadLimit takes it: cut to 32 bits, then everything strange is unlimited."""
    value = (number(words) + 2**31) % 2**32 - 2**31
    return value if 0 < value < 2**31 - 1 else 0


# Who answers


@endpoint("app/version")
def app_version(call: Call) -> Answer:
    """Such as v4.5.2."""
    return text(call.ui.traits.app)


@endpoint("app/webapiVersion")
def web_api_version(call: Call) -> Answer:
    """Such as 2.8.19."""
    return text(call.ui.traits.api)


@endpoint("app/preferences")
def show_preferences(call: Call) -> Answer:
    """All settings."""
    ui = call.ui
    return as_json(preferences.show(ui.client.wishes, ui.sessions, ui.other, call.port, modern=ui.traits.modern))


@endpoint("app/setPreferences", POST)
def set_preferences(call: Call) -> Answer:
    """Some settings, as JSON in a field."""
    call.need("json")
    preferences.change(call.form["json"], call.ui.client.wishes, call.ui.sessions, call.ui.other)
    if call.session is not None:
        call.session.told = -math.inf  # whoever changes settings gets its cookie again with the next answer
    return NOTHING


@endpoint("app/rotateAPIKey", POST)
def rotate_key(call: Call) -> Answer:
    """A new API key."""
    _modern_only(call)
    return as_json({"apiKey": call.ui.sessions.rotate_key()})


@endpoint("app/deleteAPIKey", POST)
def delete_key(call: Call) -> Answer:
    """No API key any more."""
    _modern_only(call)
    call.ui.sessions.delete_key()
    return Answer(status=204)


def _modern_only(call: Call) -> None:
    if not call.ui.traits.modern:
        raise ApiError(404)


@endpoint("auth/login", POST)
def log_in(call: Call) -> Answer:
    """Start a session."""
    sessions, modern = call.ui.sessions, call.ui.traits.modern
    good = Answer(status=204) if modern else text("Ok.")
    if call.session is not None:
        return good
    if sessions.banned(call.peer):
        raise ApiError(403, BANNED)
    if not sessions.check(call.peer, call.form.get("username", ""), call.form.get("password", "")):
        if modern:
            raise ApiError(401)
        return text("Fails.")
    call.session = sessions.start()
    return good


@endpoint("auth/logout", POST)
def log_out(call: Call) -> Answer:
    """End the session."""
    if call.session is not None:
        call.ui.sessions.end(call.session)
        call.session = None
    return NOTHING


# The client as a whole


@endpoint("transfer/info")
def transfer_info(call: Call) -> Answer:
    """Rates and limits of the client as a whole."""
    return as_json(call.ui.transfer())


@endpoint("transfer/speedLimitsMode")
def speed_limits_mode(call: Call) -> Answer:
    """1 in alternative speed mode."""
    return text(str(int(call.ui.client.wishes.alternative)))


@endpoint("transfer/toggleSpeedLimitsMode", POST)
def toggle_speed_limits_mode(call: Call) -> Answer:
    """The other mode."""
    call.ui.client.wishes.alternative = not call.ui.client.wishes.alternative
    return NOTHING


@endpoint("transfer/setSpeedLimitsMode", POST)
def set_speed_limits_mode(call: Call) -> Answer:
    """This mode."""
    call.need("mode")
    if call.form["mode"] not in {"0", "1"}:
        raise ApiError(400)
    call.ui.client.wishes.alternative = call.form["mode"] == "1"
    return NOTHING


@endpoint("transfer/uploadLimit")
def whole_limit(call: Call) -> Answer:
    """The limit in force, 0 for none."""
    return text(str(call.ui.client.whole_limit))


@endpoint("transfer/setUploadLimit", POST)
def set_whole_limit(call: Call) -> Answer:
    """The limit of the mode that is on."""
    call.need("limit")
    wishes, limit = call.ui.client.wishes, preferences.whole_kib(number(call.form["limit"]))
    if wishes.alternative:
        wishes.alt_up_limit = limit
    else:
        wishes.up_limit = limit
    return NOTHING


@endpoint("sync/maindata")
def main_data(call: Call) -> Answer:
    """All there is, or what has changed."""
    ui = call.ui
    if call.session is None:
        raise ApiError(403)
    ui.catalogue.update()
    now = sync.snapshot(ui.catalogue, ui.epoch, ui.categories, ui.tags, ui.server_state())
    return Answer(sync.answer(call.session.sync, number(call.form.get("rid", "")), now, ui.catalogue), kind=JSON)


@endpoint("log/main")
def main_log(call: Call) -> Answer:
    """The log, from the line after `last_known_id` on."""
    known = number(call.form.get("last_known_id", "-1"))
    return as_json([line for line in call.ui.log if line["id"] > known])


# Torrents


@endpoint("torrents/info")
def info(call: Call) -> Answer:
    """A listing."""
    ui, form = call.ui, call.form
    rows = ui.fitting(form)
    with_trackers = ui.traits.five and adding.yes(form, "includeTrackers")
    rendered = listing.render(ui.catalogue, ui.epoch, rows, trackers=with_trackers)
    if form.get("sort"):
        try:
            rendered = listing.ordered(rendered, form["sort"], reverse=adding.yes(form, "reverse"))
        except KeyError:
            raise ApiError(400, "'sort' parameter is invalid") from None
    limit, offset = number(form.get("limit", "")), number(form.get("offset", ""))
    return Answer(listing.joined(listing.page(rendered, limit, offset, modern=ui.traits.modern)), kind=JSON)


@endpoint("torrents/count")
def count(call: Call) -> Answer:
    """How many."""
    if not call.ui.traits.five:
        raise ApiError(404)
    return text(str(len(call.ui.client)))


@endpoint("torrents/trackers")
def trackers(call: Call) -> Answer:
    """Trackers of one torrent."""
    call.need("hash")
    call.ui.catalogue.update()
    row = call.ui.client.row.get(call.form["hash"].lower())
    if row is None:
        raise ApiError(404)
    return as_json(listing.tracker_rows(call.ui.catalogue.entries[row]))


@endpoint("torrents/uploadLimit")
def limits(call: Call) -> Answer:
    """Limits as they are now; names come back as they were written."""
    call.need("hashes")
    client = call.ui.client
    found = {}
    for name in call.form["hashes"].split("|"):
        row = client.row.get(name.lower())
        found[name] = -1 if row is None else int(client.plant.limit[row])
    return as_json(found)


@endpoint("torrents/setUploadLimit", POST)
def set_limits(call: Call) -> Answer:
    """One limit for these torrents. Whatever is wrong with it, the answer is 200."""
    call.need("hashes", "limit")
    call.ui.client.set_limit(call.ui.named(call.form["hashes"]), limit_of(call.form["limit"]))
    return NOTHING


@endpoint("torrents/add", POST)
def add(call: Call) -> Answer:
    """Torrents by file and by magnet link."""
    ui, form = call.ui, call.form
    links = [line.strip() for line in form.get("urls", "").splitlines() if line.strip()]
    parsed = []
    for name, raw in call.files:
        try:
            parsed.append(adding.parse_file(raw))
        except adding.NoTorrentError:
            raise ApiError(415, f"Error: '{name}' is not a valid torrent file.") from None
    failed = 0
    for link in links:
        try:
            parsed.append(adding.parse_magnet(link))
        except adding.NoTorrentError:
            failed += 1
    added = []
    for one in parsed:
        folder = str(ui.other["save_path"])
        torrent, details, finished = adding.make(one, form, folder=folder, habit=ui.habit_of_added, now=ui.now)
        new = ui.add(torrent, details, limit=limit_of(form.get("upLimit", "-1")), finished=finished)
        added += [torrent.infohash] if new else []
        failed += not new
    call.announce = tuple(added)
    if not ui.traits.modern:
        return text("Ok." if added else "Fails.")
    if not added:
        raise ApiError(409)
    return as_json(
        {"added_torrent_ids": added, "failure_count": failed, "pending_count": 0, "success_count": len(added)}
    )


@endpoint("torrents/delete", POST)
def delete(call: Call) -> Answer:
    """Remove torrents; files are left alone, whatever deleteFiles says: nobody here has made them."""
    call.need("hashes", "deleteFiles")
    call.ui.client.delete(call.ui.named(call.form["hashes"]))
    return NOTHING


@endpoint("torrents/reannounce", POST)
def reannounce(call: Call) -> Answer:
    """Ask the trackers."""
    call.need("hashes")
    call.announce = tuple(call.ui.named(call.form["hashes"]))
    return NOTHING


def _stop(call: Call, *, five: bool, stopped: bool) -> Answer:
    if call.ui.traits.five != five:
        raise ApiError(404, "Endpoint does not exist" if call.ui.traits.modern else None)
    call.need("hashes")
    call.ui.stop(call.ui.rows(call.form["hashes"]), stopped=stopped)
    return NOTHING


@endpoint("torrents/pause", POST)
def pause(call: Call) -> Answer:
    """Up to 4.6."""
    return _stop(call, five=False, stopped=True)


@endpoint("torrents/resume", POST)
def resume(call: Call) -> Answer:
    """Up to 4.6."""
    return _stop(call, five=False, stopped=False)


@endpoint("torrents/stop", POST)
def stop(call: Call) -> Answer:
    """Since 5.0."""
    return _stop(call, five=True, stopped=True)


@endpoint("torrents/start", POST)
def start(call: Call) -> Answer:
    """Since 5.0."""
    return _stop(call, five=True, stopped=False)


# Categories, tags, trackers


@endpoint("torrents/categories")
def categories(call: Call) -> Answer:
    """By name."""
    return as_json(call.ui.categories)


@endpoint("torrents/createCategory", POST)
def create_category(call: Call) -> Answer:
    """A new one."""
    call.need("category")
    if not call.form["category"]:
        raise ApiError(400, "Category cannot be empty")
    if not call.ui.create_category(call.form["category"]):
        raise ApiError(409, "Unable to create category")
    return NOTHING


@endpoint("torrents/removeCategories", POST)
def remove_categories(call: Call) -> Answer:
    """By name, one in a line; their torrents have none then."""
    call.need("categories")
    for name in call.form["categories"].splitlines():
        if call.ui.categories.pop(name, None) is not None:
            for torrent in [one for one in call.ui.client.torrents if one.category == name]:
                call.ui.client.rename(torrent.infohash, category="")
    return NOTHING


@endpoint("torrents/setCategory", POST)
def set_category(call: Call) -> Answer:
    """An empty name takes it away."""
    call.need("hashes", "category")
    name = call.form["category"]
    if name and name not in call.ui.categories:
        raise ApiError(409, "Incorrect category name")
    for infohash in call.ui.named(call.form["hashes"]):
        call.ui.client.rename(infohash, category=name)
    return NOTHING


@endpoint("torrents/tags")
def tags(call: Call) -> Answer:
    """Names."""
    return as_json(call.ui.tags)


def _tags(call: Call) -> list[str]:
    return [tag for tag in (word.strip() for word in call.form["tags"].split(",")) if tag]


@endpoint("torrents/createTags", POST)
def create_tags(call: Call) -> Answer:
    """New ones."""
    call.need("tags")
    call.ui.create_tags(_tags(call))
    return NOTHING


@endpoint("torrents/deleteTags", POST)
def delete_tags(call: Call) -> Answer:
    """From everywhere."""
    call.need("tags")
    gone = _tags(call)
    call.ui.tags = [tag for tag in call.ui.tags if tag not in gone]
    for torrent in [one for one in call.ui.client.torrents if set(one.tags) & set(gone)]:
        call.ui.client.rename(torrent.infohash, tags=tuple(tag for tag in torrent.tags if tag not in gone))
    return NOTHING


@endpoint("torrents/addTags", POST)
def add_tags(call: Call) -> Answer:
    """On torrents; new ones are created."""
    call.need("hashes", "tags")
    call.ui.create_tags(_tags(call))
    for row in call.ui.rows(call.form["hashes"]):
        torrent = call.ui.client.torrents[row]
        call.ui.client.rename(torrent.infohash, tags=tuple(dict.fromkeys((*torrent.tags, *_tags(call)))))
    return NOTHING


@endpoint("torrents/removeTags", POST)
def remove_tags(call: Call) -> Answer:
    """From torrents; none named means all."""
    call.need("hashes")
    gone = _tags(call) if call.form.get("tags") else None
    for row in call.ui.rows(call.form["hashes"]):
        torrent = call.ui.client.torrents[row]
        left = () if gone is None else tuple(tag for tag in torrent.tags if tag not in gone)
        call.ui.client.rename(torrent.infohash, tags=left)
    return NOTHING


def _named(call: Call) -> Torrent:
    row = call.ui.client.row.get(call.form["hash"].lower())
    if row is None:
        raise ApiError(404)
    return call.ui.client.torrents[row]


def _done(call: Call) -> Answer:
    return Answer(status=204) if call.ui.traits.modern else NOTHING


@endpoint("torrents/addTrackers", POST)
def add_trackers(call: Call) -> Answer:
    """More announce URLs for a torrent; the newest version takes several torrents and passes over unknown ones."""
    call.need("hash", "urls")
    urls = [url.strip() for url in call.form["urls"].splitlines() if url.strip()]
    if call.ui.traits.modern:
        found = [call.ui.client.torrents[row] for row in call.ui.rows(call.form["hash"])]
    else:
        found = [_named(call)]
    for torrent in found:
        call.ui.client.rename(torrent.infohash, announce=tuple(dict.fromkeys((*torrent.announce, *urls))))
    return _done(call)


@endpoint("torrents/editTracker", POST)
def edit_tracker(call: Call) -> Answer:
    """Another URL in the place of one; what the old one is called changed in 5.2."""
    old_name = "url" if call.ui.traits.modern else "origUrl"
    call.need("hash", old_name, "newUrl")
    torrent, old, new = _named(call), call.form[old_name], call.form["newUrl"]
    if not urlsplit(new).scheme:
        raise ApiError(400, "New tracker URL is invalid")
    if new == old:
        return _done(call)
    if new in torrent.announce:
        raise ApiError(409, "New tracker URL already exists")
    if old not in torrent.announce:
        raise ApiError(409, "Tracker not found")
    urls = tuple(new if url == old else url for url in torrent.announce)
    details = call.ui.catalogue.of(torrent.infohash)
    if details.working == old:
        call.ui.catalogue.describe(torrent.infohash, replace(details, working=""))
    call.ui.client.rename(torrent.infohash, announce=urls)
    return _done(call)


@endpoint("torrents/removeTrackers", POST)
def remove_trackers(call: Call) -> Answer:
    """Take announce URLs off a torrent."""
    call.need("hash", "urls")
    torrent, gone = _named(call), call.form["urls"].split("|")
    call.ui.client.rename(torrent.infohash, announce=tuple(url for url in torrent.announce if url not in gone))
    return _done(call)


# The doors


SCOPES: Final = frozenset({path.partition("/")[0] for path in ENDPOINTS})


def make_app(ui: WebUi) -> Starlette:
    """The Web API of one simulated client."""

    async def answer(request: Request) -> Response:
        port = request.scope["server"][1]
        try:
            _check_origin(ui, request.headers, port)
            call = Call(ui, {}, (), None, request.client.host if request.client else "", port)
            cookie = request.cookies.get(ui.traits.cookie(port))
            started = _identify(call, request, cookie)
            response = await _answer(call, request)
        except ApiError as error:
            return _response(Answer(error.text.encode(), error.status))
        renewed = ui.traits.modern and call.session is not None and cookie == call.session.identity
        if call.session is not started or (renewed and call.session and ui.sessions.renews(call.session)):
            _set_cookie(response, call, port)
        return response

    async def page(request: Request) -> Response:
        return Response(_PAGE if request.url.path == "/" else "Not Found", 200 if request.url.path == "/" else 404)

    methods = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"]
    return Starlette(routes=[Route("/api/v2/{scope}/{action}", answer, methods=methods), Route("/{rest:path}", page)])


def _check_origin(ui: WebUi, headers: Mapping[str, str], port: int) -> None:
    """The Host must name our port, and pages of other sites may not ask."""
    host = _place(f"//{headers.get('host', '')}")
    if ui.other["web_ui_host_header_validation_enabled"] and host[1] not in {None, port}:
        raise ApiError(401)
    claimed = headers.get("origin") or headers.get("referer")
    if ui.other["web_ui_csrf_protection_enabled"] and claimed and _place(claimed) != host:
        raise ApiError(401)


def _place(address: str) -> tuple[str | None, int | None]:
    """Host and port of an address; what is none is refused."""
    try:
        parts = urlsplit(address)
        place = parts.hostname, parts.port
    except ValueError:
        raise ApiError(401) from None
    return place


def _identify(call: Call, request: Request, cookie: str | None) -> Session | None:
    """Find the caller's session; what needs no new cookie is returned."""
    ui = call.ui
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if ui.traits.modern and kind.lower() == "bearer":
        call.session = ui.sessions.by_key(key)
        if call.session is None or request.path_params["scope"] == "auth":
            raise ApiError(403)
        return call.session
    call.session = known = ui.sessions.find(cookie)
    if known is None and ui.other["bypass_local_auth"] and call.peer in {"127.0.0.1", "::1"}:
        call.session = ui.sessions.start()
    elif known is None and ui.traits.modern and kind.lower() == "basic":
        call.session = _basic(call, key)
    return known


def _basic(call: Call, encoded: str) -> Session:
    """A session for a name and a password in a header; failures count towards a ban."""
    if call.ui.sessions.banned(call.peer):
        raise ApiError(403, BANNED)
    try:
        username, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise ApiError(401) from None
    if not call.ui.sessions.check(call.peer, username, password):
        raise ApiError(401)
    return call.ui.sessions.start()


async def _answer(call: Call, request: Request) -> Response:
    path = f"{request.path_params['scope']}/{request.path_params['action']}"
    modern = call.ui.traits.modern
    if call.session is None and path != "auth/login":
        raise ApiError(403)
    if path not in ENDPOINTS:
        known = modern and request.path_params["scope"] in SCOPES
        raise ApiError(404, "Endpoint does not exist" if known else None)
    made, only = ENDPOINTS[path]
    method = GET if request.method == "HEAD" else request.method
    if method not in {GET, POST}:
        return Response("", 501)
    if only and method != only:
        raise ApiError(405)
    await _read(call, request, method)
    answer = made(call)
    task = BackgroundTask(call.ui.announce, call.announce) if call.announce else None
    return _response(answer, task)


async def _read(call: Call, request: Request, method: str) -> None:
    """The parameters: of the query for GET, of the body for POST."""
    if method == GET:
        call.form = dict(parse_qsl(request.url.query, keep_blank_values=True))
        return
    if int(request.headers.get("content-length", 0)) > LARGEST_BODY:
        raise ApiError(400, "")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        raw = await request.body()
        call.form = dict(parse_qsl(raw.decode(errors="replace"), keep_blank_values=True))
    elif kind == "multipart/form-data":
        async with request.form(max_files=100_000, max_fields=10_000, max_part_size=LARGEST_BODY) as form:
            files = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
            call.form = {name: one for name, one in form.multi_items() if isinstance(one, str)}
            call.files = [(one.filename or "", await one.read()) for one in files]


def _response(answer: Answer, task: BackgroundTask | None = None) -> Response:
    if answer.status == 204:
        return Response(status_code=204, background=task)
    return Response(answer.body, answer.status, headers={"content-type": answer.kind}, background=task)


def _set_cookie(response: Response, call: Call, port: int) -> None:
    """Give the caller its session, or take it away."""
    name, traits = call.ui.traits.cookie(port), call.ui.traits
    if call.session is None:
        response.headers["set-cookie"] = f"{name}=; expires={_date(call.ui.wall() - 86_400)}; path=/"
        return
    words = ["HttpOnly", "SameSite=Lax" if traits.modern else "SameSite=Strict"]
    if traits.modern and call.ui.sessions.timeout > 0:
        words.append(f"expires={_date(call.ui.wall() + call.ui.sessions.timeout)}")
    words.insert(len(words) if traits.five else 1, "path=/")
    response.headers["set-cookie"] = "; ".join([f"{name}={call.session.identity}", *words])


def _date(epoch: float) -> str:
    """As cookies have it here: dashes in the date."""
    day, date, month, year, clock, zone = formatdate(epoch, usegmt=True).split()
    return f"{day} {date}-{month}-{year} {clock} {zone}"
