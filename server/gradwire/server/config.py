"""The server's configuration: one YAML file, checked whole before anything is loaded.

Every error names the file, the key, what is there and what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import ModelConfigError
from gradwire.backends.registry import backend
from gradwire.server.devices.names import Devices
from gradwire.server.errors import ConfigError, StoreConfigError
from gradwire.server.store.place import store_url
from gradwire.server.values.access import AccessLevel
from gradwire.server.values.principals import check_principal

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Of models and versions."""


class Limits(BaseModel):
    """What the server takes from callers at most. Sizes are in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_calls: int = Field(default=1024, ge=1)
    """Calls admitted at the same time, running and waiting."""
    max_tensor_bytes: int = Field(default=16 << 30, ge=1)
    """One tensor of a call, streamed or not."""
    max_held_bytes: int = Field(default=256 << 20, ge=1)
    """What a call holds in memory at once: labels and cotangents, and each row block."""
    max_message_bytes: int = Field(default=5 << 20, ge=2 << 20)
    """One gRPC message."""
    fit_memory_bytes: int = Field(default=512 << 20, ge=0)
    """Training data beyond this is kept in a memory-mapped file."""
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """A client that sends or takes nothing for so long in the middle of a call has lost it."""
    idle_timeout_s: float = Field(default=600.0, gt=0)
    """A stream without calls is ended after this long; clients open a new one."""
    max_connection_age_s: float | None = Field(default=None, gt=0, le=2_000_000)
    """Callers open a new connection after about this long, which may lead to another server; None: they keep theirs."""
    max_connection_age_grace_s: float | None = Field(default=None, gt=0, le=2_000_000)
    """Calls that are under way then may go on for so long; None: until they end."""
    min_bytes_per_s: float = Field(default=4096.0, ge=0)
    """A client that sends or takes less, over ``stall_timeout_s`` of waiting for it, has lost its call."""
    max_rows: int | None = Field(default=None, ge=1)
    """Of one call."""
    max_call_s: float | None = Field(default=None, gt=0)
    """A call that asks for more time, or does not say, gets so much."""
    max_streams: int = Field(default=1024, ge=1)
    """Open streams of one caller."""
    max_queued_calls: int | None = Field(default=None, ge=1)
    """Calls of one caller, running and waiting; None: ``max_calls``."""
    max_clones: int = Field(default=4, ge=0)
    """Clones of each model at the same time."""

    @model_validator(mode="after")
    def _aging(self) -> Limits:
        if self.max_connection_age_grace_s is not None and self.max_connection_age_s is None:
            raise ValueError("max_connection_age_grace_s is there and max_connection_age_s is not, after which it begins; add it")
        return self


class Tls(BaseModel):
    """The server's certificate and its private key, PEM files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate: Path
    key: Path


class IdentityConfig(BaseModel):
    """How callers are told apart. With both, a certificate is needed to connect, and a token may speak for somebody else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Path | None = None
    """The file that ``gradwire token`` writes; read again when it changes."""
    client_ca: Path | None = None
    """PEM: clients show a certificate that is signed by one of these; its common name says who calls."""
    admins: list[Annotated[str, AfterValidator(check_principal)]] = []
    """Principals who may give and take access, and see what everybody has used."""

    @model_validator(mode="after")
    def _something(self) -> IdentityConfig:
        if self.tokens is None and self.client_ca is None:
            raise ValueError("expected tokens, client_ca or both: nobody could be known without")
        return self


class TracingConfig(BaseModel):
    """Where traces of calls go, over OTLP and HTTP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str
    """A collector's URL; without a path, its ``/v1/traces``."""
    ratio: float = Field(default=0.01, ge=0, le=1)
    """Part of the calls that are traced, of those whose callers do not say. A caller's trace context decides otherwise."""

    @field_validator("endpoint")
    @classmethod
    def _url(cls, endpoint: str) -> str:
        parsed = urlsplit(endpoint)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise ValueError(f"{endpoint!r} is not an http or https URL; for example http://127.0.0.1:4318")
        return endpoint if parsed.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"


