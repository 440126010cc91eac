"""Token ids that are kept packed are the same in every message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_schemas import JSON, MSGPACK, Codec, InferenceRequest, PackedTokens, encode

token_ids = st.lists(st.integers(0, 2**31 - 1), min_size=1)


@given(token_ids)
def test_a_request_with_packed_tokens_has_the_same_bytes(ids: list[int]) -> None:
    plain = InferenceRequest(model="m", prompt_token_ids=ids)
    packed = InferenceRequest(model="m", prompt_token_ids=PackedTokens(ids))
    for content_type in (JSON, MSGPACK):
        assert encode(packed, content_type) == encode(plain, content_type)
        assert Codec(InferenceRequest).decode(encode(packed, content_type), content_type) == plain


@given(token_ids)
def test_packed_tokens_are_a_sequence_like_any_other(ids: list[int]) -> None:
    packed = PackedTokens(ids)
    assert (len(packed), list(packed), packed[-1], packed[1:3]) == (len(ids), ids, ids[-1], ids[1:3])
    assert packed == ids
    assert packed == PackedTokens(tuple(ids))
    assert packed != [*ids, 0]


def test_what_has_no_place_in_a_message_is_refused() -> None:
    for content_type in (JSON, MSGPACK):
        with pytest.raises(NotImplementedError, match="no room for a object"):
            encode([object()], content_type)
