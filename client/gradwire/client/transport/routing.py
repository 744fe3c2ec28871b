"""Header with the model's name, by which gateways route calls.

One address may lead to several servers with different models. A gateway sees headers but no messages, so every call and
every stream names its model in a header. Servers ignore it and read the message.
"""

from __future__ import annotations

import re
from typing import TypeAlias

Metadata: TypeAlias = tuple[tuple[str, str], ...]

MODEL_KEY = "gradwire-model"
"""Name of the header."""


def naming(model: str, metadata: Metadata) -> Metadata:
    """Adds the header with the model's name to the metadata of a call.

    Names that no server can serve are left out: gRPC does not send every character, and the server's own error is clearer.
    """
    return (*metadata, (MODEL_KEY, model)) if re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", model) else metadata
