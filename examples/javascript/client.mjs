// Ask a model straight over NATS:
//   npm install && NATS_URL=127.0.0.1:4222 node client.mjs smollm2-135m-instruct "What is NATS?"
import { connect, createInbox } from "@nats-io/transport-node";

const [model, question] = process.argv.slice(2);
const name = model.replace(/[^A-Za-z0-9_-]/g, "_"); // as the model is called in subjects
const request = { model, messages: [{ role: "user", content: question }], sampling: { max_tokens: 64 } };

const nc = await connect({ servers: process.env.NATS_URL ?? "127.0.0.1:4222", token: process.env.NATS_TOKEN });

console.log("From the durable queue:");
const reply_to = createInbox();
let replies = nc.subscribe(reply_to);
await nc.request(`sagellm.v1.requests.${name}`, JSON.stringify({ ...request, reply_to })); // acknowledged: it will be answered
await show(replies);

console.log("From the micro service:");
const reply = createInbox();
replies = nc.subscribe(reply);
nc.publish(`sagellm.v1.infer.${name}`, JSON.stringify(request), { reply });
await show(replies);
await nc.close();

// Print the answer as it comes: frames of events, the last of which is finished, failed or cancelled.
async function show(replies) {
  for await (const message of replies) {
    for (const event of message.json().events) {
      if (event.type === "tokens") process.stdout.write(event.text ?? "");
      else return console.log(`\n[${event.type}]`, JSON.stringify(event.usage ?? event.error ?? {}));
    }
  }
}