class ReplicaOptions(BaseModel):
    """How often a model is there, with an engine that has replicas, and what each of them needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least: int = Field(default=1, ge=1)
    most: int = Field(default=0, ge=0, validate_default=True)
    """As many as are wanted when row blocks wait; ``least`` if not said."""
    queue: float = Field(default=2.0, gt=0)
    """Row blocks at a replica, computed and waiting, beyond which another replica is started."""
    cpus: float = Field(default=1.0, ge=0)
    gpus: float = Field(default=0.0, ge=0)
    """Of each replica; a part of one lets several replicas share a GPU."""

    @field_validator("most")
    @classmethod
    def _at_least(cls, most: int, info: ValidationInfo) -> int:
        least = int(info.data.get("least", 1))  # not there if it is wrong itself
        if most and most < least:
            raise ValueError(f"{most} is less than least, which is {least}")
        return most or least


class RayConfig(BaseModel):
    """The cluster of the engine ``ray``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str | None = None
    """``auto`` or ``host:port``; if not said, that of the environment's RAY_ADDRESS, or a cluster of this host alone."""
    app: str = Field(default="gradwire", pattern=NAME)
    """What the deployments' names begin with. Two servers on one cluster need two."""
    patience_s: float = Field(default=120.0, gt=0)
    """How long nobody may answer: a node that is gone is noticed, and its replicas are started elsewhere, in less."""


class ServedModel(BaseModel):
    """One served name: a model of its own, or another model's under this name with other access."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    name: str = Field(pattern=NAME)
    access: AccessLevel = "gradients"
    same_as: str | None = None
    model: ModelConfig | None = None
    replicas: ReplicaOptions = ReplicaOptions()
    """Of the engine ``ray``; with another one there is one, here."""


class ServerConfig(BaseModel):
    """What ``gradwire serve`` reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = "127.0.0.1:50051"
    devices: Devices | None = None
    """A process for each, all at ``listen``; None: one process, with each model on its own ``device``."""
    insecure: bool = False
    """Allows a listener that is not loopback although calls are not both encrypted and authenticated."""
    tls: Tls | None = None
    identity: IdentityConfig | None = None
    grants: Path | None = None
    """The file that says who may do what; read again when it changes. Without it and without identity, all get ``access``."""
    store: str | None = None
    """SQLAlchemy's URL of the database that keeps budgets, grants and the ledger. In a file's configuration, a SQLite file
    is relative to the file, and gradwire.db in ``state_dir`` if none is named."""
    lease_rows: int = Field(default=100, ge=1)
    """Rows of a budget that the server takes from the store at a time; 1: every call is charged there by itself."""
    keep_calls_days: float | None = Field(default=None, gt=0, le=36_500)
    """How long the ledger keeps a call; None: for ever. Usage and budgets know of it all the same."""
    health_listen: str | None = None
    """A second listener, in the clear, that serves grpc.health.v1 and nothing else."""
    metrics_listen: str | None = None
    """A listener that Prometheus scrapes, over HTTP in the clear."""
    metrics_principals: bool | None = None
    """Whether metrics name principals, whose budgets they show then; None: only on loopback."""
    tracing: TracingConfig | None = None
    models: list[ServedModel] = Field(min_length=1)
    engine: Literal["embedded", "ray"] = "embedded"
    """Where models are: in this process, or replicated over a Ray cluster."""
    ray: RayConfig = RayConfig()
    limits: Limits = Limits()
    state_dir: Path = Path(".gradwire")
    """Where versions are kept; in a file's configuration, relative to the file."""
    spool_dir: Path | None = None
    """Where training data beyond memory goes; the system's temporary folder if not said."""
    drain_timeout_s: float = Field(default=30.0, ge=0)
    """How long running calls may take to end after SIGTERM."""
    watchdog_s: float | None = Field(default=None, gt=0)
    """How long one batch may be computed before the model is taken for hung."""
    watchdog_exits: bool = True
    """Whether the process then ends, with exit code 70, to be started again."""
    log_format: Literal["text", "json"] = "text"

    @field_validator("listen", "health_listen", "metrics_listen")
    @classmethod
    def _address(cls, listen: str | None, info: ValidationInfo) -> str | None:
        if listen is None or (listen.startswith("unix:") and info.field_name != "metrics_listen"):
            return listen
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{listen!r} is not host:port; for example 127.0.0.1:50051, or port 0 for any free one")
        return listen

    @model_validator(mode="after")
    def _one_way_to_several(self) -> ServerConfig:
        if self.devices is not None and self.engine != "embedded":
            raise ValueError(f"devices and engine {self.engine!r} are both set, and each has processes of its own; leave one out")
        return self

    @model_validator(mode="after")
    def _encrypted(self) -> ServerConfig:
        if self.identity is not None and self.identity.client_ca is not None and self.tls is None:
            raise ValueError("identity.client_ca is there and tls is not, over which certificates are shown; add tls")
        return self


