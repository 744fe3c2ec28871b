"""Tokens, and the file that says whom they speak for.

The file holds hashes alone: a token cannot be had from it, and is shown once, when it is made. A token has 256 random bits,
so that a plain SHA-256 is hash enough, and looking that hash up in a table tells nothing of the token by the time it takes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from gradwire.server.values.principals import check_principal

PREFIX = "gradwire_"
"""Begins every token, so that scanners for lost secrets can tell one."""

_HEADING = "# Written by `gradwire token`. It holds hashes; the tokens themselves are kept nowhere.\n"


class Token(BaseModel):
    """What is known of a token."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, AfterValidator(check_principal)]
    """The principal that it speaks for."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: AwareDatetime
    expires: AwareDatetime | None = None

    @property
    def id(self) -> str:
        """Tells apart the tokens of a name."""
        return self.sha256[:8]

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now


class TokenFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    tokens: list[Token]


def new_token(name: str, now: datetime, expires: datetime | None) -> tuple[str, Token]:
    """A new token, and what is kept of it. Raises ValueError."""
    check_principal(name)
    if expires is not None and expires <= now:
        raise ValueError(f"expires is {expires.isoformat()}, which is over; expected a time to come")
    text = PREFIX + secrets.token_urlsafe(32)
    return text, Token(name=name, sha256=digest(text), created=now.replace(microsecond=0), expires=expires)


def digest(text: str) -> str:
    """What a token is known by."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def by_digest(content: bytes) -> Mapping[str, Token]:
    """A file's tokens by their digests. Raises ValueError, whose text repeats nothing of the file's values."""
    return {token.sha256: token for token in parse(content)}


def parse(content: bytes) -> list[Token]:
    """A file's tokens. Raises ValueError, whose text repeats nothing of the file's values: they might be secret."""
    try:
        held = yaml.safe_load(content)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1})"
        raise ValueError(f"is not YAML{where}") from None
    try:
        # Nothing at all is a file that is being written, not one of which every token was revoked.
        return TokenFile.model_validate(held).tokens
    except ValidationError as e:
        first = e.errors(include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None


def read_tokens(path: Path) -> list[Token]:
    """The tokens of a file. Raises ValueError, OSError."""
    try:
        return parse(path.read_bytes())
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None


def change_tokens(path: Path, change: Callable[[list[Token]], Sequence[Token]]) -> None:
    """Replaces a file's tokens by what is made of them, at once and while nobody else does. Raises ValueError, OSError."""
    # Through a symbolic link the file is replaced that it leads to.
    path = path.resolve()
    with _locked(path.parent):
        before = read_tokens(path) if path.exists() and path.stat().st_size else []
        after = [_as_yaml(token) for token in change(before)]
        write_privately(path, (_HEADING + yaml.safe_dump({"tokens": after}, sort_keys=False)).encode())


def write_privately(path: Path, content: bytes) -> None:
    """Writes a file that its owner alone can read; whoever reads meanwhile finds the old or the new one, whole."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            # NamedTemporaryFile makes it for its owner alone.
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(file.name)
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two commands at once would lose one's change. The folder is locked, so that no lock file stays."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _as_yaml(token: Token) -> dict[str, Any]:
    times = {"created": token.created, "expires": token.expires}
    texts = {key: time.astimezone(timezone.utc).isoformat() for key, time in times.items() if time is not None}
    return {"name": token.name, "sha256": token.sha256, **texts}
