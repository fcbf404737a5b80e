// Checks railway.toml against its schema, and that railway.ts says the same: one of the two will be
// read, and nobody would notice that it is the other one that was kept up.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import { createRailwayContext, project } from "railway/iac";
import { parse } from "smol-toml";
import program from "./railway.ts";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");

const text = read("../railway.toml");
const legacy = structuredClone(parse(text));
const validate = new Ajv2020({ allErrors: true }).compile(JSON.parse(read("railway.schema.json")));
assert.ok(validate(legacy), `railway.toml: ${JSON.stringify(validate.errors, null, 2)}`);

const { resources } = await program(createRailwayContext({ environment: "production" }), project);
assert.deepEqual(resources.map(({ address }) => address), ["service.paradedb", "service.coordinator"]);
const [paradedb, coordinator] = resources;
assert.deepEqual({ build: coordinator.build, deploy: coordinator.deploy }, legacy);

// The set-up that railway.toml can only describe. A secret is never a value.
const described = (name) => text.match(new RegExp(`^#      ${name}=(.*)$`, "m"))?.[1];
for (const { name: service, variables } of resources) {
  for (const [name, { type, value }] of Object.entries(variables)) {
    assert.equal(type === "preserve", /PASSWORD|KEY/.test(name), `${service}: ${name}`);
    if (type === "literal") assert.equal(described(name), value, `${service}: ${name}`);
    else assert.ok(text.includes(name), `railway.toml does not name ${name} of ${service}`);
  }
}

// The database of the development loop and the deployed one are the same.
const { image } = paradedb.source;
const [mountPath] = Object.values(paradedb.volumeAttachments).map((it) => it.mountPath);
const compose = read("../docker-compose.yml");
assert.ok(compose.includes(`image: ${image}\n`), `docker-compose.yml has another image than ${image}`);
assert.match(compose, new RegExp(`- [\\w-]+:${mountPath}\\n`), `docker-compose.yml: ${mountPath}`);
assert.ok(text.includes(`the image ${image} with a volume at ${mountPath}.`), "railway.toml: paradedb");

console.log("railway.toml and railway.ts say the same.");
