"""How byte-level tokenizers cut text into words, by the name that GGUF files give in `tokenizer.ggml.pre`."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pretokenizer:
    """Steps before the byte-level one, in `tokenizer.json` form.

    `gpt2_words` cuts by GPT-2's pattern after them. `add_bos` is what the file means when it does not say.
    `ignore_merges` takes a word that is a token as it is, without merging.
    """

    steps: tuple[dict[str, Any], ...] = ()
    gpt2_words: bool = False
    normalizer: dict[str, Any] | None = None
    add_bos: bool = False
    ignore_merges: bool = False


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _words(digits: str) -> dict[str, Any]:
    """The pattern of Llama 3 and its relatives, which differ in how many digits they keep together."""
    return _split(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _cased_words(digits: str, endings: str = "") -> dict[str, Any]:
    """The pattern of o200k and Tekken: as `_words`, and a word that goes on in capitals is cut before them."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    before = r"[^\r\n\p{L}\p{N}]?"
    return _split(
        f"{before}{upper}*{lower}+{endings}|{before}{upper}+{lower}*{endings}|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_GPT2 = Pretokenizer(gpt2_words=True)
_SINGLE_DIGITS = Pretokenizer(({"type": "Digits", "individual_digits": True},), gpt2_words=True)
_LLAMA3 = Pretokenizer((_words(r"\p{N}{1,3}"),), add_bos=True, ignore_merges=True)
_CL100K = Pretokenizer((_words(r"\p{N}{1,3}"),))
_QWEN2 = Pretokenizer((_words(r"\p{N}"),), normalizer={"type": "NFC"})
_O200K = Pretokenizer((_cased_words(r"\p{N}{1,3}", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"),))
_TEKKEN = Pretokenizer((_cased_words(r"\p{N}"),), add_bos=True, ignore_merges=True)

PRETOKENIZERS = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "olmo": _GPT2,
    "smollm": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "refact": _SINGLE_DIGITS,
    "command-r": _SINGLE_DIGITS,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "falcon3": _LLAMA3,
    "dbrx": _CL100K,
    "smaug-bpe": _CL100K,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "gpt-4o": _O200K,
    "tekken": _TEKKEN,
}
