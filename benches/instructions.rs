//! Counts the instructions of hot paths without a database, with Valgrind's callgrind. `make costs` runs this
//! program. The load of the machine does not change the counts, and another machine hardly does.
//!
//! The program runs itself under Valgrind, with the argument `paths`, and compares the count of each path with
//! the table below.
use std::{
    collections::HashMap,
    env, fs,
    hint::black_box,
    process::{Command, ExitCode},
};

use agent_coordinator::{
    App, Config, Home, capabilities, capabilities::locks::acquire::Acquired, measured, router,
};
use axum::{Router, body::Body};
use http::{HeaderMap, HeaderValue, Request, header::AUTHORIZATION};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

/// The percentage by which a path may exceed the table. Less than half of the allowed count is a failure too, so
/// that the table follows improvements.
const TOLERANCE: f64 = 10.0;

/// The paths, each with the instructions of a call on x86-64 in a build with profile `measured`. The program prints
/// the counts to put here.
const LIMITS: [(&str, Path, u64); 10] = [
    ("authenticate_1_of_20_keys", authenticate_1_of_20_keys, 11_536),
    ("check_the_body_of_an_acquire", check_the_body_of_an_acquire, 46_860),
    ("check_the_body_of_a_submit", check_the_body_of_a_submit, 37_993),
    ("decide_by_native_policy", decide_by_native_policy, 931),
    ("scan_4_kb_of_harmless_text", scan_4_kb_of_harmless_text, 382_387),
    ("scan_4_kb_with_a_finding", scan_4_kb_with_a_finding, 386_677),
    ("write_the_answer_of_an_acquire", write_the_answer_of_an_acquire, 7_278),
    ("request_without_a_key", request_without_a_key, 60_790),
    ("request_with_a_faulty_body", request_with_a_faulty_body, 123_861),
    ("request_of_the_page_live", request_of_the_page_live, 54_865),
];

type Path = fn(&World);

/// The number of calls that fill caches, and of those that are counted.
const WARM_UP: usize = 3;
const CALLS: usize = 20;

fn main() -> ExitCode {
    // Cargo passes `--bench` as the first argument.
    let is_under_valgrind = env::args().nth(1).is_some_and(|it| it == "paths");
    if is_under_valgrind {
        let world = World::new();
        for (_, path, _) in LIMITS {
            (0..WARM_UP).for_each(|_| path(&world));
            call_measured(path, &world);
        }
        return ExitCode::SUCCESS;
    }
    match count() {
        Ok(counts) => compare(&counts),
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Calls a path repeatedly. Only the calls from this function are counted.
#[inline(never)]
fn call_measured(path: Path, world: &World) {
    for _ in 0..CALLS {
        path(world);
    }
}

/// Counts the instructions of a call of each path.
fn count() -> Result<Vec<u64>, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let profile = concat!(env!("CARGO_TARGET_TMPDIR"), "/instructions.callgrind");
    let status = Command::new("valgrind")
        .args(["-q", "--tool=callgrind", &format!("--callgrind-out-file={profile}")])
        .arg(program)
        .arg("paths")
        .status()
        .map_err(|error| format!("valgrind could not be started ({error}); install it"))?;
    if !status.success() {
        return Err(format!("valgrind ended with {status}"));
    }
    let profile = fs::read_to_string(profile).map_err(|error| error.to_string())?;
    let taken = instructions_by_callee(&profile);
    let of = |name: &str| {
        let named = taken.iter().find(|(callee, _)| callee.ends_with(&format!("::{name}")));
        let (_, taken) = named.ok_or(format!("{name} is not in callgrind's profile"))?;
        Ok(taken / CALLS as u64)
    };
    LIMITS.iter().map(|(name, _, _)| of(name)).collect()
}

/// Returns the total instructions of each function that `call_measured` called. In callgrind's format, lines `fn=`
/// and `cfn=` name the caller and the callee, and give each name a number at its first mention. The line after
/// `calls=` has the position of the calls and their cost.
fn instructions_by_callee(profile: &str) -> HashMap<&str, u64> {
    let mut names = HashMap::new();
    let mut taken = HashMap::new();
    let (mut caller, mut callee) = ("", "");
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        if let Some(function) = line.strip_prefix("fn=") {
            caller = name(function, &mut names);
        } else if let Some(function) = line.strip_prefix("cfn=") {
            callee = name(function, &mut names);
        } else if line.starts_with("calls=") {
            let cost = lines.next().and_then(|it| it.split(' ').nth(1)?.parse().ok());
            if caller.ends_with("::call_measured") {
                *taken.entry(callee).or_default() += cost.unwrap_or(0);
            }
        }
    }
    taken
}

/// Returns the name in `(number) name`, or the name that the number was given before.
fn name<'a>(function: &'a str, names: &mut HashMap<&'a str, &'a str>) -> &'a str {
    match function.split_once(' ') {
        Some((number, name)) => {
            names.insert(number, name);
            name
        }
        None => names.get(function).copied().unwrap_or_default(),
    }
}

