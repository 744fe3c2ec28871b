"""Client of gradwire servers. Start with `connect`; it needs numpy, grpcio and protobuf only."""

import os

# grpcio reads this variable at its first import; without it a forked child (multiprocessing, PyTorch's data loaders) hangs
# in its first call.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

from gradwire.client.card import ModelCard
from gradwire.client.codecs import Codecs
from gradwire.client.ensemble import RemoteEnsemble
from gradwire.client.errors import GradwireError
from gradwire.client.estimator import RemoteEstimator
from gradwire.client.fit import Progress
from gradwire.client.grants import Budget, Grant
from gradwire.client.server import Server, connect
from gradwire.client.settings import Renewal, Retry
from gradwire.client.usage import Usage
from gradwire.client.versions import Version

__all__ = [
    "Budget",
    "Codecs",
    "GradwireError",
    "Grant",
    "ModelCard",
    "Progress",
    "RemoteEnsemble",
    "RemoteEstimator",
    "Renewal",
    "Retry",
    "Server",
    "Usage",
    "Version",
    "connect",
]
