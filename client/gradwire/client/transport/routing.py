"""What a call says of itself outside of its messages, for whoever stands between client and server.

One address may lead to several servers, each with models of its own. A gateway sees headers and no messages, so every call
and every stream names its model in one. Servers do not read it: what counts is in the message.
"""

from __future__ import annotations

import re
from typing import TypeAlias

Metadata: TypeAlias = tuple[tuple[str, str], ...]

MODEL_KEY = "gradwire-model"
"""The header."""


def naming(model: str, metadata: Metadata) -> Metadata:
    """The headers of a call, with the name of its model if it has one.

    A name that no server can serve is left out: gRPC does not send every character, and the server's own error says more.
    """
    return (*metadata, (MODEL_KEY, model)) if re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", model) else metadata
