"""Tokens, and the file that maps them to principals.

The file holds only hashes: it does not reveal tokens, which are shown once, at creation. A token has 256 random bits,
so a plain SHA-256 suffices, and the time of a table lookup by hash reveals nothing about the token.
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
"""Prefix of every token, by which scanners for leaked secrets recognise one."""

_HEADING = "# Written by `gradwire token`. It holds hashes; the tokens themselves are not stored.\n"


class Token(BaseModel):
    """Entry of a token in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, AfterValidator(check_principal)]
    """Principal of its holder."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: AwareDatetime
    expires: AwareDatetime | None = None

    @property
    def id(self) -> str:
        """Short id that distinguishes the tokens of a name."""
        return self.sha256[:8]

    def expired(self, now: datetime) -> bool:
        """True if the token has expired."""
        return self.expires is not None and self.expires <= now


class TokenFile(BaseModel):
    """Schema of a token file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    tokens: list[Token]


def new_token(name: str, now: datetime, expires: datetime | None) -> tuple[str, Token]:
    """Creates a token; returns its text and its entry for the file. Raises ValueError."""
    check_principal(name)
    if expires is not None and expires <= now:
        raise ValueError(f"expires is {expires.isoformat()}, which is in the past; expected a future time")
    text = PREFIX + secrets.token_urlsafe(32)
    return text, Token(name=name, sha256=digest(text), created=now.replace(microsecond=0), expires=expires)


def digest(text: str) -> str:
    """Returns the hash of a token, as in the file."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def by_digest(content: bytes) -> Mapping[str, Token]:
    """Parses a token file; returns its tokens by digest. Raises ValueError, whose text contains no value of the file."""
    return {token.sha256: token for token in parse(content)}


def parse(content: bytes) -> list[Token]:
    """Parses a token file. Raises ValueError, whose text contains no value of the file: values may be secret."""
    try:
        held = yaml.safe_load(content)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1})"
        raise ValueError(f"is not valid YAML{where}") from None
    try:
        # An empty file is one being written; a file without tokens has an empty list.
        return TokenFile.model_validate(held).tokens
    except ValidationError as e:
        first = e.errors(include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None


def read_tokens(path: Path) -> list[Token]:
    """Reads the tokens of a file. Raises ValueError or OSError."""
    try:
        return parse(path.read_bytes())
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None


def change_tokens(path: Path, change: Callable[[list[Token]], Sequence[Token]]) -> None:
    """Replaces the tokens of a file atomically, under a lock. Raises ValueError or OSError."""
    # With a symbolic link, its target is replaced.
    path = path.resolve()
    with _locked(path.parent):
        before = read_tokens(path) if path.exists() and path.stat().st_size else []
        after = [_as_yaml(token) for token in change(before)]
        write_privately(path, (_HEADING + yaml.safe_dump({"tokens": after}, sort_keys=False)).encode())


def write_privately(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read; concurrent readers see the complete old or new file."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            # NamedTemporaryFile creates it with mode 0600.
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
    """Locks the folder, so that no change of two concurrent commands is lost and no lock file remains."""
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
