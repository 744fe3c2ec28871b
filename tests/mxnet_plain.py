"""Plain MXNet code, run in its own environment: ``python -m mxnet_plain FUNCTION IN.npz OUT.npz``.

A function takes arrays by name (texts are JSON) and returns arrays by name. No gradwire in the first half, and in the
second what only a process with MXNet in it can ask of the backend.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def _cross_entropy_gradient(block: Any, x: Any, y: Any, record: bool, backward: bool) -> Any:
    import mxnet as mx

    leaf = mx.nd.array(x, dtype=x.dtype)
    leaf.attach_grad()
    with mx.autograd.record(train_mode=record):
        loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()(block(leaf), mx.nd.array(y))
    loss.backward(train_mode=backward)
    return leaf.grad.asnumpy()


def pooled_gradient(x: Any, y: Any, record: Any, backward: Any) -> dict[str, Any]:
    """The gradient of the summed cross entropy of `mxnet_models.pooled_cnn`, and its weights."""
    import mxnet_models

    block = mxnet_models.pooled_cnn(str(x.dtype))
    weights = {name: p.data().asnumpy() for name, p in block._collect_params_with_prefix().items()}
    return {"gradient": _cross_entropy_gradient(block, x, y, bool(record), bool(backward)), **weights}


def selu_gradient(x: Any, y: Any) -> dict[str, Any]:
    import mxnet_models

    return {"gradient": _cross_entropy_gradient(mxnet_models.selu(), x, y, False, False)}


def recurrent_gradient(x: Any, y: Any, kind: Any) -> dict[str, Any]:
    """With frozen weights, as whoever wants the inputs' gradient alone would have it."""
    import mxnet_models

    block = mxnet_models.Recurrent(str(kind))
    block.collect_params().setattr("grad_req", "null")
    return {"gradient": _cross_entropy_gradient(block, x, y, False, False)}


def loss_rows(outputs: Any, cases: Any) -> dict[str, Any]:
    """Losses of the outputs by name; each case is a class of ``gluon.loss``, its arguments, and labels."""
    import mxnet as mx

    result = {}
    for name, case in json.loads(str(cases)).items():
        loss = getattr(mx.gluon.loss, case["path"])(**case["args"])
        result[name] = loss(mx.nd.array(outputs, dtype=outputs.dtype), mx.nd.array(case["y"], dtype=outputs.dtype)).asnumpy()
    return result


def outputs_of(x: Any, factory: Any) -> dict[str, Any]:
    """Outputs, activations of all layers at the top, the gradient of cross entropy for class 0, and all class gradients."""
    import mxnet as mx
    import mxnet_models

    block = getattr(mxnet_models, str(factory))()
    leaf = mx.nd.array(x, dtype=x.dtype)
    leaf.attach_grad()
    result: dict[str, Any] = {}
    for name, child in block._children.items():
        child.register_forward_hook(lambda _block, _in, out, name=name: result.update({f"layer {name}": out.asnumpy()}))
    with mx.autograd.record(train_mode=False):
        outputs = block(leaf)
    result["outputs"] = outputs.asnumpy()
    columns = []
    for k in range(outputs.shape[1]):
        head = np.zeros(outputs.shape, x.dtype)
        head[:, k] = 1
        outputs.backward(mx.nd.array(head, dtype=x.dtype), retain_graph=True, train_mode=False)
        columns.append(leaf.grad.asnumpy())
    result["class_gradients"] = np.stack(columns, axis=1)
    result["loss_gradient"] = _cross_entropy_gradient(block, x, np.zeros(len(x)), False, False)
    return result


def fit_digits(x: Any, y: Any, held_out: Any, nb_epochs: Any, batch_size: Any, seed: Any) -> dict[str, Any]:
    """The same rows in the same order as a fit of gradwire with this seed."""
    import mxnet as mx
    import mxnet_models

    block = mxnet_models.digits_net()
    trainer = mx.gluon.Trainer(block.collect_params(), "adam", {"learning_rate": 0.003})
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    order = np.random.default_rng(int(seed))
    for _ in range(int(nb_epochs)):
        visited = order.permutation(len(x))
        for first in range(0, len(x), int(batch_size)):
            rows = visited[first : first + int(batch_size)]
            with mx.autograd.record():
                losses = loss(block(mx.nd.array(x[rows])), mx.nd.array(y[rows]))
            losses.backward()
            trainer.step(len(rows))
    return {"outputs": block(mx.nd.array(held_out)).asnumpy()}


def write_files(folder: Any, heads: Any) -> dict[str, Any]:
    """Checkpoints of graphs with several heads, and a block's weights in the forms that Gluon writes.

    Returns:
        The weights of the graphs by name, and as ``outputs`` what the block puts out for ones.
    """
    place = Path(str(folder))
    return {**_write_checkpoints(place, [str(head) for head in heads]), "outputs": _write_weights(place)}


