// Checks railway.toml against its schema, and that railway.ts has the same settings. The platform reads only one of
// the two, so a change to the other would have no effect.
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

// Compares the variables with those that railway.toml describes in comments. A secret never has a value.
const described = (name) => text.match(new RegExp(`^#      ${name}=(.*)$`, "m"))?.[1];
for (const { name: service, variables } of resources) {
  for (const [name, { type, value }] of Object.entries(variables)) {
    assert.equal(type === "preserve", /PASSWORD|KEY/.test(name), `${service}: ${name}`);
    if (type === "literal") assert.equal(described(name), value, `${service}: ${name}`);
    else assert.ok(text.includes(name), `railway.toml does not name ${name} of ${service}`);
  }
}

// The database image of the development loop is the deployed one.
const { image } = paradedb.source;
const [mountPath] = Object.values(paradedb.volumeAttachments).map((it) => it.mountPath);
const compose = read("../docker-compose.yml");
assert.ok(compose.includes(`image: ${image}\n`), `docker-compose.yml does not use the image ${image}`);
assert.match(compose, new RegExp(`- [\\w-]+:${mountPath}\\n`), `docker-compose.yml: ${mountPath}`);
assert.ok(text.includes(`the image ${image} with a volume at ${mountPath}.`), "railway.toml: paradedb");

console.log("railway.toml and railway.ts agree.");
