"""Answer GET: a page and whether the hub is well, for anybody; figures, for who has the operator's token."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from picopayments_cli.bodies import head_size
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.hub.health import Health
from picopayments_cli.hub.metrics import Metrics
from picopayments_cli.hub.page import Page
from picopayments_cli.limits import Limiter, Limits, TooMuch

LIMITS = Limits(calls=10, burst=10)  # of one address, a second
NOT_KEPT = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_HOST = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class Front:
    """The answers to GET of one hub."""

    def __init__(self, page: Page, health: Health, metrics: Metrics, token: str) -> None:
        self._page = page
        self._health = health
        self._metrics = metrics
        self._expected = f"Bearer {token}".encode()
        self._limiter = Limiter(LIMITS)

    def routes(self) -> Sequence[Route]:
        """Where they are."""
        answers: dict[str, Callable[[Request], Response]] = {
            "/": self.page,
            "/healthz": self.healthz,
            "/metrics": self.metrics,
        }
        return [Route(path, self._limited(answer), methods=["GET"]) for path, answer in answers.items()]

    def page(self, request: Request) -> Response:
        """The page, with the URL by which it was asked for: it goes to nobody else."""
        host = request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            return PlainTextResponse("The request names no host.\n", 400, NOT_KEPT)
        try:
            text = self._page.html(f"{request.url.scheme}://{host}/api/")
        except PicopaymentsError as error:
            return PlainTextResponse(f"The hub can't tell now ({error.name}). Try again later.\n", 503, NOT_KEPT)
        return HTMLResponse(text, 200, {"Content-Security-Policy": self._page.policy, **NOT_KEPT})

    def healthz(self, _request: Request) -> Response:
        """200 where the hub can work, else 503; the reasons by name, and nothing more."""
        reasons = self._health.reasons()
        return JSONResponse({"ok": not reasons, "reasons": reasons}, 503 if reasons else 200, NOT_KEPT)

    def metrics(self, request: Request) -> Response:
        """The figures, to who names the token."""
        if not hmac.compare_digest(request.headers.get("authorization", "").encode("latin-1"), self._expected):
            text = "The operator's token is needed: Authorization: Bearer, and the content of its file.\n"
            return PlainTextResponse(text, 401, {"WWW-Authenticate": "Bearer", **NOT_KEPT})
        return Response(self._metrics.text(), 200, NOT_KEPT, CONTENT_TYPE_LATEST)

    def _limited(self, answer: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        """Bound what one address may ask for; the rest runs beside the others."""

        async def limited(request: Request) -> Response:
            address = request.client.host if request.client else None
            try:
                with self._limiter.request(address) as spend:
                    spend(1, head_size(request.scope))
                    return await run_in_threadpool(answer, request)
            except TooMuch as error:
                told = {"Retry-After": f"{error.seconds:.0f}", "Connection": "close"}
                return PlainTextResponse(f"{error}\n", 429, told)

        return limited
