#!/usr/bin/env bash
# Migrates the new, empty database of docker-compose.yml: the image of PostgreSQL runs this once, when
# there is no data yet. It leaves what `coordinator migrate` would leave: tables, functions and the record
# of both, so that the service finds its schema up to date.
set -euo pipefail

migrations=${MIGRATIONS:-/migrations}
functions=${FUNCTIONS:-/functions}

run() {
    psql --no-psqlrc --no-password --quiet --output /dev/null --set ON_ERROR_STOP=1 \
        --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" "$@"
}

# Everything but the time limits is one transaction: nobody waits for the locks of a new database.
installation() {
    echo 'create table _sqlx_migrations (
        version bigint primary key,
        description text not null,
        installed_on timestamptz not null default now(),
        success boolean not null,
        checksum bytea not null,
        execution_time bigint not null
    );'
    local file name description checksum
    for file in "$migrations"/[0-9]*_*.sql; do
        name=$(basename "$file" .sql)
        description=${name#*_}
        checksum=$(sha384sum "$file")
        # The time is in nanoseconds.
        printf '%s\n' '\set started `date +%s%N`' "\\i $file" \
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
            values (${name%%_*}, '${description//_/ }', true, decode('${checksum%% *}', 'hex'),
                extract(epoch from clock_timestamp()) * 1e9 - :started);"
        echo "Applied $name." >&2
    done
    # A function may call one that comes later, and `from current` takes this path.
    echo 'set local check_function_bodies = off;'
    echo "select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);"
    cat "$functions_text"
    checksum=$(sha256sum "$functions_text")
    echo "select finish_installation('${checksum%% *}');"
    echo "select secure_installation('{$(function_names)}', null);"
}

# The names of all functions, separated by commas.
function_names() {
    cat "$migrations"/*.sql "$functions_text" |
        sed -nE 's/^create (or replace )?function ([a-z0-9_]+)\(.*/\2/p' | sort -u | paste -sd ,
}

# In the order of the bytes of their paths: the digest of their text tells the service that they are
# the ones that it needs.
functions_text=$(mktemp)
trap 'rm -f "$functions_text"' EXIT
(cd "$functions" && find . -name '*.sql' | LC_ALL=C sort | xargs cat) >"$functions_text"

installation | run --single-transaction --file -

# The time limits that the service gives its role when it migrates.
run --command 'select set_time_limits(current_user)'
