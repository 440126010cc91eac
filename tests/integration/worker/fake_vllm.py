"""A small server that behaves as vLLM 0.32 was seen to behave on the wire; its "model" recites one sentence."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from safetensors.numpy import save_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer

from sagellm.worker.engines.mock_model import CHATML, END, train_tokenizer

WORDS = "The quick brown fox jumps over the lazy dog,"
SENTENCE = f"{WORDS} naïve 🙂 as ever."
"""What it says: some words of one token each, and some of which every byte is a token."""
MAX_MODEL_LEN = 100
NAME = "served-model"


class FakeVllm:
    """The server and what it has seen. While `gate` is clear, no token follows the first."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_str(train_tokenizer(WORDS).decode())
        self.end_id = self.tokenizer.token_to_id(END)
        self.script = [*self.tokenizer.encode(SENTENCE).ids, self.end_id]
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.disconnected = asyncio.Event()
        self.streaming = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.healthy = True
        self.fail_with: tuple[int, dict[str, Any]] | None = None
        self.break_off_after: int | None = None
        self.killed = False
        self.port = 0
        self.adapters: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeVllm"]:
        """Serve; a second time on the same port."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self.killed = False
        server = _Server(uvicorn.Config(self.application(), log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield self
        finally:
            self.killed = True
            self.gate.set()
            server.should_exit = True
            await serving
            listener.close()

    def encode(self, body: dict[str, Any]) -> list[int]:
        prompt = body.get("prompt")
        if isinstance(prompt, list):
            return prompt
        if prompt is None:
            prompt = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in body["messages"])
            prompt += "<|im_start|>assistant\n"
        return self.tokenizer.encode(prompt).ids

    async def _health(self, request: Request) -> Response:
        return Response(status_code=200 if self.healthy else 503)

    async def _models(self, request: Request) -> Response:
        base = {"id": NAME, "root": "x", "parent": None, "max_model_len": MAX_MODEL_LEN}
        adapters = [base | {"id": name, "parent": NAME} for name in self.adapters]
        return JSONResponse({"object": "list", "data": [base, *adapters]})

    async def _tokenize(self, request: Request) -> Response:
        ids = self.encode(await request.json())
        return JSONResponse({"count": len(ids), "max_model_len": MAX_MODEL_LEN, "tokens": ids})

    async def _completions(self, request: Request) -> Response:
        return await self._answer(request, "completions")

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, "chat")

    async def _answer(self, request: Request, kind: str) -> Response:
        body = await request.json()
        self.bodies.append((kind, body))
        if self.fail_with is not None:
            status, error = self.fail_with
            return JSONResponse({"error": error}, status)
        asked = body["max_tokens"]
        if asked is not None and asked > MAX_MODEL_LEN:
            message = (
                f"max_tokens={asked} cannot be greater than max_model_len={MAX_MODEL_LEN}. "
                f"Please request fewer output tokens. (parameter=max_tokens, value={asked})"
            )
            error = {"message": message, "type": "BadRequestError", "param": "max_tokens", "code": 400}
            return JSONResponse({"error": error}, 400)
        return StreamingResponse(self._events(body, kind), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any], kind: str) -> AsyncIterator[str]:
        try:
            prompt = self.encode(body)
            unknown = [token_id for token_id in prompt if token_id >= self.tokenizer.get_vocab_size()]
            if unknown:
                error = {"message": f"Token id {unknown[0]} is out of vocabulary", "param": None, "code": 400}
                yield _event({"error": error})
                yield "data: [DONE]\n\n"
                return
            if kind == "chat":
                yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
            count = 0
            async for choice in self._choices(body, prompt):
                count += 1
                yield _event({"choices": [choice if kind == "completions" else _as_chat(choice)]})
                if count == self.break_off_after:
                    raise ConnectionResetError
                self.streaming.set()
            usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "prompt_tokens_details": None}
            yield _event({"choices": [], "usage": usage | {"prompt_tokens_details": {"cached_tokens": 4}}})
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.disconnected.set()
            raise

    async def _choices(self, body: dict[str, Any], prompt: list[int]) -> AsyncIterator[dict[str, Any]]:
        said = next(k for k in range(len(self.script), -1, -1) if prompt[len(prompt) - k :] == self.script[:k])
        room = MAX_MODEL_LEN - len(prompt)
        token_ids = self.script[said:][: body["max_tokens"] or room]
        sent, hold = "", max((len(stop) - 1 for stop in body["stop"]), default=0)
        for index, token_id in enumerate(token_ids):
            if index:
                await self.gate.wait()
                if self.killed:
                    raise ConnectionResetError
            text = self.tokenizer.decode(token_ids[: index + 1]).rstrip("\ufffd")
            stop = next((stop for stop in body["stop"] if stop in text), None)
            finish = "stop" if stop or token_id == self.end_id else None
            if finish is None and index + 1 == len(token_ids):
                finish = "length"
            if stop:
                text = text.partition(stop)[0]
            elif not finish:
                text = text[: max(len(sent), len(text) - hold)]
            yield {
                "index": 0,
                "text": text[len(sent) :],
                "token_ids": [token_id],
                "logprobs": self._logprobs(body, token_id),
                "finish_reason": finish,
                "stop_reason": stop,
            }
            sent = text
            if finish:
                return

    def _logprobs(self, body: dict[str, Any], token_id: int) -> dict[str, Any] | None:
        if body.get("logprobs") is None or body["logprobs"] is False:
            return None
        as_ids = body.get("return_tokens_as_token_ids")
        names = [f"token_id:{i}" if as_ids else self.tokenizer.decode([i]) for i in (token_id, 50)]
        best = dict(zip(names, (-0.25, -1.5), strict=True))
        return {"tokens": names[:1], "token_logprobs": [-0.25], "top_logprobs": [best], "text_offset": [0]}


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):
        yield


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _as_chat(choice: dict[str, Any]) -> dict[str, Any]:
    logprobs = choice["logprobs"] and {
        "content": [
            {
                "token": choice["logprobs"]["tokens"][0],
                "logprob": -0.25,
                "bytes": list(choice["logprobs"]["tokens"][0].encode()),
                "top_logprobs": [
                    {"token": token, "logprob": logprob, "bytes": list(token.encode())}
                    for token, logprob in choice["logprobs"]["top_logprobs"][0].items()
                ],
            }
        ]
    }
    return choice | {"delta": {"content": choice["text"]}, "text": None, "logprobs": logprobs}


def model_folder(folder: Path) -> Path:
    """The files of the fake's model, with weights of next to no size."""
    tokenizer_json = train_tokenizer(WORDS)
    vocabulary = Tokenizer.from_str(tokenizer_json.decode()).get_vocab_size()
    hidden, inner = 8, 8
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        f"{layer}input_layernorm.weight": (hidden,),
        f"{layer}post_attention_layernorm.weight": (hidden,),
        **{f"{layer}self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"},
        f"{layer}mlp.gate_proj.weight": (inner, hidden),
        f"{layer}mlp.up_proj.weight": (inner, hidden),
        f"{layer}mlp.down_proj.weight": (hidden, inner),
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "eos_token_id": Tokenizer.from_str(tokenizer_json.decode()).token_to_id(END),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(tokenizer_json)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END, "chat_template": CHATML}))
    return folder
