// The project on Railway as code: ParadeDB with a volume, and the service beside it on the private
// network. `railway config plan` shows what would change, `railway config apply` does it; both need
// version 5.42.1 or newer of Railway's command-line program. A service that still reads railway.toml
// has to be taken over with `railway config migrate` first.
//
// Secrets are never here: `preserve()` keeps what the dashboard or `railway variable` has set.
import { defineRailway, github, image, preserve, project, service, volume } from "railway/iac";

export default defineRailway(() => {
  const paradedb = service("paradedb", {
    // The version of docker-compose.yml, which gives the reason.
    source: image("paradedb/paradedb:0.25.9-pg18"),
    // Images of PostgreSQL 18 keep their data in a folder of the version below this one.
    volumeMounts: { "/var/lib/postgresql": volume("paradedb") },
    deploy: { restartPolicyType: "ALWAYS" },
    env: {
      POSTGRES_USER: "postgres",
      POSTGRES_DB: "postgres",
      POSTGRES_PASSWORD: preserve(),
      // The platform's 64 MB are too few for parallel queries and for building an index.
      RAILWAY_SHM_SIZE_BYTES: "268435456",
    },
  });

  const coordinator = service("coordinator", {
    source: github("OWNER/agent-coordinator", { branch: "main" }),
    build: { builder: "DOCKERFILE", dockerfilePath: "Dockerfile" },
    deploy: {
      // Asked while a deployment starts and never after, with the host healthcheck.railway.app.
      healthcheckPath: "/health",
      healthcheckTimeout: 120,
      restartPolicyType: "ON_FAILURE",
      restartPolicyMaxRetries: 10,
      // Both are 0 by default. Draining is longer than SHUTDOWN_GRACE_SECONDS, which is 25.
      overlapSeconds: 5,
      drainingSeconds: 30,
    },
    env: {
      // A password of letters and digits needs no encoding. There is no TLS on the private network.
      POSTGRES_DSN:
        "postgresql://postgres:${{paradedb.POSTGRES_PASSWORD}}@${{paradedb.RAILWAY_PRIVATE_DOMAIN}}:5432/postgres?sslmode=disable",
      COORDINATION_API_KEYS: preserve(),
      COORDINATION_API_KEY_IDENTITIES: preserve(),
    },
  });

  return project("agent-coordinator", { resources: [paradedb, coordinator] });
});
