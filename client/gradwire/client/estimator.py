"""Remote model with the interface of an ART estimator: operations on numpy arrays, computed on the server.

The operations are those of ART, with the names of its newer and older versions. Arguments are checked against the model's
card before anything is sent; all exceptions are in `gradwire.client.errors`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from gradwire.client import arguments
from gradwire.client.attributes import ModelAttributes
from gradwire.client.card import ModelCard
from gradwire.client.codecs import Codecs, Rounding, Sign, number_of
from gradwire.client.errors import InvalidCall, Unsupported
from gradwire.client.fit import Progress, batches_of, fit_batches, fit_rows
from gradwire.client.queries import card_named, usage_rows
from gradwire.client.transport.connection import Connection
from gradwire.client.usage import Usage
from gradwire.client.versions import Version, Versions
from gradwire.v1 import estimator_pb2 as pb
from gradwire.wire.frames import open_field
from gradwire.wire.tensors import Array, Outgoing, outgoing


class HasConnection(Protocol):
    """The part of a `Server` that estimators use."""

    connection: Connection


class RemoteEstimator(ModelAttributes):
    """A served model. Made by `Server.estimator`; threads may share it, and it can be pickled and copied.

    Attributes:
        server: The `Server` that made it.
        card: The model's card from when the estimator was made or last refreshed; fits update its version.
        codecs: The codecs set by `with_codecs`; none by default.

    Raises:
        InvalidCall: By any method, as a subclass: an argument contradicts the card. ShapeError, DtypeError, LabelError and
            LayerError name the argument, TooLarge the limit.
        NotGranted, Unsupported: By any method: the caller's access does not include the operation, or the model lacks it.
    """

    def __init__(self, server: HasConnection, card: ModelCard) -> None:
        super().__init__(card)
        # Any: `Server` is defined above this module.
        self.server: Any = server
        self._connection = server.connection
        self.codecs = Codecs()

    def refresh(self) -> ModelCard:
        """Fetches the card again: other callers' fits make new versions, and an owner may change the access."""
        self.card = card_named(self._connection, self.card.name)
        return self.card

    def with_codecs(
        self, *, inputs: Rounding | None = None, gradients: Rounding | Sign | None = None, outputs: Rounding | None = None
    ) -> RemoteEstimator:
        """Returns the same model with codecs for slow links: arrays travel in fewer bytes and lose precision.

        Omitted arrays are sent as they are, as are labels, losses, cotangents and fits. Arrays keep their dtypes. "float16" and
        "bfloat16" round to the nearest such number; beyond 65504 float16 is infinite, and under 3e-8 it is 0, as gradients of
        confident models often are: use "bfloat16" for them.

        Args:
            inputs: Codec of the rows: the model gets rounded rows, and its answers are right for those.
            gradients: Codec of `loss_gradient`, `class_gradient` and `vjp`. With "sign" these are +1, -1, 0 or NaN, exactly as
                `numpy.sign` of the gradient: enough for attacks under the L-infinity norm without momentum (FGSM, PGD, BIM), and
                useless for those that need lengths or angles (DeepFool, Carlini's, L1 and L2 norms).
            outputs: Codec of `predict` and `get_activations`.

        Returns:
            A copy of this estimator with these codecs in place of its own.

        Raises:
            InvalidCall, Unsupported: Unknown codec, or one that the server lacks.
        """
        codecs = Codecs(inputs, gradients, outputs)
        codecs.check(self.card)
        changed = copy.copy(self)
        changed.codecs = codecs
        return changed

    # Operations on rows.

    def predict(
        self, x: Any, batch_size: int = 0, training_mode: bool | None = None, logits: bool = False, raw: bool = False
    ) -> Array:
        """Returns the model's outputs for inputs.

        Args:
            x: ``(n, *input_shape)``.
            batch_size: Most rows that the server computes at once; 0: the server chooses.
            training_mode: Dropout and batch normalisation behave as in training; None: as set by `set_learning_phase`.
            logits: Return logits in place of probabilities; for Gaussian processes.
            raw: Return each member's weighted outputs in place of their sum; for ensembles.

        Returns:
            ``(n, C)``, or ``(n, 1)`` for a model with one output; one-hot rows where the access is "labels". With ``raw``
            ``(k, n, C)`` for ``k`` members.

        Raises:
            Unsupported, NotGranted: The card does not list "logits", or "members" for ``raw``, among its answers.
            InvalidCall: Both ``logits`` and ``raw`` are set.
        """
        if logits or raw:
            if logits and raw:
                raise InvalidCall("logits and raw cannot be combined; set one of them")
            answer = self._ask("logits" if logits else "members", x, batch_size, training_mode)
            return np.ascontiguousarray(answer.swapaxes(0, 1)) if raw else answer
        x = arguments.rows(x, self.card)
        opened = pb.PredictOpen(call=self._header(self.codecs.outputs), options=self._options(batch_size, training_mode))
        return self._call("Predict", opened, ("x", x))

    def predict_uncertainty(self, x: Any, batch_size: int = 0, training_mode: bool | None = None) -> Array:
        """Returns the variance of the logits, ``(n, 1)``, of a Gaussian process.

        Arguments as for `predict`. Raises Unsupported or NotGranted if the card does not list "uncertainty" among its answers.
        """
        return self._ask("uncertainty", x, batch_size, training_mode)

    def compute_loss(
        self, x: Any, y: Any, reduction: str = "none", batch_size: int = 0, training_mode: bool | None = None
    ) -> Array:
        """Returns the model's loss.

        Args:
            x: ``(n, *input_shape)``.
            y: Labels: indices ``(n,)`` or ``(n, 1)``, or one-hot or soft rows ``(n, C)``.
            reduction: "none": one value per row; "mean" or "sum": one value.
            batch_size: As for `predict`.
            training_mode: As for `predict`.

        Returns:
            ``(n,)``, or ``()`` if reduced, in the dtype of the model's loss.
        """
        x, y = arguments.labelled_rows(x, y, self.card)
        opened = pb.LossOpen(
            call=self._header(), options=self._options(batch_size, training_mode), reduction=arguments.reduction(reduction)
        )
        return self._call("Loss", opened, ("y", y), ("x", x))

    loss = compute_loss

    def compute_loss_from_predictions(self, pred: Any, y: Any, reduction: str = "none") -> Array:
        """Returns the model's loss of given outputs ``(n, *output_shape)``. Otherwise as `compute_loss`."""
        predictions = arguments.predictions(pred, self.card)
        opened = pb.LossOpen(call=self._header(), reduction=arguments.reduction(reduction))
        y = arguments.labels(y, len(predictions), self.card)
        return self._call("Loss", opened, ("y", y), ("predictions", predictions))

    def loss_gradient(self, x: Any, y: Any, batch_size: int = 0, training_mode: bool | None = None) -> Array:
        """Returns the gradient of the model's own loss with respect to the inputs, in the shape of ``x``.

        If the loss is a mean, each row's gradient is that of the row's own loss, divided by the rows of the call, as in ART.
        Arguments as for `compute_loss`.

        Returns:
            ``(n, *input_shape)``, in the model's floating dtype.
        """
        x, y = arguments.labelled_rows(x, y, self.card)
        opened = pb.LossGradientOpen(call=self._header(self.codecs.gradients), options=self._options(batch_size, training_mode))
        return self._call("LossGradient", opened, ("y", y), ("x", x))

    def class_gradient(self, x: Any, label: Any = None, batch_size: int = 0, training_mode: bool | None = None) -> Array:
        """Returns gradients of the class outputs with respect to the inputs.

        Args:
            x: ``(n, *input_shape)``.
            label: None: every class; an int: that class; a list or array ``(n,)``: one class per row.
            batch_size: As for `predict`.
            training_mode: As for `predict`.

        Returns:
            ``(n, C, *input_shape)`` for every class, otherwise ``(n, 1, *input_shape)``.
        """
        x = arguments.rows(x, self.card)
        label = arguments.label(label, len(x), self.card)
        opened = pb.ClassGradientOpen(call=self._header(self.codecs.gradients), options=self._options(batch_size, training_mode))
        if label is None:
            return self._call("ClassGradient", opened, ("x", x))
        if isinstance(label, int):
            opened.label = label
            return self._call("ClassGradient", opened, ("x", x))
        return self._call("ClassGradient", opened, ("label", label), ("x", x))

    def get_activations(
        self, x: Any, layer: str | int, batch_size: int = 0, framework: bool = False, training_mode: bool | None = None
    ) -> Array:
        """Returns the outputs of a layer, ``(n, ...)``.

        Args:
            x: ``(n, *input_shape)``.
            layer: A name (also of a nested layer that `layer_names` omits), or an index; negative ones count from the end.
            batch_size: As for `predict`.
            framework: Must be False: framework tensors cannot leave the server.
            training_mode: As for `predict`.
        """
        if framework:
            raise Unsupported(
                "framework=True is not possible remotely: framework tensors cannot leave the server; omit it to get a numpy array"
            )
        x = arguments.rows(x, self.card)
        opened = pb.GetActivationsOpen(
            call=self._header(self.codecs.outputs),
            options=self._options(batch_size, training_mode),
            layer=arguments.layer(layer, self.card),
        )
        return self._call("GetActivations", opened, ("x", x))

    def vjp(
        self, x: Any, cotangent: Any, layer: str | int | None = None, batch_size: int = 0, training_mode: bool | None = None
    ) -> Array:
        """Returns the product of a cotangent with the Jacobian of the outputs, in the shape of ``x``.

        Args:
            x: ``(n, *input_shape)``.
            cotangent: In the shape of the outputs before postprocessing, or of the layer's outputs; the first axis is n.
            layer: The layer whose outputs are differentiated; None: the model's outputs.
            batch_size: As for `predict`.
            training_mode: As for `predict`.

        Returns:
            ``(n, *input_shape)``, in the model's floating dtype.
        """
        x = arguments.rows(x, self.card)
        cotangent = arguments.cotangent(cotangent, len(x), self.card)
        opened = pb.VectorJacobianProductOpen(
            call=self._header(self.codecs.gradients), options=self._options(batch_size, training_mode)
        )
        if layer is not None:
            opened.layer.CopyFrom(arguments.layer(layer, self.card))
        return self._call("VectorJacobianProduct", opened, ("cotangent", cotangent), ("x", x))

    def custom_loss_gradient(
        self,
        loss_cotangent: Callable[..., Any],
        x: Any,
        y: Any = None,
        layer_name: str | int | None = None,
        training_mode: bool | None = None,
    ) -> Array:
        """Returns the gradient with respect to ``x`` of a loss that the caller computes.

        Args:
            loss_cotangent: The derivative of the loss with respect to the outputs. Called with the outputs for ``x``, and
                those for ``y`` if given; returns an array in their shape.
            x: ``(n, *input_shape)``.
            y: Inputs to compare with, in the shape of ``x``, as in ART's feature-space attacks.
            layer_name: The layer whose outputs the loss takes; None: the model's outputs.
            training_mode: As for `predict`.

        Returns:
            ``(n, *input_shape)``, in the model's floating dtype.
        """

        def outputs(inputs: Any) -> Array:
            if layer_name is None:
                return self.predict(inputs, training_mode=training_mode)
            return self.get_activations(inputs, layer_name, training_mode=training_mode)

        seen = [outputs(x)] if y is None else [outputs(x), outputs(y)]
        return self.vjp(x, loss_cotangent(*seen), layer_name, training_mode=training_mode)

    # Training.

    def fit(
        self,
        x: Any,
        y: Any,
        batch_size: int = 128,
        nb_epochs: int = 10,
        drop_last: bool = False,
        training_mode: bool = True,
        seed: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        verbose: bool = False,
        **unknown: Any,
    ) -> None:
        """Fits the model on the server in one transaction: a failed or cancelled fit leaves the model unchanged.

        `card` gets the new version; `refresh` fetches all of it.

        Args:
            x: ``(n, *input_shape)``.
            y: Labels, in any of the forms of `compute_loss`.
            batch_size: Rows per optimizer step.
            nb_epochs: Passes over the rows.
            drop_last: Drop a last batch that is not full.
            training_mode: False: layers behave as in inference.
            seed: Seed of the order of rows; None: a new order each time.
            on_progress: Called with the progress a few times a second.
            verbose: Print one line per epoch to stderr.
            **unknown: Other options of a framework's fit raise Unsupported: they are set on the server.
        """
        arguments.no_other_options(unknown, "fit")
        x, y = arguments.labelled_rows(x, y, self.card)
        opened = pb.FitOpen(
            call=self._header(),
            batch_size=arguments.count("batch_size", batch_size, 1),
            nb_epochs=arguments.count("nb_epochs", nb_epochs, 1),
            drop_last=bool(drop_last),
            inference_mode=not training_mode,
        )
        if seed is not None:
            opened.seed = arguments.count("seed", seed, 0, (1 << 64) - 1)
        self._now(fit_rows(self._connection, opened, x, y, on_progress, verbose))

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int = 20,
        training_mode: bool = True,
        on_progress: Callable[[Progress], None] | None = None,
        verbose: bool = False,
        **unknown: Any,
    ) -> None:
        """Fits the model on batches that this process makes and the server trains on, one after the other.

        `card` gets the new version; `refresh` fetches all of it.

        Args:
            generator: An ART ``DataGenerator``, or an iterable of ``(x, y)`` batches, read once per epoch.
            nb_epochs: Passes over the batches.
            training_mode: As for `fit`.
            on_progress: As for `fit`.
            verbose: Print the number of finished batches to stderr, about once a second.
            **unknown: Other options raise Unsupported.
        """
        arguments.no_other_options(unknown, "fit_generator")
        nb_epochs = arguments.count("nb_epochs", nb_epochs, 1)
        opened = pb.FitOpen(call=self._header(), batches=True, inference_mode=not training_mode)

        def checked() -> Iterable[tuple[Array, Array]]:
            for x, y in batches_of(generator, nb_epochs):
                yield arguments.labelled_rows(x, y, self.card)

        self._now(fit_batches(self._connection, opened, checked(), on_progress, verbose))

    def clone_for_refitting(self) -> RemoteEstimator:
        """Makes an untrained clone on the same server; `delete` removes it. Raises TooManyClones."""
        return RemoteEstimator(self.server, Versions(self._connection, self.card.name).clone())

    def delete(self) -> None:
        """Deletes this model, a clone, from the server."""
        Versions(self._connection, self.card.name).delete_clone()

    # Versions.

    def save(self, filename: str, path: str | None = None, overwrite: bool = False) -> Version:
        """Saves the current weights on the server under a name.

        Args:
            filename: The version's name; not a path.
            path: Must be None: weights stay on the server.
            overwrite: Replace a version of that name.

        Returns:
            The version's name, time and size.

        Raises:
            VersionExists, OutOfDisk
        """
        if path is not None:
            raise Unsupported(f"path={path!r} is not possible remotely: versions are saved on the server, by name; omit path")
        return Versions(self._connection, self.card.name).save(filename, overwrite)

    def versions(self) -> list[Version]:
        """Lists the saved versions, oldest first."""
        return Versions(self._connection, self.card.name).list()

    def restore(self, version: str) -> None:
        """Restores weights saved by `save`. Raises UnknownVersion."""
        Versions(self._connection, self.card.name).restore(version)
        self.refresh()

    def reset(self) -> None:
        """Restores the weights that the server loaded at its start."""
        Versions(self._connection, self.card.name).reset()
        self.refresh()

    def usage(self) -> Usage:
        """Returns the rows that this caller has used of this model, and the rows left. Raises UnknownModel."""
        return usage_rows(self._connection, self.card.name)[0]

    def __repr__(self) -> str:
        return f"RemoteEstimator({self.card.name!r} at {self._connection.address}, {self.card.backend}, access {self.card.access})"

    # Inside.

    def _ask(self, answer: str, x: Any, batch_size: int, training_mode: bool | None) -> Array:
        """Calls Predict for another answer than outputs."""
        asked = arguments.answer(answer, self.card)
        x = arguments.rows(x, self.card)
        opened = pb.PredictOpen(
            call=self._header(self.codecs.outputs), options=self._options(batch_size, training_mode), answer=asked
        )
        return self._call("Predict", opened, ("x", x))

    def _call(self, method: str, opened: Any, *arrays: tuple[str, Array]) -> Array:
        sent: Sequence[tuple[str, Array | Outgoing]] = arrays
        if self.codecs.inputs is not None:
            codec = number_of(self.codecs.inputs)
            sent = [(name, outgoing(array, codec) if name == "x" else array) for name, array in arrays]
        return self._connection.call(method, open_field(opened.SerializeToString()), sent, self.card.name)

    def _now(self, version: str) -> None:
        """Keeps the version that a fit has made."""
        self.card = replace(self.card, version=version)

    def _header(self, result_codec: str | None = None) -> pb.CallHeader:
        header = self._connection.header(self.card.name)
        if result_codec is not None:
            header.result_codec = number_of(result_codec)
        return header

    def _options(self, batch_size: int, training_mode: bool | None) -> pb.RowOptions:
        mode = self._learning_phase if training_mode is None else training_mode
        return arguments.options(batch_size, bool(mode), self._preprocessing, self.card)
