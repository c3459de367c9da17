"""A message to a webhook when drift is found."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from wyrmling.core.errors import BadInput

TIMEOUT_SECONDS = 10.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The message goes to the address of the settings and nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def send(url: str, message: dict[str, Any]) -> None:
    """POST a JSON message; its `text` is what chat programs show.

    Raises   BadInput when it can't be delivered
    """
    body = json.dumps(message, ensure_ascii=False).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"}, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS):
            pass
    except (urllib.error.URLError, OSError, ValueError) as error:
        # The path of a webhook is often its password.
        raise BadInput(
            f"the webhook at {urlsplit(url).hostname} could not be told: {getattr(error, 'reason', error)}",
            where="feedback.webhook",
            fix="check the address, and that it answers a POST with 2xx",
        ) from error
