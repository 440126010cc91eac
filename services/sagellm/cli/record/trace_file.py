"""The file that a recording is written to: lines of JSON, gzipped if its name ends so."""

import gzip
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from sagellm.simulator.traces import RecordedRequest
from sagellm_schemas import InvalidRequest, Unavailable

SUFFIXES = (".jsonl", ".jsonl.gz")


class TraceFile:
    """A new file; use it as a context, at whose end the file is whole.

    What goes wrong in writing is kept until `flush`, which is called where somebody can be told.
    """

    def __init__(self, path: Path) -> None:
        """Raises:
        InvalidRequest: it cannot be made, is there already, or has a name that no trace may have.
        """
        if not path.name.endswith(SUFFIXES):
            raise InvalidRequest(f"the trace {path} must end in {' or '.join(SUFFIXES)}")
        try:
            plain = path.open("xb")
        except FileExistsError:
            raise InvalidRequest(f"{path} is there already; give --out another name, or remove it") from None
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from None
        self.path = path
        self.lines = 0
        self._plain: IO[bytes] = plain
        self._file: IO[bytes] = (
            gzip.GzipFile(filename="", mode="wb", fileobj=plain) if path.suffix == ".gz" else plain  # type: ignore[assignment]
        )
        self._encoder = msgspec.json.Encoder()
        self._failed: OSError | None = None

    def write(self, request: RecordedRequest) -> None:
        """Add a line."""
        if self._failed is not None:
            return
        try:
            self._file.write(self._encoder.encode(request) + b"\n")
        except OSError as error:
            self._failed = error
        else:
            self.lines += 1

    def flush(self) -> None:
        """Bring what is written to disk, so that little is lost if this process is killed.

        Raises:
            Unavailable: it could not be written, or not all of it.
        """
        try:
            self._file.flush()
            self._plain.flush()
        except OSError as error:
            self._failed = error
        if self._failed is not None:
            raise Unavailable(f"{self.path} cannot be written: {self._failed.strerror}; it has {self.lines} lines")

    def __enter__(self) -> "TraceFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._file, self._plain):
            try:
                file.close()
            except OSError:
                if self._failed is None:
                    raise
