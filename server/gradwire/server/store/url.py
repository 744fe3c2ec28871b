"""URL of a server's store, from its configuration. Needs neither models nor a database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy.engine import URL

from gradwire.server.errors import StoreConfigError
from gradwire.server.store.database import checked_url

_FILE = "gradwire.db"


def store_url(url: str | None, folder: Path, state_dir: Path) -> str:
    """Returns the URL to open.

    Args:
        url: URL in the configuration, where a SQLite path may be relative; None for the default.
        folder: Base of relative paths: the folder of the configuration.
        state_dir: Folder of the default SQLite file.

    Raises:
        StoreConfigError: The URL is invalid.
    """
    if url is None:
        return URL.create("sqlite", database=str((folder / state_dir / _FILE).absolute())).render_as_string()
    parsed = checked_url(url)
    if parsed.get_backend_name() == "sqlite":
        parsed = parsed.set(database=str((folder / str(parsed.database)).absolute()))
    return parsed.render_as_string(hide_password=False)


def store_of(config: Path) -> str:
    """Returns the URL of the store from a server's configuration file. Raises StoreConfigError."""
    try:
        content: Any = yaml.safe_load(config.read_text())
    except FileNotFoundError:
        raise StoreConfigError(f"{config}: the file does not exist") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise StoreConfigError(f"{config}: cannot be read as YAML: {e}") from e
    if not isinstance(content, Mapping):
        raise StoreConfigError(f"{config}: holds {type(content).__name__}; expected a server's configuration")
    url, state_dir = content.get("store"), content.get("state_dir", ".gradwire")
    if not isinstance(url, str | None) or not isinstance(state_dir, str):
        raise StoreConfigError(f"{config}: store and state_dir: expected text; given: {url!r:.80} and {state_dir!r:.80}")
    return store_url(url, config.parent, Path(state_dir))