fn compare(counts: &[u64]) -> ExitCode {
    let mut exit = ExitCode::SUCCESS;
    println!("{:<34}{:>12}{:>12}", "instructions of a call", "counted", "table");
    for ((name, _, limit), count) in LIMITS.iter().zip(counts) {
        let most = *limit as f64 * (1.0 + TOLERANCE / 100.0);
        let problem = match *count as f64 {
            _ if !cfg!(target_arch = "x86_64") => "",
            count if count > most => "  too many",
            count if count < most / 2.0 => "  lower the limit",
            _ => "",
        };
        if !problem.is_empty() {
            exit = ExitCode::FAILURE;
        }
        println!("{name:<34}{count:>12}{limit:>12}{problem}");
    }
    exit
}

/// The inputs of the paths.
struct World {
    authenticate: Box<dyn Fn(&HeaderMap) -> bool>,
    headers: HeaderMap,
    acquire: Input,
    submit: Input,
    decide: Box<dyn Fn(&str) -> bool>,
    scan: Box<dyn Fn(&str) -> usize>,
    harmless: String,
    dangerous: String,
    acquired: Acquired,
    runtime: Runtime,
    router: Router,
}

/// A request body with its schema.
struct Input {
    schema: Value,
    text: String,
}

impl World {
    fn new() -> Self {
        let bearer = HeaderValue::from_static("Bearer key-7");
        // Lines that resemble what the patterns search for, without a match.
        let harmless: String =
            "git push origin main && rm -r ./target; find . -name x\n".repeat(76);
        let harmless = harmless[..4096].to_owned();
        let dangerous = format!("{}git reset --hard", &harmless[..4080]);
        let time = || serde_json::from_value(json!("2026-09-01T10:00:00.123456+00:00")).ok();
        let variables = [
            ("POSTGRES_DSN", "postgresql://nobody@127.0.0.1:1/none"),
            ("COORDINATION_API_KEYS", "key-7"),
        ];
        let variable = |name: &str| {
            let found = variables.iter().find(|(it, _)| *it == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let config = Config::parse(Home::Server, variable).expect("a valid configuration");
        Self {
            authenticate: Box::new(measured::authentication(20)),
            headers: HeaderMap::from_iter([(AUTHORIZATION, bearer)]),
            acquire: Input::of("acquire_lock"),
            submit: Input::of("submit_work"),
            decide: Box::new(measured::decision()),
            scan: Box::new(measured::scan()),
            harmless,
            dangerous,
            acquired: Acquired {
                success: true,
                action: Some("acquired"),
                file_path: Some("src/main.rs".to_owned()),
                expires_at: time(),
                fencing_token: Some(1),
                agent_type: Some("claude_code".to_owned()),
                locked_at: time(),
                session_id: Some("s-1".to_owned()),
                ..Acquired::default()
            },
            runtime: Builder::new_current_thread().enable_all().build().expect("a runtime"),
            router: router(App::new(config)),
        }
    }

    /// Sends a request to the router, and checks the status.
    fn ask(&self, request: Request<Body>, status: u16) {
        let response = self.runtime.block_on(self.router.clone().oneshot(request));
        let response = response.expect("the router answers");
        assert_eq!(response.status().as_u16(), status);
        black_box(response);
    }
}

impl Input {
    /// Returns the example of an operation.
    fn of(operation: &str) -> Self {
        let operations = capabilities::all();
        let found = operations.iter().find(|it| it.meta.id == operation).expect("an operation");
        Self { schema: found.input.clone(), text: found.example.to_string() }
    }

    fn check(&self) {
        assert_eq!(measured::input_check(&self.schema, black_box(self.text.as_bytes())), 0);
    }
}

#[inline(never)]
fn authenticate_1_of_20_keys(world: &World) {
    assert!((world.authenticate)(black_box(&world.headers)));
}

#[inline(never)]
fn check_the_body_of_an_acquire(world: &World) {
    world.acquire.check();
}

#[inline(never)]
fn check_the_body_of_a_submit(world: &World) {
    world.submit.check();
}

#[inline(never)]
fn decide_by_native_policy(world: &World) {
    assert!((world.decide)(black_box("acquire_lock")));
}

#[inline(never)]
fn scan_4_kb_of_harmless_text(world: &World) {
    assert_eq!((world.scan)(black_box(&world.harmless)), 0);
}

#[inline(never)]
fn scan_4_kb_with_a_finding(world: &World) {
    assert_eq!((world.scan)(black_box(&world.dangerous)), 1);
}

#[inline(never)]
fn write_the_answer_of_an_acquire(world: &World) {
    black_box(serde_json::to_string(black_box(&world.acquired)).expect("JSON"));
}

#[inline(never)]
fn request_without_a_key(world: &World) {
    world.ask(post("{}", None), 401);
}

#[inline(never)]
fn request_with_a_faulty_body(world: &World) {
    world.ask(post(r#"{"file_path":"src/main.rs","agent_id":"a"}"#, Some("key-7")), 422);
}

#[inline(never)]
fn request_of_the_page_live(world: &World) {
    world.ask(Request::get("/live").body(Body::empty()).expect("a request"), 200);
}

fn post(body: &'static str, key: Option<&str>) -> Request<Body> {
    let mut request = Request::post("/locks/acquire").header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    request.body(Body::from(body)).expect("a request")
}
