//! The URL of the service, the key and the identity, from flags and the environment.
use std::{
    io::{self, Read as _, Write as _},
    net::TcpListener,
    thread,
};

use serde_json::json;

use crate::support::{Coord, FREE, Folder, HEALTHY, LIMIT, Reply, Server, Service, nowhere};

const VARIABLES: [&str; 4] = [
    "COORDINATION_API_URL",
    "COORDINATOR_HTTP_URL",
    "AGENT_COORDINATOR_API_URL",
    "AGENT_COORDINATOR_HTTP_URL",
];

fn ok() -> Server {
    Server::start(|_, _| Reply::Json(200, HEALTHY.to_owned()))
}

#[test]
fn the_first_url_that_is_set_is_used() {
    let servers: Vec<_> = VARIABLES.iter().map(|_| ok()).collect();
    for start in 0..VARIABLES.len() {
        let mut coord = Coord::new();
        for (name, server) in VARIABLES.iter().zip(&servers).skip(start) {
            coord = coord.with(name, &format!("{}/", server.url));
        }
        coord.run(&["health"]).assert_code(0);
        let asked: Vec<_> = servers.iter().map(|it| it.requests().len()).collect();
        assert_eq!(asked[start], 1, "{asked:?}");
    }
    let explicit = ok();
    let coord = Coord::at(&servers[0].url);
    coord.run(&["health", "--url", &explicit.url]).assert_code(0);
    assert_eq!(explicit.requests().len(), 1);
    assert_eq!(explicit.requests()[0].path, "/health");
    let port = explicit.url.rsplit(':').next().expect("a port").to_owned();
    let coord = Coord::new().with("AGENT_COORDINATOR_REST_PORT", &port);
    coord.run(&["health"]).assert_code(0);
    assert_eq!(explicit.requests().len(), 2);
}

