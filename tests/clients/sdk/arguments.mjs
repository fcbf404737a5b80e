// The official client sends arguments as models do, and lists tools whose schemas it validates. Requires the
// service's endpoint in MCP_URL and a key in COORDINATION_API_KEY.
import assert from "node:assert/strict";
import process from "node:process";

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const url = new URL(process.env.MCP_URL ?? `${process.env.COORDINATION_API_URL}/mcp`);
url.search = "?tools=all";
const headers = { "X-API-Key": process.env.COORDINATION_API_KEY };
const client = new Client({ name: "sdk-check", version: "1" });
await client.connect(new StreamableHTTPClientTransport(url, { requestInit: { headers } }));
const mark = `arguments-${process.pid}-${Date.now()}`;

async function call(name, args) {
  const result = await client.callTool({ name, arguments: args });
  return { failed: result.isError, answer: result.structuredContent };
}

const { tools } = await client.listTools();
assert.ok(tools.every((tool) => tool.inputSchema.additionalProperties === false));
console.log(`ok: ${tools.length} tools are listed`);

const kept = await call("remember", { summary: mark, tags: mark, details: '{"a": 1}', outcome: "" });
assert.equal(kept.answer.success, true);
const found = await call("recall", { tags: `["${mark}"]`, limit: null, query: "" });
assert.equal(found.answer.count, 1);
assert.deepEqual(found.answer.memories[0].details, { a: 1 });
assert.deepEqual(found.answer.untrusted, ["memories[]"]);
console.log("ok: lists and objects are read from text, and blanks count as absent");

const unknown = await call("acquire_lock", { file_path: "src/a.rs", ttl: 5 });
assert.equal(unknown.failed, true);
assert.match(unknown.answer.detail[0].msg, /did you mean `ttl_minutes`/);
const absolute = await call("acquire_lock", { file_path: "/home/me/project/src/a.rs" });
assert.match(absolute.answer.detail[0].msg, /probably `src\/a.rs`/);
console.log("ok: unknown arguments and absolute paths are refused with what was meant");
process.exit(0);