def read_config(path: Path, **changes: Any) -> ServerConfig:
    """Reads a YAML file. Relative paths in it are relative to its folder; ``changes`` replace its keys. Raises ConfigError."""
    return parse_config(content_of(read_text(path), path, **changes), path.parent, str(path))


def read_text(path: Path) -> str:
    """What is in a configuration file. Raises ConfigError."""
    try:
        return path.read_text()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read: {e}") from e


def content_of(text: str, path: Path, **changes: Any) -> Any:
    """The YAML in a file's text, not checked yet, with keys replaced by ``changes``. Raises ConfigError."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: is not YAML: {e}") from e
    return {**content, **changes} if isinstance(content, Mapping) else content


def parse_config(content: Any, folder: Path, source: str) -> ServerConfig:
    """Checks a configuration that has been read.

    Args:
        content: Nested dicts and lists, as YAML gives them.
        folder: What relative paths in it are relative to.
        source: What to call it in errors, a file's name.

    Raises:
        ConfigError: With every wrong key that was found.
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
    """By name, all models that each model of its own is made of, the members of its members too.

    The order is one to load them in: every model comes after its parts. Raises graphlib.CycleError.
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
                raise ConfigError(f"{label}: {next(iter(keys))}: not allowed beside same_as, which takes the model as it is there")
            return ServedModel.model_validate(own)
        if "backend" not in keys:
            raise ConfigError(f"{label}: backend: missing; expected the name of a backend, for example torch (or same_as)")
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
            raise ConfigError(f"{source}: models[{index}]: name: {served.name!r} is there twice; every served name is unique")
        if served.same_as is not None and served.same_as not in own:
            raise ConfigError(
                f"{source}: models[{index}] ({served.name}): same_as: {served.same_as!r} is not a model of its own here; "
                f"expected one of: {', '.join(sorted(own))}"
            )


def _with_members(config: ServerConfig, source: str) -> ServerConfig:
    """Checks what models are made of, and completes them by it."""
    places = {served.name: f"{source}: models[{index}] ({served.name})" for index, served in enumerate(config.models)}
    own = {served.name: served.model for served in config.models if served.model is not None}
    for name, model in own.items():
        for member in model.made_of:
            if member not in own:
                raise ConfigError(
                    f"{places[name]}: members: {member!r} is not a model of its own here; expected some of: "
                    f"{', '.join(sorted(own.keys() - {name}))}"
                )
    try:
        order = parts(config.models)
    except CycleError as e:
        raise ConfigError(f"{places[e.args[1][0]]}: members: {' in '.join(e.args[1])}: a model cannot be made of itself") from None
    for name in order:
        try:
            own[name] = own[name].completed({member: own[member] for member in own[name].made_of})
        except ModelConfigError as e:
            raise ConfigError(f"{places[name]}: {e}") from e
    models = [served.model_copy(update={"model": own.get(served.name)}) for served in config.models]
    return config.model_copy(update={"models": models})


def _check_access(config: ServerConfig, source: str) -> None:
    """Raises ConfigError if a name gives labels of a model that has no classes."""
    tasks = {served.name: served.model.task for served in config.models if served.model is not None}
    for index, served in enumerate(config.models):
        if served.access == "labels" and tasks[served.same_as or served.name] == "regression":
            raise ConfigError(
                f"{source}: models[{index}] ({served.name}): access: 'labels' is the top class alone, and a regression has no "
                "classes; expected 'scores', 'gradients' or 'trainer'"
            )


def _explained(error: ValidationError, source: str, schema: type[BaseModel]) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "the whole"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{source}: {key}: there is no such key; expected one of: {', '.join(_known(schema, problem['loc']))}")
        elif problem["type"] == "missing":
            lines.append(f"{source}: {key}: missing; it has no default")
        else:
            lines.append(f"{source}: {key}: {problem['msg'].removeprefix('Value error, ')}; given: {problem['input']!r:.200}")
    return "\n".join(lines)


def _known(schema: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """The keys that there are beside the one at ``where``."""
    for part in where[:-1]:
        field = schema.model_fields.get(str(part))
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        schema = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), schema)
    return list(schema.model_fields)
