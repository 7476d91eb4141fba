"""Fetching a file of known SHA-256 from the first mirror that has it, by pooch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..kernels.paths import cache_root

TIMEOUT_S = (10, 30)  # to connect; between two reads
CHUNK_BYTES = 1 << 16


def cache_folder(name: str) -> Path:
    """Where the files of the data set ``name`` are kept: in the cache of convolt."""
    return cache_root() / "data" / name


def fetch(
    filename: str, sha256: str, mirrors: Sequence[str], folder: Path, together: Sequence[str] = ()
) -> Path:
    """The path of ``filename`` in ``folder``, downloaded unless it is there already.

    ``mirrors`` are the URLs of folders, tried in order. A download that was interrupted, by an
    error or by the end of the process, goes on where it stopped. A file that is in ``folder``
    but has another SHA-256 is downloaded again. Processes take turns.

    Raises ConnectionError, with what to do, when no mirror gives the file; ``together`` are the
    files of the data set, which it then names.
    """
    import requests
    import urllib3

    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    with _taking_turns(folder):
        for mirror in mirrors:
            try:
                return _fetch_from(mirror + filename, filename, sha256, folder)
            except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
                reason = str(error).rpartition("Caused by ")[2]
                failures.append(f"  {mirror}{filename}: {type(error).__name__}: {reason}")
    raise ConnectionError(
        f"{filename} could not be downloaded from any of its {len(mirrors)} mirrors:\n"
        + "\n".join(failures)
        + f"\nWhen the network is back, run this again: it goes on where it stopped. To work "
        f"without a network, get {filename} (SHA-256 {sha256}) by another machine and put it "
        f"into {folder}; or put {', '.join(together or (filename,))} into a folder of your own and "
        f"pass that as --data-dir (root= in Python)."
    )


def _fetch_from(url: str, filename: str, sha256: str, folder: Path) -> Path:
    import pooch

    download = ResumedDownload(folder / f"{filename}.part")

    def retrieve() -> Path:
        downloader: Any = download  # pooch declares the arguments of a processor here
        known_hash = f"sha256:{sha256}"
        return Path(pooch.retrieve(url, known_hash, filename, folder, downloader=downloader))

    resumes = download.part.exists()
    try:
        return retrieve()
    except ValueError:  # another SHA-256, perhaps because of the part from before: it is gone now
        if not resumes:
            raise
        return retrieve()


class ResumedDownload:
    """A downloader for pooch that collects the bytes in the file ``part`` and keeps it when the
    connection breaks, so that the next call asks for the rest only (RFC 9110, section 14).

    Raises requests.RequestException or urllib3.exceptions.HTTPError when the transfer fails.
    """

    def __init__(self, part: Path) -> None:
        self.part = part

    def __call__(
        self, url: str, output_file: Any, pooch: Any, check_only: bool | None = False
    ) -> None:
        """Download ``url`` to the path ``output_file``; ``pooch`` and ``check_only`` are not
        used.
        """
        have = self.part.stat().st_size if self.part.exists() else 0
        if not self._get(url, have):
            self._get(url, 0)
        os.replace(self.part, output_file)

    def _get(self, url: str, first: int) -> bool:
        """Write the bytes from ``first`` on; False when the server has no such range."""
        import requests

        # Compressed in transit, the bytes could be neither resumed nor checked.
        headers = {"Accept-Encoding": "identity"}
        if first:
            headers["Range"] = f"bytes={first}-"
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if first and response.status_code == requests.codes.range_not_satisfiable:
                return False
            response.raise_for_status()
            rest = first and response.status_code == requests.codes.partial_content
            with open(self.part, "ab" if rest else "wb") as file:
                for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                    file.write(chunk)
        return True


@contextmanager
def _taking_turns(folder: Path) -> Iterator[None]:
    """Let one process at a time in: a second one waits, and then finds the file."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
