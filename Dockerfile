# The image of the service: one binary on a slim Debian, run by an unprivileged user. Requires POSTGRES_DSN and
# COORDINATION_API_KEYS, migrates the database at start-up and listens on $PORT, or on 8081.
# `scripts/check-image` builds, runs and measures the image.

# Pinned by digest, so that the same sources give the same image. The Rust version is that of
# rust-toolchain.toml, which `make hadolint` checks.
ARG RUST_IMAGE=rust:1.95.0-slim-trixie@sha256:e14e87345b4d5964ddcc3491d27ee046a0f23820f340c3c1e24da6880141f7c0
ARG RUNTIME_IMAGE=debian:trixie-20260918-slim@sha256:a99cfc517144bc59b1978475ec53b46ecabec7e43635402ee5b77cc54cd1b20a

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# Checks the queries against .sqlx, because there is no database during the build.
ENV SQLX_OFFLINE=true

# Builds the dependencies in a separate layer, with empty programs, so that the layer is rebuilt only when a
# manifest or the lock file changes. A cache mount would do that too, but Railway refuses one whose id does not
# contain the id of its service. Cargo requires every member of the workspace, with a target to compile.
COPY Cargo.toml Cargo.lock build.rs ./
COPY benches/Cargo.toml benches/
COPY coord/Cargo.toml coord/
COPY handler/Cargo.toml handler/
COPY handler/emulator/Cargo.toml handler/emulator/
COPY local/Cargo.toml local/
COPY local/postgres/Cargo.toml local/postgres/
COPY lock-key/Cargo.toml lock-key/
RUN mkdir -p migrations src benches/src coord/src handler/src handler/emulator/src local/src local/postgres/src/bin \
        lock-key/src \
    && touch src/lib.rs coord/src/lib.rs handler/emulator/src/lib.rs local/postgres/src/lib.rs lock-key/src/lib.rs \
    && for program in src/main.rs benches/src/main.rs coord/src/main.rs handler/src/main.rs local/src/main.rs \
        local/postgres/src/bin/with-postgres.rs; do echo 'fn main() {}' > "$program"; done \
    && cargo build --release --locked --package agent-coordinator --bin coordinator

COPY .sqlx .sqlx
COPY lock-key/src lock-key/src
COPY migrations migrations
COPY src src
# Cargo compares modification times, and the checked-out files can be older than the empty ones.
RUN touch lock-key/src/lib.rs src/lib.rs src/main.rs \
    && cargo build --release --locked --package agent-coordinator --bin coordinator

FROM ${RUNTIME_IMAGE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent \
    --shell /usr/sbin/nologin appuser
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /build/target/release/coordinator /usr/local/bin/
# By name. Kubernetes with `runAsNonRoot` requires a number: set `runAsUser: 10001` there.
# hadolint ignore=DL3066
USER appuser
ENV DB_BACKEND=postgres
EXPOSE 8081
# Without a shell, so that the service is process 1 and receives SIGTERM.
CMD ["coordinator"]
