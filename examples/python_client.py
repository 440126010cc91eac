"""Ask a model straight over NATS, with nothing but `pip install nats-py`:

NATS_URL=nats://127.0.0.1:4222 python python_client.py smollm2-135m-instruct "What is NATS?"
"""

import asyncio
import json
import os
import re
import sys

import nats


async def main(model: str, question: str) -> None:
    nc = await nats.connect(
        os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), token=os.environ.get("NATS_TOKEN")
    )
    name = re.sub("[^A-Za-z0-9_-]", "_", model)  # as the model is called in subjects
    request = {"model": model, "messages": [{"role": "user", "content": question}], "sampling": {"max_tokens": 64}}

    print("From the durable queue:")
    inbox = nc.new_inbox()
    replies = await nc.subscribe(inbox)
    body = json.dumps(request | {"reply_to": inbox}).encode()
    await nc.jetstream().publish(f"sagellm.v1.requests.{name}", body)  # acknowledged: it will be answered
    await show(replies)

    print("From the micro service:")
    inbox = nc.new_inbox()
    replies = await nc.subscribe(inbox)
    await nc.publish(f"sagellm.v1.infer.{name}", json.dumps(request).encode(), reply=inbox)
    await show(replies)
    await nc.close()


async def show(replies) -> None:
    """Print the answer as it comes: frames of events, the last of which is finished, failed or cancelled."""
    async for message in replies.messages:
        for event in json.loads(message.data)["events"]:
            if event["type"] == "tokens":
                print(event.get("text", ""), end="", flush=True)
            else:
                print(f"\n[{event['type']}]", event.get("usage") or event.get("error") or "")
                return


asyncio.run(main(*sys.argv[1:3]))
