"""Which tokens end an answer."""

from collections.abc import Iterable, Mapping

_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|end_of_text|>", "<|endofturn|>")


def stop_token_ids(declared: Iterable[int | None], chat_template: str, added_ids: Mapping[str, int]) -> list[int]:
    """The declared ids, and those of the end-of-turn tokens that the chat template writes; each once, in order.

    Many chat models declare only the end of text, and would go on to answer themselves after their turn.
    """
    ended = [added_ids[token] for token in _END_OF_TURN if token in chat_template and token in added_ids]
    return list(dict.fromkeys([token_id for token_id in declared if token_id is not None] + ended))
