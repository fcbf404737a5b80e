//! Another build of the service beside ours. The invariant: both are sent the same requests, which both
//! understand, in turn and with the same number of clients.

use crate::{
    Result,
    arguments::Compared,
    cluster::BASE,
    measure::{Bench, DATABASE},
    operations::Request,
    results::{Comparison, Results},
    service::Service,
};

const CLIENTS: usize = 16;

/// The agent is named by a header, because early builds know one agent only. Of the answers only what all
/// builds have in common is checked.
const REQUESTS: [Request; 2] = [
    Request {
        method: "POST",
        path: "/locks/acquire",
        body: r#"{"file_path":"src/bench/{key}.rs","agent_id":"","agent_type":""}"#,
        expected: r#""file_path":"src/bench/"#,
    },
    Request {
        method: "POST",
        path: "/locks/release",
        body: r#"{"file_path":"src/bench/{key}.rs","agent_id":"","agent_type":""}"#,
        expected: r#""released""#,
    },
];

/// What all builds answer as soon as they take requests.
const READY: &str = "/live";

/// Measures ours without and with gathering, then theirs.
pub(crate) async fn repetition(
    bench: &Bench<'_>,
    other: &Compared,
    results: &mut Results,
) -> Result<()> {
    let dsn = bench.cluster.url(DATABASE);
    let ours = &bench.arguments.coordinator;
    let mut measured = Vec::new();
    for (program, template, gathers) in
        [(ours, BASE, false), (ours, BASE, true), (&other.program, "template1", false)]
    {
        bench.cluster.create(DATABASE, template, "").await?;
        let service = Service::start(program, &dsn, gathers, READY).await?;
        measured.push(bench.load(&service, &REQUESTS, CLIENTS).await?);
    }
    let comparison = results.comparison.get_or_insert_with(|| Comparison {
        name: other.name.clone(),
        ours: Vec::new(),
        gathered: Vec::new(),
        theirs: Vec::new(),
    });
    comparison.theirs.extend(measured.pop());
    comparison.gathered.extend(measured.pop());
    comparison.ours.extend(measured.pop());
    Ok(())
}
