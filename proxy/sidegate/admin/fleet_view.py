"""Overviews of several sidecars side by side, requested from their admin listeners."""

import asyncio
import os

import aiohttp
import orjson

from sidegate.admin.overview import Overview
from sidegate.admin.overview_types import FleetDocument, FleetEntry
from sidegate.config import AdminSettings
from sidegate.config.tls_settings import CurrentTls

# A peer that does not answer must not delay the page.
TIMEOUT_S = 2.0
LARGEST_ANSWER_BYTES = 256 * 1024


class FleetView:
    """Requests `/overview` of each peer. The token is sent to those of `admin.peers` only."""

    def __init__(self, overview: Overview, admin: AdminSettings, tls: CurrentTls) -> None:
        self._overview = overview
        self._name = f"{admin.host}:{admin.port}"
        self._peers = tuple(peer.rstrip("/") for peer in admin.peers)
        self._token = admin.token.get_secret_value()
        self._tls = tls

    async def document(self, given: str, window: str, window_s: int) -> FleetDocument:
        """This sidecar and its peers. `given` URLs on loopback, separated by commas, replace `admin.peers`.

        Other machines are not accepted in a query, since a page could make the sidecar send requests to them.
        """
        urls = [each.rstrip("/") for each in given.split(",") if each]
        own: FleetEntry = {
            "sidecar": self._name,
            "url": None,
            "overview": self._overview.document(window_s),
            "fault": None,
        }
        token = "" if urls else self._token
        connector = aiohttp.TCPConnector(ssl=self._tls() or True)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            peers = await asyncio.gather(*(_entry(session, url, window, token) for url in urls or self._peers))
        return {"sidecars": [own, *peers]}


async def _entry(session: aiohttp.ClientSession, url: str, window: str, token: str) -> FleetEntry:
    entry: FleetEntry = {"sidecar": url.partition("://")[2], "url": url, "overview": None, "fault": None}
    fields = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with session.get(f"{url}/overview?window={window}", headers=fields, allow_redirects=False) as reply:
            body = await reply.content.read(LARGEST_ANSWER_BYTES)
            content = orjson.loads(body)
            if reply.status != 200:
                entry["fault"] = f"answered {reply.status}: {content.get('detail', '')}"
            else:
                entry["overview"] = content
    except aiohttp.ClientConnectorError as error:
        entry["fault"] = f"no connection: {os.strerror(error.errno) if error.errno else error}"
    except TimeoutError:
        entry["fault"] = f"no answer within {TIMEOUT_S:g} s"
    except (aiohttp.ClientError, ValueError, AttributeError) as error:
        entry["fault"] = f"no answer: {error}"
    return entry
