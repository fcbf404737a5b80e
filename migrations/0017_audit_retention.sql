-- The days for which the audit log keeps a month at least: the retention that the owner's last migration
-- was configured with, in one row. `drop_audit_partitions` runs with the owner's rights for any role that
-- may execute it, so its argument cannot be the limit; only the owner can write this table.
create table audit_retention (
    days integer not null constraint audit_retention_days_range check (days between 1 and 3650)
);
insert into audit_retention (days) values (90);
