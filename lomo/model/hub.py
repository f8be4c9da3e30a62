"""A model's configuration from the hub: asked only if it answers, since its client is patient."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.model.checkpoint import read_config

HUB_ANSWERS_S = 1.2


def config_from_hub(model: str, revision: str | None, where: str) -> dict[str, Any]:
    """The config.json of a hub id. Raises UserError where neither hub nor local cache gives it."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # Without an answer its client tries again for half a minute.
    cached = constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT)
    try:
        found = hf_hub_download(model, "config.json", revision=revision, local_files_only=cached)
        return read_config(Path(found))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        if cached:
            first = f"{_unreached(constants.HF_HUB_OFFLINE)}, and the local cache has none"
        raise UserError(
            f"the hub gives no config.json of {model!r}: {first}",
            where=where,
            allowed="a model that is public, or in the local cache",
            fix="check the id and the network, or give a folder with its config.json",
        ) from error


def _unreached(told_to: bool) -> str:
    if told_to:
        return "HF_HUB_OFFLINE forbids to ask it"
    return "it cannot be reached"


def _answers(address: str) -> bool:
    """Whether the hub itself answers within HUB_ANSWERS_S, through a proxy where one is set."""
    answered: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=HUB_ANSWERS_S):
                answered.append(True)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code != 407:  # a proxy in front of nothing, or shut
                answered.append(True)
        except (OSError, ValueError, http.client.HTTPException):
            return

    # A thread, since looking a name up has no limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_ANSWERS_S)
    return bool(answered)
