#!/usr/bin/env bash
# Migrates the new, empty database of docker-compose.yml: the image of PostgreSQL runs this once,
# when there is no data yet. It leaves what `coordinator migrate` would leave, the record of what
# was applied included, so that the service finds its schema up to date.
set -euo pipefail

migrations=${MIGRATIONS:-/migrations}

run() {
    psql --no-psqlrc --no-password --quiet --output /dev/null --set ON_ERROR_STOP=1 \
        --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" "$@"
}

run --command 'create table _sqlx_migrations (
    version bigint primary key,
    description text not null,
    installed_on timestamptz not null default now(),
    success boolean not null,
    checksum bytea not null,
    execution_time bigint not null
)'

for file in "$migrations"/[0-9]*_*.sql; do
    name=$(basename "$file" .sql)
    description=${name#*_}
    checksum=$(sha384sum "$file")
    # One transaction for a migration and its record. The time is in nanoseconds.
    run --single-transaction --file "$file" --file - \
        --set record_version="${name%%_*}" --set record_checksum="${checksum%% *}" \
        --set record_description="${description//_/ }" <<'END'
insert into _sqlx_migrations (version, description, success, checksum, execution_time)
values (
    :'record_version', :'record_description', true, decode(:'record_checksum', 'hex'),
    extract(epoch from clock_timestamp() - now()) * 1e9
);
END
    echo "Applied $name."
done

# The time limits that the service gives its role when it migrates. It makes the months of the audit
# log then as well, but those that a migration has made are as new as the database.
run <<'END'
do $$
declare
    target text := format('alter role %I in database %I set ', current_user, current_database());
begin
    execute target || 'statement_timeout = ''10s''';
    execute target || 'lock_timeout = ''5s''';
    execute target || 'idle_in_transaction_session_timeout = ''30s''';
end
$$;
END