def _write_checkpoints(place: Path, heads: list[str]) -> dict[str, Any]:
    """Of the Module API, whose graphs had a training loss as their last operator."""
    import mxnet as mx

    hidden = mx.sym.Activation(mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=8, name="fc1"), act_type="tanh", name="tanh1")
    last = mx.sym.FullyConnected(hidden, num_hidden=4, name="fc2")
    generator = np.random.default_rng(0)
    shapes = {"fc1_weight": (8, 6), "fc1_bias": (8,), "fc2_weight": (4, 8), "fc2_bias": (4,)}
    weights = {name: generator.normal(0, 0.5, shape) for name, shape in shapes.items()}
    for head in heads:
        getattr(mx.sym, head)(last, name="head").save(str(place / f"{head}-symbol.json"))
        mx.nd.save(str(place / f"{head}-0001.params"), {f"arg:{n}": mx.nd.array(w, dtype="float64") for n, w in weights.items()})
    return weights


def _write_weights(place: Path) -> Any:
    import mxnet as mx
    import mxnet_models

    # The second of the process: its prefix is another one than it will have in the server.
    for _ in range(2):
        block = mxnet_models.not_initialised()
    block.initialize()
    block(mx.nd.zeros((1, 6), dtype="float64"))
    outputs = mxnet_models.numbered(block, seed=9)(mx.nd.ones((1, 6), dtype="float64")).asnumpy()
    block.save_parameters(str(place / "saved.params"))
    block.collect_params().save(str(place / "stripped.params"), strip_prefix=block.prefix)
    mx.nd.save(str(place / "unnamed.params"), [mx.nd.ones((2,))])
    (place / "broken.params").write_bytes((place / "saved.params").read_bytes()[:50])
    return outputs


# Of the backend.


def refusals(configs: Any) -> dict[str, Any]:
    """Errors of `load` for several configurations; empty for those that load."""
    from gradwire.backends.errors import ModelConfigError
    from gradwire.backends.load import load
    from gradwire.backends.mxnet import Config

    said = []
    for config in json.loads(str(configs)):
        try:
            load(Config(backend="mxnet", **config))
            said.append("")
        except (ModelConfigError, ValueError) as e:
            said.append(str(e))
    return {"said": np.array(json.dumps(said))}


def used_before() -> dict[str, Any]:
    """MXNet runs with oneDNN, and the backend is loaded after that."""
    import mxnet as mx

    mx.nd.Pooling(mx.nd.ones((1, 1, 4, 4)), kernel=(2, 2), pool_type="max").asnumpy()
    return refusals(json.dumps([{"factory": "mxnet_models:dense", "input_shape": [6], "nb_classes": 4}]))


def programs_and_hooks() -> dict[str, Any]:
    """Number of graphs compiled for many batch sizes, and of hooks left by calls of layers."""
    from gradwire.backends.mxnet import Config, load

    traced = load(Config(backend="mxnet", factory="mxnet_models:dense", input_shape=[6], nb_classes=4))
    for n in (1, 2, 3, 17, 64, 128, 5):
        x = np.random.default_rng(n).uniform(size=(n, 6))
        traced.predict(x, training_mode=False)
        traced.class_gradient(x, np.zeros(n, np.int64), training_mode=False)
        traced.activations(x, "0", training_mode=False)
        traced.activations(x, 0, training_mode=True)
    written = load(Config(backend="mxnet", factory="mxnet_models:Deep", input_shape=[6], nb_classes=4))
    for layer in ("body", "body.1.1", 0):
        written.activations(x, layer, training_mode=False)
    hooks = [len(layer._forward_hooks) for model in (traced, written) for layer in model._block._children.values()]
    return {"programs": np.array(len(traced._network._programs)), "hooks": np.array(hooks)}


def answers_are_their_own() -> dict[str, Any]:
    """Checks that an answer does not change when the model is called again or fitted."""
    from gradwire.backends.mxnet import Config, load

    loss = "mxnet.gluon.loss.SoftmaxCrossEntropyLoss"
    model = load(Config(backend="mxnet", factory="mxnet_models:dense", loss=loss, optimizer="sgd", input_shape=[6], nb_classes=4))
    x, y = np.random.default_rng(0).uniform(size=(5, 6)), np.array([0, 1, 2, 3, 0])
    calls = [
        lambda: model.predict(x, training_mode=False),
        lambda: model.loss_gradient(x, y, training_mode=False),
        lambda: model.class_gradient(x, None, training_mode=False),
        lambda: model.activations(x, 0, training_mode=False),
    ]
    answers = [call() for call in calls]
    kept = [answer.copy() for answer in answers]
    model.train_step(x, y, training_mode=True)
    for answer in answers:
        answer += 1
    after = [call() for call in calls]
    own = [np.allclose(answer - 1, before) for answer, before in zip(answers, kept, strict=True)]
    fitted = [not np.array_equal(new, before) for new, before in zip(after, kept, strict=True)]
    return {"own": np.array(own), "fitted": np.array(fitted), "contiguous": np.array([a.flags.c_contiguous for a in after])}


if __name__ == "__main__":
    function, given, answered = sys.argv[1:]
    with np.load(given) as arrays:
        np.savez(answered, **globals()[function](**{name: arrays[name] for name in arrays.files}))
