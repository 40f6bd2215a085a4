"""Files written whole or not at all, with the user's mistakes (no room, no right to write) as one line."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from fwpkm_eval.errors import UserError

Content = str | bytes | Callable[[Path], object]
"""Text (as UTF-8), bytes, or a function that writes a file at the path it is given."""


def write_whole(path: Path, content: Content) -> Path:
    """Put ``content`` at ``path`` in one step: a crash leaves the old file or the new one.

    The name of the temporary file is unique, so two processes writing the same path only race for who is
    last.

    Raises:
        UserError: the folder cannot be made or the file cannot be written.
    """
    with _said_in_one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _write_beside(path, content)
        try:
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    return path


def create_whole(path: Path, content: Content) -> bool:
    """Like :func:`write_whole`, but never over another file: False if ``path`` is already there."""
    with _said_in_one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _write_beside(path, content)
        try:
            # A hard link fails if the name is taken, which makes "create if absent" one step for all
            # processes.
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links: of two processes at once the last stays, whole
            if path.exists():
                return False
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    return True


def _write_beside(path: Path, content: Content) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        if callable(content):
            content(temporary)
            _usual_permissions(temporary)
        else:
            with open(temporary, "xb") as file:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _usual_permissions(path: Path) -> None:
    """Those of a file that ``open`` makes: some libraries (safetensors) make files that nobody else can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can (POSIX)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _said_in_one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
