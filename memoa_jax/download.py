"""Download other people's data once, check it, keep it in a cache.

The two public series of the literature are not part of this package. `fetch` brings a file
into the user's cache through pooch (the `data` extra, imported when it is first needed) and
refuses one whose SHA-256 differs from the file that published figures were computed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import cast

TIMEOUT_SECONDS = 30


class DownloadError(OSError):
    """A file could not be had, in one line: what, where from, why, what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web: its name in the cache, its address, the SHA-256 of its bytes."""

    name: str
    url: str
    sha256: str


BANK_OF_CANADA = RemoteFile(
    name="bank_of_canada_exchange_rates.csv",
    # Closing rates 2007-05-01 .. 2017-04-28, weekends filled, as kept in the FedMOE repository.
    url="https://raw.githubusercontent.com/fatemetkl/FedMOE/"
    "09e9873a59b80b929d702e7c4187aa082e22cb50/"
    "fedmoe/datasets/assets/bank_of_canada_exchange_rates.csv",
    sha256="147c2330e17c247e172561604f50ce1c07a68ad3e435367ec07ab3279f81f585",
)
ETT_H1 = RemoteFile(
    name="ETTh1.csv",
    url="https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
    sha256="f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
)


def fetch(
    file: RemoteFile, *, url: str | None = None, cache: str | PathLike[str] | None = None
) -> Path:
    """Return the local path of a file, downloading it if the cache does not hold it.

    A cached file whose SHA-256 is right is used without any connection; a damaged one is
    downloaded again. Nothing with a wrong SHA-256 is ever kept.

    Args:
      file: what to fetch, for example `ETT_H1`.
      url: another http or https address of the same bytes, such as a mirror.
      cache: a folder; None is the system's cache folder for ``memoa_jax``.

    Returns:
      The path of a file with the SHA-256 of `file`.

    Raises:
      DownloadError: one line: pooch is missing, the address cannot be reached, or what it
        serves is another file.

    Example:
      >>> ETT_H1.name
      'ETTh1.csv'
    """
    pooch = _import_pooch(file)
    address = file.url if url is None else url
    if not address.startswith(("http://", "https://")):
        raise DownloadError(f"{file.name}: url = {address!r}: allowed is http:// or https://")
    folder = Path(pooch.os_cache("memoa_jax") if cache is None else cache).expanduser()
    try:
        path = pooch.retrieve(
            address,
            known_hash=f"sha256:{file.sha256}",
            fname=file.name,
            path=folder,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS),
        )
    # The connection's errors are OSErrors, some of them ValueErrors too: they come first.
    except OSError as fault:
        reason = " ".join(str(fault).split())
        raise DownloadError(
            f"{file.name}: cannot be downloaded from {address} into {folder}: {reason}; "
            "pass path= to a copy of the file"
        ) from fault
    except ValueError as fault:
        raise DownloadError(
            f"{file.name}: {address} serves another file, nothing was kept: allowed is "
            f"SHA-256 {file.sha256}; pass path= to a copy of the file"
        ) from fault
    return Path(cast(str, path))


def _import_pooch(file: RemoteFile) -> ModuleType:
    try:
        import pooch
    except ImportError as fault:
        raise DownloadError(
            f"{file.name}: downloading needs pooch: pip install memoa-jax[data], "
            "or pass path= to a copy of the file"
        ) from fault
    return cast(ModuleType, pooch)
