"""The sidecar's own pages among the requests: its health, and the caller's status."""

import logging
from typing import Protocol

from sidegate.decision.bad_request import BadRequest
from sidegate.decision.request import RequestFacts, path_part
from sidegate.edge.exchange_ports import ClientSide
from sidegate.edge.failures import Failure
from sidegate.edge.heads import RequestHead
from sidegate.edge.replies import page
from sidegate.edge.runtime import LiveRules, OwnPage, Runtime

logger = logging.getLogger(__name__)


class PageRequest(Protocol):
    """A request for a page."""

    head: RequestHead
    live: LiveRules
    facts: RequestFacts

    def last_lines(self, keep: bool) -> bytes:
        """The last lines of its answer."""

    def fail(self, failure: Failure) -> None:
        """Answer with a failure."""

    def end(self, status: int, error: str = "", keep: bool = True) -> None:
        """The answer is sent."""


def page_for(head: RequestHead, runtime: Runtime) -> OwnPage | None:
    """The page that a request asks for; None where it is for the application."""
    return runtime.pages.get(path_part(head.target)) if head.method in ("GET", "HEAD") else None


async def show(request: PageRequest, own_page: OwnPage, client: ClientSide) -> None:
    """Answer with the page."""
    try:
        status, content = await own_page(request.facts)
    except BadRequest:
        request.fail(Failure.BAD_REQUEST)
    except Exception:  # the boundary of one request
        logger.exception("a page could not be made")
        request.fail(Failure.INTERNAL)
    else:
        last_lines, tailored = request.last_lines(True), request.live.tailored
        if tailored is None:
            answer = page(status, content, head_only=request.head.method == "HEAD", connection=last_lines)
        else:
            answer = tailored.page(status, content, request.head, last_lines)
        client.socket.write(answer)
        request.end(status)
