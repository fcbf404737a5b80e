// The project on Railway as code: ParadeDB with a volume, and the service on the same private network.
// `railway config plan` shows the changes and `railway config apply` makes them. Both require version 5.42.1 or
// newer of Railway's command-line program. Migrate a service that still reads railway.toml with
// `railway config migrate` first.
//
// This file contains no secrets: `preserve()` keeps the values set in the dashboard or by `railway variable`.
import { defineRailway, github, image, preserve, project, service, volume } from "railway/iac";

export default defineRailway(() => {
  const paradedb = service("paradedb", {
    // The version of docker-compose.yml, which gives the reason.
    source: image("paradedb/paradedb:0.25.9-pg18"),
    // Images of PostgreSQL 18 keep the data in a folder named for the version below this one.
    volumeMounts: { "/var/lib/postgresql": volume("paradedb") },
    deploy: { restartPolicyType: "ALWAYS" },
    env: {
      POSTGRES_USER: "postgres",
      POSTGRES_DB: "postgres",
      POSTGRES_PASSWORD: preserve(),
      // The platform's default of 64 MB is too small for parallel queries and index builds.
      RAILWAY_SHM_SIZE_BYTES: "268435456",
    },
  });

  const coordinator = service("coordinator", {
    source: github("OWNER/agent-coordinator", { branch: "main" }),
    build: { builder: "DOCKERFILE", dockerfilePath: "Dockerfile" },
    deploy: {
      // Requested only while a deployment starts, with `Host: healthcheck.railway.app`.
      healthcheckPath: "/health",
      healthcheckTimeout: 120,
      restartPolicyType: "ON_FAILURE",
      restartPolicyMaxRetries: 10,
      // Both are 0 by default. Draining is longer than SHUTDOWN_GRACE_SECONDS, which is 25 by default.
      overlapSeconds: 5,
      drainingSeconds: 30,
    },
    env: {
      // A password of letters and digits needs no percent-encoding. The private network does not use TLS.
      POSTGRES_DSN:
        "postgresql://postgres:${{paradedb.POSTGRES_PASSWORD}}@${{paradedb.RAILWAY_PRIVATE_DOMAIN}}:5432/postgres?sslmode=disable",
      COORDINATION_API_KEYS: preserve(),
      COORDINATION_API_KEY_IDENTITIES: preserve(),
    },
  });

  return project("agent-coordinator", { resources: [paradedb, coordinator] });
});
