-- Pending tasks that wait for other tasks, in queue order, for the explanation of a claim without a task.
create index work_task_blocked on work_task (workspace, priority, created_at, id)
where status = 'pending' and open_dependencies > 0;
