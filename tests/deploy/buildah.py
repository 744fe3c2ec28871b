"""Images built from the repository's Dockerfile and run, by buildah: without a daemon, and without more rights than root's.

Programs run in a chroot on the host's network. What an engine would do besides (a read-only root, limits, GPUs) is not done.

GRADWIRE_BUILDAH holds options for buildah itself, for example ``--root FOLDER`` to keep images elsewhere; GRADWIRE_PYTHON_IMAGE
names another base image; GRADWIRE_BUILD_ARGS holds more options for builds.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
BASE = "python:3.11-slim-bookworm"
STAND_IN = "localhost/gradwire-base:bookworm"
"""Debian's own Python, for places from which no registry of images can be reached."""

_ISOLATION = ("--isolation", "chroot", "--network", "host")


def buildah(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs buildah to its end."""
    command = ["buildah", *shlex.split(os.environ.get("GRADWIRE_BUILDAH", "")), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 or not check, f"{shlex.join(command)}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
    return ended


def needs_buildah() -> None:
    """Skips the test, and says why, where nothing can be built."""
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed: apt-get install buildah")
    if os.geteuid() != 0:
        pytest.skip("buildah runs programs in a chroot here, which only root may")


def build(target: str, folder: Path) -> str:
    """Builds a target of the Dockerfile; returns the image's name."""
    name = f"localhost/gradwire-test:{target}"
    arguments = ["--build-arg", f"PYTHON_IMAGE={base(folder)}", *shlex.split(os.environ.get("GRADWIRE_BUILD_ARGS", ""))]
    buildah("bud", *_ISOLATION, "--format", "docker", "--layers", "--target", target, *arguments, "-t", name, str(ROOT))
    return name


def base(folder: Path) -> str:
    """Base image: the Dockerfile's own if it can be pulled, otherwise one made of Debian's packages."""
    if named := os.environ.get("GRADWIRE_PYTHON_IMAGE"):
        return named
    for image in (BASE, STAND_IN):
        if buildah("inspect", "--type", "image", image, check=False).returncode == 0:
            return image
    if buildah("pull", "--quiet", BASE, check=False).returncode == 0:
        return BASE
    if shutil.which("debootstrap") is None:
        pytest.skip(f"{BASE} cannot be pulled, and debootstrap, which would make one like it, is not installed")
    _stand_in(folder / "rootfs")
    return STAND_IN


def _stand_in(rootfs: Path) -> None:
    packages = "ca-certificates,python3,python3-pip,python3-venv"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(rootfs)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for name in ("python", "python3"):
        (rootfs / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
    host = Path("/etc/ssl/certs/ca-certificates.crt")
    if host.exists():  # with those of the network that the host is in
        shutil.copy(host, rootfs / "etc/ssl/certs")
    container = buildah("from", "scratch").stdout.strip()
    try:
        buildah("add", "--quiet", container, str(rootfs), "/")
        buildah("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        buildah("commit", "--quiet", "--format", "docker", container, STAND_IN)
    finally:
        buildah("rm", container)
    shutil.rmtree(rootfs)


def config_of(image: str) -> dict[str, Any]:
    """Configuration of the image: Entrypoint, User, Healthcheck, ..."""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image).stdout)["Docker"]["config"]
    return found


@contextmanager
def container(image: str) -> Iterator[str]:
    """A container of an image, as long as the context lasts."""
    name = buildah("from", "--pull-never", image).stdout.strip()
    try:
        yield name
    finally:
        buildah("rm", name)


def command_in(name: str, command: list[str], mounts: dict[Path, str] | None = None) -> list[str]:
    """Command line that runs a command in a container, as the image's user.

    Args:
        name: The container's.
        command: With its arguments.
        mounts: Folders of the host, and where they are to be, read-only.
    """
    volumes = [option for host, inside in (mounts or {}).items() for option in ("--volume", f"{host}:{inside}:ro")]
    return ["buildah", *shlex.split(os.environ.get("GRADWIRE_BUILDAH", "")), "run", *_ISOLATION, *volumes, name, "--", *command]


@contextmanager
def files_of(name: str) -> Iterator[Path]:
    """The root of a container's files."""
    try:
        yield Path(buildah("mount", name).stdout.strip())
    finally:
        buildah("umount", name)
