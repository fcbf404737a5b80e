// The official client gives up calls that wait: by its time-out, by an AbortSignal, and by closing its
// connection. Each time, the call must take nothing afterwards: another session then gets the lock or the
// task. Requires the service's endpoint in MCP_URL, a key in COORDINATION_API_KEY and that of another agent in
// HOLDER_API_KEY.
import process from "node:process";

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const url = new URL(process.env.MCP_URL ?? `${process.env.COORDINATION_API_URL}/mcp`);
const key = process.env.COORDINATION_API_KEY;
// Of another agent: a call does not wait for a lock of its own agent.
const holderKey = process.env.HOLDER_API_KEY;
const mark = `cancel-${process.pid}-${Date.now()}`;

// A request of a session, without MCP.
async function http(session, path, body) {
  const response = await fetch(new URL(path, url), {
    method: body ? "POST" : "GET",
    headers: {
      "x-api-key": session === "holder" ? holderKey : key,
      "x-session-id": session,
      "content-type": "application/json",
    },
    body: body && JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  return path === "/metrics" ? response.text() : response.json();
}

async function untilWaiting() {
  for (let tries = 0; tries < 400; tries += 1) {
    const waiting = /^coordinator_waiting_requests (\d+)/m.exec(await http("watcher", "/metrics"));
    if (Number(waiting?.[1]) > 0) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error("no call waits");
}

async function connected(session) {
  const client = new Client({ name: "sdk-check", version: "1" });
  const headers = { "X-API-Key": key, "X-Session-Id": session };
  const transport = new StreamableHTTPClientTransport(url, { requestInit: { headers } });
  await client.connect(transport);
  return client;
}

// Three ways to give up. Each returns when the call has failed.
const ways = {
  "time-out": async (client, params) => {
    await rejected(client.callTool(params, undefined, { timeout: 1000 }));
  },
  "AbortSignal": async (client, params) => {
    const controller = new AbortController();
    const call = rejected(client.callTool(params, undefined, { signal: controller.signal }));
    await untilWaiting();
    controller.abort("changed its mind");
    await call;
  },
  "closed connection": async (client, params) => {
    const call = rejected(client.callTool(params));
    await untilWaiting();
    await client.close();
    await call;
  },
};

async function rejected(call) {
  const answer = await call.then((result) => result, () => undefined);
  if (answer !== undefined) throw new Error(`the call was not given up: ${JSON.stringify(answer)}`);
}

async function lockGoesToAnother(name, giveUp) {
  const path = `src/${mark}/${name.replace(/\W/g, "-")}.rs`;
  const holder = await http("holder", "/locks/acquire", { file_path: path, agent_id: "", agent_type: "" });
  if (!holder.success) throw new Error(JSON.stringify(holder));
  const client = await connected("waiter");
  await giveUp(client, { name: "acquire_lock", arguments: { file_path: path, wait_seconds: 40 } });
  await http("holder", "/locks/release", { file_path: path, agent_id: "" });
  const wanted = { file_path: path, agent_id: "", agent_type: "", wait_seconds: 20 };
  const other = await http("other", "/locks/acquire", wanted);
  if (!other.success) throw new Error(`a call that was given up has the lock: ${JSON.stringify(other)}`);
  await client.close();
}

async function taskGoesToAnother(name, giveUp) {
  const type = `${mark}-${name.replace(/\W/g, "-")}`;
  const client = await connected("waiter");
  await giveUp(client, { name: "get_work", arguments: { task_types: [type], wait_seconds: 40 } });
  await http("holder", "/work/submit", { task_type: type, task_description: "do it" });
  const wanted = { agent_id: "", agent_type: "", task_types: [type], wait_seconds: 20 };
  const other = await http("other", "/work/claim", wanted);
  if (!other.success) throw new Error(`a call that was given up has the task: ${JSON.stringify(other)}`);
  await client.close();
}

for (const [name, giveUp] of Object.entries(ways)) {
  for (const scenario of [lockGoesToAnother, taskGoesToAnother]) {
    await scenario(name, giveUp);
    console.log(`ok: ${scenario.name} after ${name}`);
  }
}
process.exit(0);
