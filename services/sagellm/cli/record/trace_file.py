"""The file that a recording is written to: lines of JSON, gzipped if its name ends so."""

import gzip
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from sagellm.simulator.traces import RecordedRequest
from sagellm_schemas import InvalidRequest

SUFFIXES = (".jsonl", ".jsonl.gz")


class TraceFile:
    """A new file; use it as a context, at whose end the file is whole."""

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

    def write(self, request: RecordedRequest) -> None:
        """Add a line."""
        self._file.write(self._encoder.encode(request) + b"\n")
        self.lines += 1

    def flush(self) -> None:
        """Bring what is written to disk, so that little is lost if this process is killed."""
        self._file.flush()
        self._plain.flush()

    def __enter__(self) -> "TraceFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._plain.close()