#[test]
fn a_url_that_is_not_allowed_gets_no_request() {
    let server = ok();
    let port = server.url.rsplit(':').next().expect("a port").to_owned();
    for url in [
        format!("http://user:password@127.0.0.1:{port}"),
        format!("http://example.org:{port}"),
        format!("http://0.0.0.0:{port}"),
        format!("ftp://127.0.0.1:{port}"),
        "nonsense".to_owned(),
        "http://127.0.0.1:99999".to_owned(),
        "http://localhost:".to_owned(),
        format!("http://[localhost]:{port}"),
    ] {
        let good = Coord::new().with("COORDINATOR_HTTP_URL", &server.url);
        for (name, done) in [
            ("--url", good.run(&["health", "--url", &url])),
            (VARIABLES[0], good.clone().with(VARIABLES[0], &url).run(&["health"])),
        ] {
            done.assert_code(2).assert_says(name);
            assert!(!done.err.contains("password"), "{done:?}");
        }
        let coord = good.with(VARIABLES[0], &url);
        let done = coord.run(&["detect"]);
        assert_eq!(done.assert_code(1).json()["reason"], "missing_http_url");
        assert_eq!(done.json()["http_url"], json!(null));
        let done = coord.run(&["try", "recall"]);
        let skipped = json!({ "status": "skipped", "reason": "coordinator_unavailable" });
        assert_eq!(done.assert_code(0).json(), skipped);
    }
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_host_is_allowed_by_name_or_by_wildcard() {
    // These names end in domains that are reserved for examples, so no request leaves the machine.
    for (list, url, is_allowed) in [
        ("a.invalid", "http://a.invalid", true),
        ("b.invalid, A.Invalid", "http://a.INVALID", true),
        ("*.invalid", "http://a.b.invalid", true),
        ("*.a.invalid", "http://a.invalid", false),
        ("a.invalid", "http://b.a.invalid", false),
        ("", "http://a.invalid", false),
    ] {
        let done = Coord::at(url).with("COORDINATION_ALLOWED_HOSTS", list).run(&["health"]);
        done.assert_code(if is_allowed { 4 } else { 2 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_comes_from_the_environment_or_a_file() {
    let service = Service::start().await;
    let folder = Folder::new();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    std::fs::write(&good, format!("{FREE}\n")).expect("a file");
    std::fs::write(&bad, "wrong").expect("a file");
    let with_file = |coord: &Coord, file: &std::path::Path| {
        let file = file.display().to_string();
        coord.run(&["--key-file", &file, "locks"]).code
    };
    let coord = Coord::at(&service.url);
    assert_eq!((with_file(&coord, &good), with_file(&coord, &bad)), (0, 3));
    let second = coord.clone().with("COORDINATOR_API_KEY", FREE);
    assert_eq!(with_file(&second, &bad), 0);
    let first = second.with("COORDINATION_API_KEY", "wrong");
    assert_eq!(with_file(&first, &good), 3);
    let done = coord.run(&["locks", "--key-file", "/no/such/file"]);
    done.assert_code(2).assert_says("--key-file /no/such/file");
    let done = coord.clone().with("COORDINATION_API_KEY", "s3c\nret").run(&["locks"]);
    done.assert_code(2).assert_says("COORDINATION_API_KEY");
    assert!(!done.err.contains("s3c"), "{done:?}");
    // A key is never an argument.
    coord.run(&["locks", "--key", FREE]).assert_code(2);
}

#[test]
fn an_invalid_setting_is_named() {
    let coord = Coord::at(&nowhere());
    for (name, value) in [
        ("COORDINATION_HTTP_TIMEOUT", "soon"),
        ("AGENT_ID", "a\u{1}"),
        ("COORDINATION_WORKSPACE", "a\u{1}"),
    ] {
        coord.clone().with(name, value).run(&["locks"]).assert_code(2).assert_says(name);
    }
    coord.run(&["locks", "--timeout", "0"]).assert_code(2).assert_says("--timeout");
    let done = Coord::new().with("AGENT_COORDINATOR_REST_PORT", "0").run(&["locks"]);
    done.assert_code(2).assert_says("AGENT_COORDINATOR_REST_PORT");
    // These two report an invalid URL in their JSON.
    let coord = Coord::new().with("AGENT_COORDINATOR_REST_PORT", "99999");
    assert_eq!(coord.run(&["detect"]).assert_code(1).json()["reason"], "missing_http_url");
    let skipped = json!({ "status": "skipped", "reason": "coordinator_unavailable" });
    assert_eq!(coord.run(&["try", "recall"]).assert_code(0).json(), skipped);
}

/// No resolver is asked for a label of 64 letters, so the answer does not depend on the network.
#[test]
fn a_host_name_that_is_not_resolved_and_a_proxy_that_refuses_are_named() {
    let host = format!("{}.invalid", "a".repeat(64));
    let coord = Coord::at(&format!("http://{host}")).with("COORDINATION_ALLOWED_HOSTS", &host);
    let done = coord.run(&["locks"]);
    done.assert_code(4).assert_says(&format!("the host name {host} could not be resolved"));
    done.assert_says("is this a sandbox without network?");
    let proxy = nowhere();
    let address = proxy.trim_start_matches("http://");
    for name in ["HTTP_PROXY", "https_proxy", "ALL_PROXY"] {
        let done = coord.clone().with(name, &proxy).run(&["locks"]);
        done.assert_code(4).assert_says(&format!("by the proxy {address}, which ALL_PROXY"));
        done.assert_says("Is this a sandbox without network?").assert_says("NO_PROXY");
    }
    let direct = coord.with("HTTP_PROXY", &proxy).with("NO_PROXY", &host);
    direct.run(&["locks"]).assert_code(4).assert_says("could not be resolved");
}

/// A group of receivers has no route for a stream, so `connect` fails as in a network namespace of its own,
/// whatever user runs the test.
#[test]
fn a_network_that_cannot_be_reached_is_named_as_a_sandbox() {
    let group = Coord::at("http://224.0.0.1:8081").with("COORDINATION_ALLOWED_HOSTS", "224.0.0.1");
    for command in [&["lock", "a"][..], &["locks"], &["session", "start"]] {
        let done = group.run(command);
        done.assert_code(4).assert_says("Network is unreachable");
        done.assert_says("no access to the network, as in a sandbox: allow it there, or run");
    }
}

/// Serves one request as a SOCKS proxy that answers in the place of the service. Returns the host
/// that it was asked for.
fn serve_as_socks_proxy(listener: &TcpListener) -> io::Result<String> {
    let (client, _) = listener.accept()?;
    client.set_read_timeout(Some(LIMIT))?;
    let read = |length: usize| {
        let mut bytes = vec![0; length];
        (&client).read_exact(&mut bytes).map(|()| bytes)
    };
    // The greeting with its methods, then a request to connect to a host name.
    let methods = read(2)?[1];
    read(methods.into())?;
    (&client).write_all(&[5, 0])?;
    let length = read(5)?[4];
    let host = read(length.into())?;
    read(2)?;
    (&client).write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.extend(read(1)?);
    }
    let body = r#"{"locks":[]}"#;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    (&client).write_all(format!("{head}{body}").as_bytes())?;
    Ok(String::from_utf8_lossy(&host).into_owned())
}

/// Sandboxes name a SOCKS proxy in `ALL_PROXY`, which resolves names.
#[test]
fn a_socks_proxy_is_used() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let proxy = format!("socks5h://{}", listener.local_addr().expect("an address"));
    let serving = thread::spawn(move || serve_as_socks_proxy(&listener));
    let done = Coord::at("http://coord.invalid")
        .with("COORDINATION_ALLOWED_HOSTS", "coord.invalid")
        .with("ALL_PROXY", &proxy)
        .run(&["locks"]);
    done.assert_code(0).assert_says("None.");
    assert_eq!(serving.join().expect("it ends").expect("a request"), "coord.invalid");
}

#[test]
fn redirects_are_not_followed() {
    let target = ok();
    let location = target.url.clone();
    let server = Server::start(move |_, _| {
        Reply::Raw(format!("HTTP/1.1 307 X\r\nlocation: {location}/\r\ncontent-length: 0\r\n\r\n"))
    });
    let coord = Coord::at(&server.url).with("COORDINATION_API_KEY", "key");
    for command in [&["locks"][..], &["lock", "a"], &["unlock", "a", "--force"]] {
        coord.run(command).assert_code(2).assert_says("redirect");
    }
    assert_eq!(target.requests().len(), 0);
}

#[test]
fn every_request_names_the_caller() {
    let server = ok();
    let coord = Coord::at(&server.url).with("COORDINATION_API_KEY", "key");
    coord.run(&["locks", "--workspace", "team", "--prefix", "a b&c/ä"]);
    coord.run(&["unlock", "a b/ä?#%", "--force"]);
    coord.run(&["lock", "a"]);
    coord.run(&["lock", "a"]);
    let requests = server.requests();
    let header =
        |it: usize, name: &str| requests[it].headers.get(name).cloned().unwrap_or_default();
    assert_eq!(requests[0].path, "/locks?prefix=a%20b%26c%2F%C3%A4");
    assert_eq!((header(0, "x-api-key"), header(0, "x-workspace")), ("key".into(), "team".into()));
    assert!(header(0, "user-agent").starts_with("coord/"));
    assert_eq!(header(0, "idempotency-key"), "");
    assert_eq!(
        (&*requests[1].method, &*requests[1].path),
        ("DELETE", "/locks/a%20b/%C3%A4%3F%23%25")
    );
    let keys: Vec<_> = (1..4).map(|it| header(it, "idempotency-key")).collect();
    assert!(keys.iter().all(|it| it.len() == 36) && keys[1] != keys[2], "{keys:?}");
    assert_eq!(header(2, "content-type"), "application/json");
}
