//! Compares another build of the service with this one. Invariant: both get the same requests, which both
//! accept, in turn and with the same number of clients.

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

/// The header `X-Agent-Id` names the agent, because early builds support only one. The checks use only what the
/// answers of all builds have in common.
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

/// The page that all builds answer as soon as they accept requests.
const READY: &str = "/live";

/// Measures this build without and with gathering, then the other build.
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
