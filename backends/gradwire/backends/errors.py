"""What can go wrong with a model or with what it is asked.

    BackendError
    ├── InvalidInput            what was asked is wrong; the model is fine
    │   ├── InvalidShape
    │   ├── InvalidDtype
    │   ├── InvalidLabel
    │   ├── InvalidLayer
    │   ├── InvalidValue
    │   └── EmptyBatch
    ├── Unsupported             the model cannot do that, whatever it is given
    ├── OutOfMemory             the device or the host has no room for that many rows
    ├── ModelFailed             the owner's code raised
    └── ModelConfigError        a model cannot be loaded as it is configured

Every text says what was given, what was expected and, where it helps, what to do.
"""


class BackendError(Exception):
    """Any error of a backend."""


class InvalidInput(BackendError):
    """The caller sent something that no state of the model would accept."""


class InvalidShape(InvalidInput):
    """An array's axes are not those of the model."""


class InvalidDtype(InvalidInput):
    """An array's elements are of a type that the model does not take."""


class InvalidLabel(InvalidInput):
    """A label is not a number, out of range, or not in a form that the loss takes."""


class InvalidLayer(InvalidInput):
    """There is no such layer."""


class InvalidValue(InvalidInput):
    """An option is out of its range."""


class EmptyBatch(InvalidInput):
    """There are no rows."""


class Unsupported(BackendError):
    """The model cannot do that."""


class OutOfMemory(BackendError):
    """There is no room for that many rows at once."""


class ModelFailed(BackendError):
    """The owner's model, loss or defence raised; the cause is chained."""


class ModelConfigError(BackendError):
    """A model cannot be loaded as it is configured.

    Args:
        key: The key of the model's configuration that is wrong, e.g. ``factory`` or ``weights``.
        problem: What was given and what is right.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem
