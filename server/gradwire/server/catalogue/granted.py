"""One served name as one principal has it: a model, and what was granted of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradwire.backends.capabilities import Answer, Operation
from gradwire.backends.errors import Unsupported
from gradwire.backends.estimator import Estimator
from gradwire.server.errors import NotGranted
from gradwire.server.trust.grants.grant import Grant
from gradwire.server.values.access import GRANTED, AccessLevel, least_access

if TYPE_CHECKING:
    from gradwire.server.catalogue.served import Served
    from gradwire.server.trust.budgets.charges import Charges


@dataclass(frozen=True, eq=False)
class Granted:
    """What every call goes by.

    Attributes:
        served: The name, and the model behind it.
        principal: Who has it.
        grant: What was granted.
        charges: Where the calls are charged.
    """

    served: Served
    principal: str
    grant: Grant
    charges: Charges

    @property
    def name(self) -> str:
        return self.served.name

    @property
    def estimator(self) -> Estimator:
        return self.served.estimator

    @property
    def account_name(self) -> str:
        """The name that the calls are charged and written down under."""
        return self.served.granted_as

    @property
    def clone_of(self) -> str:
        return self.served.clone_of

    @property
    def model(self) -> str:
        """The name under which the estimator was loaded; its versions and its queue go by it."""
        return self.served.model

    @property
    def access(self) -> AccessLevel:
        return self.grant.access

    @property
    def operations(self) -> frozenset[Operation]:
        """What the principal may do and the model can do."""
        return self.grant.granted & self.served.capabilities

    @property
    def answers(self) -> frozenset[Answer]:
        """What the principal may ask predict for, and the model can tell.

        Rounding and postprocessing are of outputs alone: where there is some, to ask for more is for those who see behind
        it anyway.
        """
        return self.estimator.answers & self._granted_answers

    @property
    def labels_only(self) -> bool:
        return self.access == "labels"

    @property
    def white_box(self) -> bool:
        """Whether the caller may be told of the model itself: its loss, its defences, what it says when it fails."""
        return self.access in ("gradients", "trainer")

    @property
    def sees_layers(self) -> bool:
        """Whether what happens inside the model may be asked for."""
        return self.white_box and self.grant.activations

    def allow(self, operation: Operation) -> None:
        """Raises NotGranted if the operation is not granted, Unsupported if the model does not have it."""
        if operation not in self.grant.granted:
            raise NotGranted(f"{self._has}; {operation.value} needs {self._needs(operation)}")
        if operation in self.estimator.capabilities and operation not in self.served.capabilities:
            raise Unsupported(f"{self.name!r} offers no {operation.value}: {self.served.fixed}")
        if operation not in self.estimator.capabilities:
            can = ", ".join(sorted(o.value for o in self.operations))
            kind = self.estimator.config.backend
            raise Unsupported(f"{self.name!r} ({kind}) has no {operation.value}; it has: {can}")

    def allow_answer(self, answer: Answer) -> None:
        """Raises NotGranted if the answer is not granted, Unsupported if the model does not have it."""
        if answer not in self._granted_answers:
            least, why = ("scores", "") if self.labels_only else ("gradients", ", because outputs are rounded or postprocessed")
            raise NotGranted(f"{self._has}; {answer.value} needs {least!r}{why}")
        if answer not in self.estimator.answers:
            can = ", ".join(sorted(a.value for a in self.answers))
            raise Unsupported(f"{self.name!r} ({self.estimator.config.backend}) has no {answer.value}; it has: {can}")

    def allow_layer(self) -> None:
        """Raises NotGranted if what happens inside the model is not to be seen."""
        if not self.sees_layers:
            raise NotGranted(f"{self._has}; products with the Jacobian of a layer need activations: true")

    @property
    def _has(self) -> str:
        return f"{self.name!r} is granted with access {self.access!r}"

    def _needs(self, operation: Operation) -> str:
        if operation not in GRANTED[self.access]:
            return repr(least_access(operation))
        if operation is Operation.GET_ACTIVATIONS and not self.grant.activations:
            return "activations: true"
        return f"to be among its operations: {', '.join(sorted(o.value for o in self.grant.granted))}"

    @property
    def _granted_answers(self) -> frozenset[Answer]:
        hidden = self.grant.rounded or bool(self.estimator.postprocessing)
        if self.labels_only or (self.access == "scores" and hidden):
            return frozenset({Answer.OUTPUTS})
        return frozenset(Answer)
