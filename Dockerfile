# The service as an image: one binary on a slim Debian, without root. It needs POSTGRES_DSN and
# COORDINATION_API_KEYS, migrates the database at start and listens on $PORT, or on 8081.
# `scripts/check-image` builds it, runs it and measures it.

# Pinned by digest: the same sources give the same image until somebody changes these lines. The
# version of Rust is that of rust-toolchain.toml.
ARG RUST_IMAGE=rust:1.95.0-slim-trixie@sha256:e14e87345b4d5964ddcc3491d27ee046a0f23820f340c3c1e24da6880141f7c0
ARG RUNTIME_IMAGE=debian:trixie-20260918-slim@sha256:a99cfc517144bc59b1978475ec53b46ecabec7e43635402ee5b77cc54cd1b20a

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# The queries are checked against .sqlx: no database is at hand here.
ENV SQLX_OFFLINE=true

# The dependencies are a layer of their own, built for empty programs: it is built anew only when a
# manifest or the lock file changes. A cache mount would do it too, but some platforms refuse one
# that does not carry the number of their service. Cargo wants every member of the workspace to be
# there, with something to compile.
COPY Cargo.toml Cargo.lock build.rs ./
COPY benches/Cargo.toml benches/
COPY coord/Cargo.toml coord/
COPY handler/Cargo.toml handler/
COPY handler/emulator/Cargo.toml handler/emulator/
COPY local/Cargo.toml local/
COPY local/postgres/Cargo.toml local/postgres/
RUN mkdir -p migrations src benches/src coord/src handler/src handler/emulator/src local/src local/postgres/src/bin \
    && touch src/lib.rs coord/src/lib.rs handler/emulator/src/lib.rs local/postgres/src/lib.rs \
    && for program in src/main.rs benches/src/main.rs coord/src/main.rs handler/src/main.rs local/src/main.rs \
        local/postgres/src/bin/with-postgres.rs; do echo 'fn main() {}' > "$program"; done \
    && cargo build --release --locked --package agent-coordinator --bin coordinator

COPY .sqlx .sqlx
COPY migrations migrations
COPY src src
# Cargo goes by times, and a checkout may be older than the empty files that it replaces.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --package agent-coordinator --bin coordinator

FROM ${RUNTIME_IMAGE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent \
    --shell /usr/sbin/nologin appuser
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /build/target/release/coordinator /usr/local/bin/
# By name; whoever needs the number, as Kubernetes does for runAsNonRoot, sets 10001.
# hadolint ignore=DL3066
USER appuser
ENV DB_BACKEND=postgres
EXPOSE 8081
# Not through a shell: the process is number 1 and gets SIGTERM itself.
CMD ["coordinator"]
