"""What reading from elsewhere can go wrong with, in one line; and trying again where a connection was cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fwpkm_eval.data.corpora import WITHOUT_NETWORK
from fwpkm_eval.errors import UserError, shown

ATTEMPTS = 5
OTHERWISE = f"give a copy of the file as --source, or {WITHOUT_NETWORK}"

_WAIT = 1.0
_T = TypeVar("_T")


def address(source: str) -> str:
    """What is opened for a source: a public object of Google Cloud Storage (gs://) has an https address, too."""
    return f"https://storage.googleapis.com/{source[5:]}" if source.startswith("gs://") else source


def file_system(where: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path on it."""
    import fsspec

    http = where.startswith(("http://", "https://"))
    system, path = fsspec.core.url_to_fs(where, **({"client_kwargs": {"trust_env": True}} if http else {}))
    return system, path


def pause(failures: int, wait: Callable[[float], None]) -> None:
    """Waits longer after each failure in a row, of which there were `failures`."""
    wait(_WAIT * 2 ** (failures - 1))


def try_again(what: str, read: Callable[[], _T], wait: Callable[[float], None]) -> _T:
    """What `read` gives, tried `ATTEMPTS` times at most; a file that is not there is not tried again.

    Raises FileNotFoundError as `read` does, and UserError, in one line, for whatever else goes on failing.
    """
    for failures in range(1, ATTEMPTS + 1):
        try:
            return read()
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # a cut connection; aiohttp's exceptions are not all OSErrors
            if failures == ATTEMPTS:
                raise UserError(f"cannot read {what}, tried {ATTEMPTS} times: {reason(error)}") from error
            pause(failures, wait)
    raise AssertionError("unreachable")


def reason(error: BaseException) -> str:
    """An HTTP status where there is one (fsspec says FileNotFoundError for all of them), else what went wrong."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(cause, "status", None)
        if isinstance(status, int) and status:
            return f"the server answers {status} {getattr(cause, 'message', '')}".rstrip()
        if isinstance(cause, ConnectionError) or "Connect" in type(cause).__name__ or "Timeout" in type(cause).__name__:
            return f"no connection ({first_line(cause)})"
        if cause.__cause__ is None and cause is not error:
            return first_line(cause)
        cause = cause.__cause__
    return "there is no such file" if isinstance(error, FileNotFoundError) else first_line(error)


def first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return shown(text, 160)[1:-1] if text else type(error).__name__
