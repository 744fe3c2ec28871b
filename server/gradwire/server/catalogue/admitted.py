"""A served name as one principal may use it: estimator, grant, account, and the parts that may be seen."""

from __future__ import annotations

from dataclasses import dataclass

from gradwire.backends.capabilities import Answer, Operation
from gradwire.backends.errors import Unsupported
from gradwire.backends.estimator import Estimator
from gradwire.server.catalogue.served import Served
from gradwire.server.errors import NotGranted
from gradwire.server.telemetry.counts import family
from gradwire.server.trust.budgets.charges import Charges
from gradwire.server.trust.grants.grant import Grant
from gradwire.server.values.access import GRANTED, AccessLevel, least_access


@dataclass(frozen=True, eq=False)
class Admitted:
    """A served name as one principal may use it. The catalogue makes one for each grant, and calls read its fields.

    Attributes:
        served: The served name.
        principal: The principal that calls.
        grant: The principal's grant.
        charges: Account that the calls are charged to.
        name: Name that callers type.
        estimator: Model that answers.
        model: Name of the loaded model; its versions and its queue go by it.
        counted_as: Model that metrics count batches under: ``model``, or the origin of a clone.
        account_name: Name that calls are charged and recorded under.
        access: Granted access level.
        operations: Operations that are granted and that the model has here.
        granted_answers: Answers of predict that are granted, whether the model has them or not.
        answers: Answers of predict that are granted and that the model has.
        labels_only: Whether predict answers labels alone.
        white_box: Whether the caller may know of the model itself: its loss, its defences, the texts of its failures.
        sees_layers: Whether the caller may ask for activations and products with a layer's Jacobian.
    """

    served: Served
    principal: str
    grant: Grant
    charges: Charges
    name: str
    estimator: Estimator
    model: str
    counted_as: str
    account_name: str
    access: AccessLevel
    operations: frozenset[Operation]
    granted_answers: frozenset[Answer]
    answers: frozenset[Answer]
    labels_only: bool
    white_box: bool
    sees_layers: bool

    @classmethod
    def of(cls, served: Served, principal: str, grant: Grant, charges: Charges) -> Admitted:
        """Makes the value from a served name and a grant."""
        estimator, access = served.estimator, grant.access
        white_box = access in ("gradients", "trainer")
        # Rounding and postprocessing change outputs alone: where there is either, other answers would show what is hidden.
        hidden = grant.rounded or bool(estimator.postprocessing)
        outputs_only = access == "labels" or (access == "scores" and hidden)
        granted_answers = frozenset({Answer.OUTPUTS}) if outputs_only else frozenset(Answer)
        return cls(
            served=served,
            principal=principal,
            grant=grant,
            charges=charges,
            name=served.name,
            estimator=estimator,
            model=served.model,
            counted_as=family(served.model),
            account_name=served.account_name,
            access=access,
            operations=grant.granted & served.capabilities,
            granted_answers=granted_answers,
            answers=estimator.answers & granted_answers,
            labels_only=access == "labels",
            white_box=white_box,
            sees_layers=white_box and grant.activations,
        )

    def check(self, operation: Operation) -> None:
        """Checks that an operation may be called.

        Raises:
            NotGranted: The operation is not granted.
            Unsupported: The model does not have it.
        """
        if operation in self.operations:
            return
        if operation not in self.grant.granted:
            raise NotGranted(f"{self._has}; {operation.value} needs {self._needs(operation)}")
        if operation in self.estimator.capabilities:
            raise Unsupported(f"{self.name!r} offers no {operation.value}: {self.served.fixed}")
        can = ", ".join(sorted(o.value for o in self.operations))
        raise Unsupported(f"{self.name!r} ({self.estimator.config.backend}) has no {operation.value}; it has: {can}")

    def check_answer(self, answer: Answer) -> None:
        """Checks that predict may give an answer.

        Raises:
            NotGranted: The answer is not granted.
            Unsupported: The model does not have it.
        """
        if answer in self.answers:
            return
        if answer not in self.granted_answers:
            least, why = ("scores", "") if self.labels_only else ("gradients", ", because outputs are rounded or postprocessed")
            raise NotGranted(f"{self._has}; {answer.value} needs {least!r}{why}")
        can = ", ".join(sorted(a.value for a in self.answers))
        raise Unsupported(f"{self.name!r} ({self.estimator.config.backend}) has no {answer.value}; it has: {can}")

    def check_layer(self) -> None:
        """Checks that a layer's Jacobian may be used.

        Raises:
            NotGranted: The grant does not include activations.
        """
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
