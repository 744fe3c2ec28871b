"""Errors of models and of requests to them.

    BackendError
    ├── InvalidInput            the request is wrong; the model is fine
    │   ├── InvalidShape
    │   ├── InvalidDtype
    │   ├── InvalidLabel
    │   ├── InvalidLayer
    │   ├── InvalidValue
    │   └── EmptyBatch
    ├── Unsupported             the model does not have this operation for any input
    ├── OutOfMemory             the device or the host has no memory for that many rows
    ├── ModelFailed             the owner's code raised
    └── ModelConfigError        a model cannot be loaded as it is configured

Every text names the value given, the value expected and, where it helps, the remedy.
"""


class BackendError(Exception):
    """Any error of a backend."""


class InvalidInput(BackendError):
    """The caller sent a value that no state of the model would accept."""


class InvalidShape(InvalidInput):
    """An array's axes are not those of the model."""


class InvalidDtype(InvalidInput):
    """The model does not accept the dtype of an array."""


class InvalidLabel(InvalidInput):
    """A label is not a number, out of range, or in a form that the loss does not take."""


class InvalidLayer(InvalidInput):
    """The model has no such layer."""


class InvalidValue(InvalidInput):
    """An option is out of its range."""


class EmptyBatch(InvalidInput):
    """The request has no rows."""


class Unsupported(BackendError):
    """The model does not have the operation."""


class OutOfMemory(BackendError):
    """The device or the host has no memory for that many rows in one block."""


class ModelFailed(BackendError):
    """The owner's model, loss or defence raised; the cause is chained."""


class ModelConfigError(BackendError):
    """A model cannot be loaded as it is configured.

    Args:
        key: The wrong key of the model's configuration, e.g. ``factory`` or ``weights``.
        problem: The value given and the value required.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem
