//! What no HTTP library sends: odd bytes, lengths, forms of a request. Each gets its status, and no 5xx.
use futures_util::future::join;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::connect;
use crate::{
    processes::{Running, acquire},
    support::{FREE, PATIENCE, Service, variables},
};

/// The end of a head after which the server closes the connection.
const CLOSE: &str = "host: localhost\r\nconnection: close\r\n\r\n";

/// The statuses of all answers on a connection.
type Statuses = &'static [u16];

/// A row of a table: its name, what is sent, and the statuses of the answers.
type Row = (&'static str, Vec<u8>, Statuses);

/// The head of a request with these further lines, each with its line end.
fn head(start: &str, lines: &str) -> String {
    format!(
        "{start} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-api-key: {FREE}\r\n{lines}\r\n"
    )
}

fn post(lines: &str, body: &[u8]) -> Vec<u8> {
    let lines = format!("content-length: {}\r\n{lines}", body.len());
    [head("POST /locks/acquire", &lines).as_bytes(), body].concat()
}

/// A request with these lines in its head, which can say anything of the length of the text.
fn locking(lines: &str, text: &str) -> Vec<u8> {
    [head("POST /locks/acquire", lines), text.to_owned()].concat().into_bytes()
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn json_post(body: impl AsRef<[u8]>) -> Vec<u8> {
    post("content-type: application/json\r\n", body.as_ref())
}

fn chunked(body: &[u8]) -> Vec<u8> {
    [head("POST /locks/acquire", "transfer-encoding: chunked\r\n").as_bytes(), body].concat()
}

fn raw(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn get(path: &str) -> Vec<u8> {
    head(&format!("GET {path}"), "").into_bytes()
}

/// A valid request with these further members.
fn lock_with(more: &str) -> String {
    format!(r#"{{"file_path":"k","agent_id":"a","agent_type":"t"{more}}}"#)
}

/// A valid request in which lists are nested so that everything has this depth.
fn nested(depth: usize) -> String {
    lock_with(&format!(r#","x":{}{}"#, "[".repeat(depth - 1), "]".repeat(depth - 1)))
}

/// Everything that is answered until the server closes the connection. The client keeps its half open: closing it
/// would say that it has gone away.
async fn answers(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream: TcpStream = connect(port).await;
    let (mut read, mut write) = stream.split();
    let mut answered = Vec::new();
    // A refused body need not be read to its end, so sending it can fail.
    let both = join(write.write_all(bytes), read.read_to_end(&mut answered));
    let done = tokio::time::timeout(PATIENCE, both).await;
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    // A connection of which not everything was read ends with a reset after the answer.
    let _ = done.unwrap_or_else(|_| panic!("the server does not close: {shown}"));
    answered
}

/// The statuses of answers: the head of each begins with its version.
fn statuses(answered: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answered);
    let lines = text.split("HTTP/1.").skip(1);
    lines.map(|it| it.get(2..5).and_then(|it| it.parse().ok()).unwrap_or_default()).collect()
}

/// Sends each row to a server and compares. The server must live on, and log no failure of its own.
async fn check(rows: Vec<Row>) {
    let service = Service::start().await;
    let running = Running::start(variables(&service.url)).await;
    let mut deviations = Vec::new();
    for (name, bytes, expected) in rows {
        let answered = answers(running.port, &bytes).await;
        let found = statuses(&answered);
        if found != expected {
            let text = String::from_utf8_lossy(&answered[..answered.len().min(300)]).into_owned();
            deviations.push(format!("{name}: {found:?}, expected {expected:?}: {text}"));
        }
    }
    assert!(deviations.is_empty(), "{}", deviations.join("\n"));
    let (status, ..) = running.request("POST", "/locks/acquire", &acquire("a", "last")).await;
    assert_eq!(status, 200);
    running.signal("TERM");
    let (code, log) = running.end().await;
    assert_eq!(code, Some(0), "{log}");
    let lines = log.lines().filter_map(|it| serde_json::from_str::<Value>(it).ok());
    let errors: Vec<_> = lines.filter(|it| it["level"] == "ERROR").collect();
    assert_eq!(errors, Vec::<Value>::new(), "no failure and no panic");
}

#[tokio::test]
async fn odd_texts_and_numbers_in_a_body_are_answered_by_the_table() {
    let text = |text: &[u8]| {
        let parts = [br#"{"file_path":""#, text, br#"","agent_id":"a","agent_type":"t"}"#];
        json_post(parts.concat())
    };
    let ttl = |number: &str| json_post(lock_with(&format!(r#","ttl_minutes":{number}"#)));
    check(vec![
        ("an escaped NUL", text(br"a\u0000b"), &[422]),
        ("a NUL", text(b"a\0b"), &[422]),
        ("a line end", text(b"a\nb"), &[422]),
        ("an escaped line end", text(br"a\nb"), &[200]),
        ("a high surrogate alone", text(br"\ud83d"), &[422]),
        ("a low surrogate alone", text(br"\ude00"), &[422]),
        ("surrogates in the wrong order", text(br"\ude00\ud83d"), &[422]),
        ("a pair of surrogates", text(br"\ud83d\ude00"), &[200]),
        ("a noncharacter", text("\u{ffff}".as_bytes()), &[200]),
        ("a byte that is not UTF-8", text(b"\xff"), &[422]),
        ("an overlong form", text(b"\xc0\xaf"), &[422]),
        ("a surrogate in UTF-8", text(b"\xed\xa0\x80"), &[422]),
        ("a truncated character", text(b"\xe2\x82"), &[422]),
        (
            "a byte order mark",
            json_post([b"\xef\xbb\xbf", lock_with("").as_bytes()].concat()),
            &[422],
        ),
        ("UTF-16", json_post(b"\xff\xfe{\0}\0"), &[422]),
        ("1e400", ttl("1e400"), &[422]),
        ("-1e400", ttl("-1e400"), &[422]),
        ("1e308", ttl("1e308"), &[422]),
        ("1e-400", ttl("1e-400"), &[200]),
        ("2^63 - 1", ttl("9223372036854775807"), &[200]),
        ("2^63", ttl("9223372036854775808"), &[422]),
        ("-2^63", ttl("-9223372036854775808"), &[200]),
        ("-2^63 - 1", ttl("-9223372036854775809"), &[422]),
        ("2^64", ttl("18446744073709551616"), &[422]),
        ("-0", ttl("-0"), &[200]),
        ("-0.0", ttl("-0.0"), &[200]),
        ("a fraction", ttl("0.5"), &[422]),
        ("a leading zero", ttl("010"), &[422]),
        ("a plus sign", ttl("+1"), &[422]),
        ("hexadecimal", ttl("0x10"), &[422]),
        ("NaN", ttl("NaN"), &[422]),
        ("a number of 100,000 digits", ttl(&"9".repeat(100_000)), &[422]),
        ("-0 in an unknown member", json_post(lock_with(r#","x":-0"#)), &[200]),
        ("1e400 in an unknown member", json_post(lock_with(r#","x":1e400"#)), &[422]),
        ("depth 127", json_post(nested(127)), &[200]),
        ("depth 128", json_post(nested(128)), &[422]),
        ("depth 2,000", json_post(nested(2000)), &[422]),
        ("depth 100,000", json_post(nested(100_000)), &[422]),
        ("depth 100,000 without an end", json_post("[".repeat(100_000)), &[422]),
        ("objects 100,000 deep", json_post(r#"{"a":"#.repeat(100_000)), &[422]),
        ("10,000 members", json_post(lock_with(&members(10_000))), &[200]),
        ("a member 10,000 times", json_post(lock_with(&r#","x":1"#.repeat(10_000))), &[200]),
        ("two documents", json_post(format!("{0}{0}", lock_with(""))), &[422]),
        ("a comment", json_post(format!("/* */{}", lock_with(""))), &[422]),
    ])
    .await;
}

fn members(count: usize) -> String {
    (0..count).map(|n| format!(r#","m{n}":{n}"#)).collect()
}

#[tokio::test]
async fn odd_lengths_of_a_body_are_answered_by_the_table() {
    let lock = lock_with("");
    let length = lock.len();
    let padded = |bytes: usize| json_post(format!("{lock}{}", " ".repeat(bytes - lock.len())));
    let with_lines = |lines: &str| locking(lines, &lock);
    check(vec![
        ("1 MiB", padded(1 << 20), &[200]),
        ("1 MiB and a byte", padded((1 << 20) + 1), &[413]),
        (
            "1 MiB and a byte in chunks",
            chunked(format!("{}0\r\n\r\n", chunk(&" ".repeat((1 << 20) + 1))).as_bytes()),
            &[413],
        ),
        ("a declared length of 1 GiB", with_lines("content-length: 1073741824\r\n"), &[413]),
        ("no body", head("POST /locks/acquire", "").into_bytes(), &[422]),
        ("an empty body", json_post(""), &[422]),
        ("a body that goes on", with_lines(&format!("content-length: {}\r\n", length - 1)), &[422]),
        (
            "two equal lengths",
            with_lines(&format!("content-length: {length}\r\ncontent-length: {length}\r\n")),
            &[200],
        ),
        (
            "two lengths",
            with_lines(&format!("content-length: {length}\r\ncontent-length: 1\r\n")),
            &[400],
        ),
        ("a signed length", with_lines(&format!("content-length: +{length}\r\n")), &[400]),
        ("a negative length", with_lines("content-length: -1\r\n"), &[400]),
        ("a length of 2^64", with_lines("content-length: 18446744073709551616\r\n"), &[400]),
    ])
    .await;
}

#[tokio::test]
async fn odd_chunks_of_a_body_are_answered_by_the_table() {
    let lock = lock_with("");
    let length = lock.len();
    let (first, second) = lock.split_at(10);
    let smuggled = format!("{}0\r\n\r\n{}", chunk(&lock), String::from_utf8_lossy(&get("/locks")));
    check(vec![
        ("one chunk", chunked(format!("{}0\r\n\r\n", chunk(&lock)).as_bytes()), &[200]),
        (
            "two chunks",
            chunked(format!("{}{}0\r\n\r\n", chunk(first), chunk(second)).as_bytes()),
            &[200],
        ),
        (
            "a chunk with an extension",
            chunked(format!("{length:X};a=\"b\"\r\n{lock}\r\n0\r\n\r\n").as_bytes()),
            &[200],
        ),
        (
            "a trailer",
            chunked(format!("{}0\r\nx-api-key: other\r\n\r\n", chunk(&lock)).as_bytes()),
            &[200],
        ),
        (
            "a chunk without a length",
            chunked(format!("\r\n{lock}\r\n0\r\n\r\n").as_bytes()),
            &[422],
        ),
        (
            "a chunk of the wrong length",
            chunked(format!("1\r\n{lock}\r\n0\r\n\r\n").as_bytes()),
            &[422],
        ),
        ("a chunk of 2^64 bytes", chunked(b"10000000000000000\r\n{}"), &[422]),
        (
            "both a length and chunks",
            [
                head("POST /locks/acquire", "content-length: 5\r\ntransfer-encoding: chunked\r\n")
                    .as_bytes(),
                smuggled.as_bytes(),
            ]
            .concat(),
            &[200],
        ),
        ("an unknown transfer encoding", locking("transfer-encoding: gzip\r\n", &lock), &[400]),
    ])
    .await;
}

#[tokio::test]
async fn a_body_is_read_by_its_type_and_never_decompressed() {
    let lock = lock_with("");
    let length = lock.len();
    let of_type =
        |content_type: &str| post(&format!("content-type: {content_type}\r\n"), lock.as_bytes());
    let gzip =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00";
    check(vec![
        (
            "a gzipped body",
            post("content-encoding: gzip\r\ncontent-type: application/json\r\n", gzip),
            &[422],
        ),
        ("application/json", of_type("application/json"), &[200]),
        ("APPLICATION/JSON", of_type("APPLICATION/JSON;charset=utf-8"), &[200]),
        ("application/merge-patch+json", of_type("application/merge-patch+json"), &[200]),
        ("another character set", of_type("application/json; charset=utf-16"), &[200]),
        ("an empty type", of_type(""), &[200]),
        ("text/plain", of_type("text/plain"), &[422]),
        ("text/json", of_type("text/json"), &[422]),
        ("a form", of_type("application/x-www-form-urlencoded"), &[422]),
        ("several parts", of_type("multipart/form-data; boundary=x"), &[422]),
        ("bytes", of_type("application/octet-stream"), &[422]),
        ("no type at all", of_type("/"), &[422]),
        ("two types", of_type("text/plain, application/json"), &[422]),
        (
            "a type that is not UTF-8",
            [
                head("POST /locks/acquire", &format!("content-length: {length}\r\ncontent-type: "))
                    .trim_end()
                    .as_bytes(),
                b" \xff\r\n\r\n",
                lock.as_bytes(),
            ]
            .concat(),
            &[422],
        ),
    ])
    .await;
}

#[tokio::test]
async fn odd_forms_of_a_request_are_answered_by_the_table() {
    let close = CLOSE;
    let pipelined = "GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(499)
        + &format!("GET /live HTTP/1.1\r\n{close}");
    check(vec![
        (
            "the absolute form",
            raw(&format!("GET http://other.example/live HTTP/1.1\r\n{close}")),
            &[200],
        ),
        (
            "the absolute form of an unknown path",
            raw(&format!("GET http://other.example/ HTTP/1.1\r\n{close}")),
            &[404],
        ),
        ("CONNECT", raw(&format!("CONNECT other.example:443 HTTP/1.1\r\n{close}")), &[404]),
        ("an unknown method", raw(&format!("FROB /live HTTP/1.1\r\n{close}")), &[405]),
        ("TRACE", raw(&format!("TRACE /locks HTTP/1.1\r\n{close}")), &[405]),
        ("OPTIONS *", raw(&format!("OPTIONS * HTTP/1.1\r\n{close}")), &[200]),
        ("HTTP/1.0", raw("GET /live HTTP/1.0\r\n\r\n"), &[200]),
        (
            "HTTP/1.0 with keep-alive",
            raw("GET /live HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"),
            &[200],
        ),
        ("no Host", raw("GET /live HTTP/1.1\r\nconnection: close\r\n\r\n"), &[200]),
        ("HTTP/2.0", raw(&format!("GET /live HTTP/2.0\r\n{close}")), &[400]),
        ("the preface of HTTP/2", raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), &[]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400]),
        ("HTTP/0.9", raw("GET /live\r\n\r\n"), &[400]),
        ("no version", raw(&format!("GET /live\r\n{close}")), &[400]),
        ("two spaces", raw(&format!("GET  /live HTTP/1.1\r\n{close}")), &[400]),
        ("a space in the path", raw(&format!("GET /li ve HTTP/1.1\r\n{close}")), &[400]),
        ("a NUL in the path", raw(&format!("GET /li\0ve HTTP/1.1\r\n{close}")), &[400]),
        ("no slash", raw(&format!("GET live HTTP/1.1\r\n{close}")), &[404]),
        ("an empty path", raw(&format!("GET ? HTTP/1.1\r\n{close}")), &[400]),
        ("dots, which belong to a lock key", get("/locks/../live"), &[405]),
        ("two slashes", get("//live"), &[404]),
        ("an encoded route", get("/%6cive"), &[404]),
        ("a NUL in a lock key", get("/locks/status/a%00"), &[422]),
        ("a byte that is not UTF-8 in a lock key", get("/locks/status/a%ff"), &[422]),
        ("500 requests at once", pipelined.into_bytes(), &[200; 500]),
        ("an empty line before", raw(&format!("\r\nGET /live HTTP/1.1\r\n{close}")), &[200]),
        (
            "line feeds alone",
            raw(&format!("GET /live HTTP/1.1\n{}", close.replace('\r', ""))),
            &[200],
        ),
    ])
    .await;
}

#[tokio::test]
async fn odd_headers_are_answered_by_the_table() {
    let close = CLOSE;
    let request_id =
        |value: &str| head("GET /live", &format!("x-request-id: {value}\r\n")).into_bytes();
    check(vec![
        ("a folded header", raw(&format!("GET /live HTTP/1.1\r\nx-a: b\r\n c\r\n{close}")), &[400]),
        (
            "a space before the colon",
            raw(&format!("GET /live HTTP/1.1\r\nx-a : b\r\n{close}")),
            &[400],
        ),
        ("no name of a header", raw(&format!("GET /live HTTP/1.1\r\n: b\r\n{close}")), &[400]),
        ("no colon", raw(&format!("GET /live HTTP/1.1\r\nx-a\r\n{close}")), &[400]),
        ("a NUL in a header", raw(&format!("GET /live HTTP/1.1\r\nx-a: b\0c\r\n{close}")), &[400]),
        ("a carriage return in a request id", request_id("a\rset-cookie: b"), &[400]),
        ("an encoded line end in a request id", request_id("a%0d%0aset-cookie:%20b"), &[200]),
        ("a request id of 129 bytes", request_id(&"x".repeat(129)), &[200]),
        (
            "a key that is not UTF-8",
            raw("GET /locks HTTP/1.1\r\nconnection: close\r\nx-api-key: \u{e9}\u{ff}\r\n\r\n"),
            &[401],
        ),
        (
            "two keys",
            raw(&format!(
                "GET /locks HTTP/1.1\r\nx-api-key: wrong\r\nx-api-key: {FREE}\r\n{close}"
            )),
            &[401],
        ),
    ])
    .await;
}

#[tokio::test]
async fn odd_times_are_answered_by_the_table() {
    let since = |time: &str| get(&format!("/audit?since={time}"));
    check(vec![
        ("a time", since("2026-01-01T00:00:00Z"), &[200]),
        ("the year 1", since("0001-01-01T00:00:00Z"), &[200]),
        ("the year 9999", since("9999-12-31T23:59:59.999999Z"), &[200]),
        ("the year 10000", since("%2B10000-01-01T00:00:00Z"), &[400]),
        ("a negative year", since("-0001-01-01T00:00:00Z"), &[400]),
        ("30 February", since("2026-02-30T00:00:00Z"), &[400]),
        ("24 o'clock", since("2026-01-01T24:00:00Z"), &[400]),
        ("a time without an offset", since("2026-01-01T00:00:00"), &[422]),
        ("an offset of 25 hours", since("2026-01-01T00:00:00%2B25:00"), &[400]),
        ("a word", since("infinity"), &[400]),
        ("a number", since("1e400"), &[400]),
        ("a NUL as a time", since("%00"), &[422]),
    ])
    .await;
}

#[tokio::test]
async fn no_request_id_adds_a_header_to_the_answer() {
    let service = Service::start().await;
    let running = Running::start(variables(&service.url)).await;
    for id in [
        "a%0d%0aset-cookie: b",
        "a\tset-cookie: b",
        "a set-cookie: b",
        "\u{560a}\u{560d}set-cookie: b",
    ] {
        let request = head("GET /live", &format!("x-request-id: {id}\r\n"));
        let answered = answers(running.port, request.as_bytes()).await;
        let text = String::from_utf8_lossy(&answered).to_lowercase();
        assert!(
            text.starts_with("http/1.1 200 ") && !text.contains("set-cookie"),
            "{id:?}: {text}"
        );
    }
    let audited = json!({ "file_path": "k", "agent_id": "a", "agent_type": "t" }).to_string();
    let sent = post("content-type: application/json\r\nx-request-id: a b\r\n", audited.as_bytes());
    answers(running.port, &sent).await;
    let id = service.last_audit().await["request_id"].as_str().expect("an id").to_owned();
    assert!(uuid::Uuid::try_parse(&id).is_ok(), "{id}");
}
