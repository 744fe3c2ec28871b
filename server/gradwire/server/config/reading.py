"""Reader of the server's YAML file, which checks the whole configuration before any model is loaded.

Every error names the file, the key, the given value and a valid one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.registry import backend
from gradwire.server.config.models import ServedModel
from gradwire.server.config.server import ServerConfig
from gradwire.server.errors import ConfigError, StoreConfigError
from gradwire.server.store.url import store_url


def read_config(path: Path, **changes: Any) -> ServerConfig:
    """Reads a YAML file. Paths in it are relative to its folder; ``changes`` replace its keys. Raises ConfigError."""
    return parse_config(content_of(read_text(path), path, **changes), path.parent, str(path))


def read_text(path: Path) -> str:
    """Returns the text of a configuration file. Raises ConfigError."""
    try:
        return path.read_text()
    except FileNotFoundError:
        raise ConfigError(f"{path}: the file does not exist") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read: {e}") from e


def content_of(text: str, path: Path, **changes: Any) -> Any:
    """Parses the YAML of a configuration without checking it; ``changes`` replace its keys. Raises ConfigError."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: is not valid YAML: {e}") from e
    return {**content, **changes} if isinstance(content, Mapping) else content


def parse_config(content: Any, folder: Path, source: str) -> ServerConfig:
    """Checks a parsed configuration.

    Args:
        content: Nested dicts and lists from YAML.
        folder: Base of relative paths in it.
        source: Name of the configuration in errors, such as a file's name.

    Raises:
        ConfigError: Keys are invalid; the text lists those found.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f"{source}: holds {type(content).__name__}; expected keys such as listen and models")
    content = dict(content)
    models = content.get("models")
    if not isinstance(models, list) or not all(isinstance(model, Mapping) for model in models):
        raise ConfigError(f"{source}: models: expected a list of models, each with name, backend and factory")
    content["models"] = [_served(model, f"{source}: models[{index}]", folder) for index, model in enumerate(models)]
    for key in ("state_dir", "spool_dir", "grants"):
        if content.get(key):
            content[key] = folder / content[key]
    content.setdefault("state_dir", folder / ".gradwire")
    try:
        content["store"] = store_url(content.get("store"), folder, Path(content["state_dir"]))
    except StoreConfigError as e:
        raise ConfigError(f"{source}: store: {e}") from e
    for key in ("tls", "identity"):
        if isinstance(content.get(key), Mapping):
            content[key] = {name: folder / value if isinstance(value, str) else value for name, value in content[key].items()}
    try:
        config = ServerConfig.model_validate(content)
    except ValidationError as e:
        raise ConfigError(_explained(e, source, ServerConfig)) from e
    _check_names(config, source)
    config = _with_members(config, source)
    _check_access(config, source)
    return config


def parts(models: Sequence[ServedModel]) -> dict[str, frozenset[str]]:
    """Returns the members of each model by name, including the members of its members.

    Models are in loading order: each comes after its members. Raises graphlib.CycleError.
    """
    direct = {served.name: served.model.made_of for served in models if served.model is not None}
    found: dict[str, frozenset[str]] = {}
    for name in TopologicalSorter(direct).static_order():
        found[name] = frozenset(direct[name]).union(*(found[member] for member in direct[name]))
    return found


def _served(content: Mapping[str, Any], where: str, folder: Path) -> ServedModel:
    keys = dict(content)
    own = {key: keys.pop(key) for key in ("name", "access", "same_as", "replicas") if key in keys}
    label = f"{where} ({own['name']})" if "name" in own else where
    try:
        if "same_as" in own:
            if keys:
                raise ConfigError(f"{label}: {next(iter(keys))}: not allowed with same_as, which takes over the whole model")
            return ServedModel.model_validate(own)
        if "backend" not in keys:
            raise ConfigError(f"{label}: backend: required; expected the name of a backend, for example torch (or same_as)")
        module = backend(str(keys["backend"]))
        for key, field in module.Config.model_fields.items():
            if isinstance(keys.get(key), str) and Path in (field.annotation, *get_args(field.annotation)):
                keys[key] = folder / keys[key]
        try:
            model = module.Config.model_validate(keys)
        except ValidationError as e:
            raise ConfigError(_explained(e, label, module.Config)) from e
        return ServedModel.model_validate({**own, "model": model})
    except ValidationError as e:
        raise ConfigError(_explained(e, label, ServedModel)) from e
    except ModelConfigError as e:
        raise ConfigError(f"{label}: {e}") from e


def _check_names(config: ServerConfig, source: str) -> None:
    names = [served.name for served in config.models]
    own = {served.name for served in config.models if served.same_as is None}
    for index, served in enumerate(config.models):
        if served.name in names[:index]:
            raise ConfigError(f"{source}: models[{index}]: name: {served.name!r} appears twice; served names must be unique")
        if served.same_as is not None and served.same_as not in own:
            raise ConfigError(
                f"{source}: models[{index}] ({served.name}): same_as: {served.same_as!r} is not a name with its own model; "
                f"expected one of: {', '.join(sorted(own))}"
            )


def _with_members(config: ServerConfig, source: str) -> ServerConfig:
    """Checks the members of models, and completes models with keys of their members."""
    labels = {served.name: f"{source}: models[{index}] ({served.name})" for index, served in enumerate(config.models)}
    own = {served.name: served.model for served in config.models if served.model is not None}
    for name, model in own.items():
        for member in model.made_of:
            if member not in own:
                raise ConfigError(
                    f"{labels[name]}: members: {member!r} is not a name with its own model; expected names of: "
                    f"{', '.join(sorted(own.keys() - {name}))}"
                )
    try:
        order = parts(config.models)
    except CycleError as e:
        raise ConfigError(f"{labels[e.args[1][0]]}: members: {' in '.join(e.args[1])}: a model cannot be its own member") from None
    for name in order:
        try:
            own[name] = own[name].completed({member: own[member] for member in own[name].made_of})
        except ModelConfigError as e:
            raise ConfigError(f"{labels[name]}: {e}") from e
    models = [served.model_copy(update={"model": own.get(served.name)}) for served in config.models]
    return config.model_copy(update={"models": models})


def _check_access(config: ServerConfig, source: str) -> None:
    """Raises ConfigError if a name has access ``labels`` to a model without classes."""
    tasks = {served.name: served.model.task for served in config.models if served.model is not None}
    for index, served in enumerate(config.models):
        if served.access == "labels" and tasks[served.same_as or served.name] == "regression":
            raise ConfigError(
                f"{source}: models[{index}] ({served.name}): access: 'labels' shows only the top class, and a regression has no "
                "classes; expected 'scores', 'gradients' or 'trainer'"
            )


def _explained(error: ValidationError, source: str, schema: type[BaseModel]) -> str:
    lines = []
    for problem in error.errors():
        where = ": ".join(filter(None, (source, ".".join(str(part) for part in problem["loc"]))))
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key; expected one of: {', '.join(_known(schema, problem['loc']))}")
        elif problem["type"] == "missing":
            lines.append(f"{where}: required, without a default; set it")
        else:
            lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}; given: {problem['input']!r:.200}")
    return "\n".join(lines)


def _known(schema: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """Returns the valid keys at the level of the key ``where``."""
    for part in where[:-1]:
        field = schema.model_fields.get(str(part))
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        schema = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), schema)
    return list(schema.model_fields)
