//! Lost connections, time-outs and answers that are not those of the service.
use std::time::{Duration, Instant};

use crate::support::{Coord, Reply, Server};

const HELD: &str = r#"{"success":true,"file_path":"a","fencing_token":1,"expires_at":null}"#;

/// A server that answers its first requests with these replies, and later ones with a lock.
fn server_with(replies: Vec<Reply>) -> Server {
    Server::start(move |_, number| {
        replies.get(number).cloned().unwrap_or_else(|| Reply::Json(200, HELD.to_owned()))
    })
}

fn unavailable() -> Reply {
    Reply::Json(503, r#"{"detail":"Service temporarily unavailable","request_id":"r"}"#.to_owned())
}

fn refused() -> Reply {
    let refusal = r#"{"success":false,"reason":"locked_by_other","locked_by":"b"}"#;
    Reply::Json(200, refusal.to_owned())
}

fn truncated() -> Reply {
    Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned())
}

#[test]
fn a_write_is_sent_again_with_the_same_idempotency_key() {
    for reply in [Reply::Hang, unavailable()] {
        let server = server_with(vec![reply.clone()]);
        Coord::at(&server.url).run(&["lock", "a"]).assert_code(0);
        let keys: Vec<_> =
            server.requests().iter().map(|it| it.headers["idempotency-key"].clone()).collect();
        assert_eq!(keys.len(), 2, "{reply:?}");
        assert_eq!(keys[0], keys[1], "{reply:?}");
    }
}

#[test]
fn a_write_is_sent_at_most_twice() {
    for reply in [Reply::Hang, unavailable()] {
        let server = server_with(vec![reply.clone(); 5]);
        Coord::at(&server.url).run(&["lock", "a"]).assert_code(4);
        assert_eq!(server.requests().len(), 2, "{reply:?}");
    }
}

#[test]
fn a_write_is_sent_again_after_retry_after_or_not_at_all() {
    for (command, seconds, count) in [
        (&["lock", "a"][..], 1, 2),
        (&["lock", "a"], 60, 1),
        (&["lock", "a", "--timeout", "9"], 9, 1),
        (&["session", "start", "--hook", "--session-id", "s", "--timeout", "60"], 0, 2),
        (&["session", "start", "--hook", "--session-id", "s", "--timeout", "60"], 60, 1),
    ] {
        let body = r#"{"detail":"later"}"#;
        let reply = Reply::Raw(format!(
            "HTTP/1.1 503 X\r\nretry-after: {seconds}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        let server = Server::start(move |_, _| reply.clone());
        let started = Instant::now();
        let done = Coord::at(&server.url).run(command);
        done.assert_says("503");
        assert_eq!(server.requests().len(), count, "{command:?}, {seconds}");
        assert!(count == 1 || started.elapsed() >= Duration::from_secs(seconds), "{command:?}");
    }
}

#[test]
fn a_write_is_not_sent_again_after_another_failure() {
    let other = |status| Reply::Json(status, r#"{"detail":"x"}"#.to_owned());
    for (reply, code) in [(other(500), 4), (other(502), 4), (other(422), 2), (other(403), 3)] {
        let server = server_with(vec![reply]);
        Coord::at(&server.url).run(&["lock", "a"]).assert_code(code);
        assert_eq!(server.requests().len(), 1);
    }
    let server = server_with(vec![Reply::Silence]);
    let done = Coord::at(&server.url).run(&["lock", "a", "--timeout", "0.2"]);
    done.assert_code(4).assert_says("did not answer within 0.2 s");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_read_is_never_sent_again() {
    for reply in [Reply::Hang, unavailable(), truncated()] {
        let server = server_with(vec![reply.clone()]);
        for command in [&["whoami"][..], &["verify", "a=1"], &["recall"]] {
            let before = server.requests().len();
            Coord::at(&server.url).run(command);
            assert_eq!(server.requests().len(), before + 1, "{command:?}, {reply:?}");
        }
    }
}

#[test]
fn an_answer_of_another_server_is_exit_code_4() {
    for reply in [
        Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>".to_owned()),
        Reply::Raw("SSH-2.0-x\r\n\r\n".to_owned()),
        Reply::Json(429, "{}".to_owned()),
        Reply::Json(408, "{}".to_owned()),
        truncated(),
    ] {
        let server = server_with(vec![reply.clone(), reply.clone()]);
        let done = Coord::at(&server.url).run(&["locks"]);
        assert_eq!(done.code, 4, "{reply:?}: {done:?}");
        assert!(!done.err.is_empty(), "{done:?}");
    }
}

#[test]
fn an_unexpected_body_does_not_count_as_a_lock() {
    for body in ["{}", "[1,2]", "null", "5", r#"{"success":"yes"}"#, r#"{"status":"ok"}"#] {
        let server = Server::start(move |_, _| Reply::Json(200, body.to_owned()));
        for command in [&["lock", "a"][..], &["unlock", "a"], &["claim"], &["renew", "a"]] {
            for more in [&[][..], &["--json"]] {
                let done = Coord::at(&server.url).run(&[command, more].concat());
                assert_eq!(done.code, 4, "{command:?}, {body}: {done:?}");
                done.assert_says("not an answer of the service");
            }
        }
    }
    let server = Server::start(|_, _| Reply::Json(200, "{}".to_owned()));
    for command in [&["session", "start"][..], &["health"], &["tasks"], &["agents"]] {
        Coord::at(&server.url).run(command).assert_code(4);
    }
    for body in ["[1,2]", "null", "5"] {
        let server = Server::start(move |_, _| Reply::Json(200, body.to_owned()));
        Coord::at(&server.url).run(&["whoami"]).assert_code(4);
    }
}

#[test]
fn a_missing_route_is_reported() {
    let missing = "HTTP/1.1 404 X\r\ncontent-length: 10\r\n\r\n<html>\nno\n";
    let server = Server::start(|_, _| Reply::Raw(missing.to_owned()));
    for command in [&["locks"][..], &["lock", "a"], &["locks", "a", "b"], &["renew", "a"]] {
        for more in [&[][..], &["--json"]] {
            let done = Coord::at(&server.url).run(&[command, more].concat());
            done.assert_code(1).assert_says("has no such route (404)");
            assert!(!done.out.contains("<html>"), "{done:?}");
        }
    }
}

#[test]
fn the_wait_is_added_to_the_time_out() {
    let server = server_with(vec![refused(), Reply::Silence]);
    let done = Coord::at(&server.url).run(&["lock", "a", "--timeout", "0.1", "--wait", "1"]);
    done.assert_code(4).assert_says("within 1.1 s");
}

#[test]
fn a_wait_that_the_service_shortens_is_continued() {
    let server = server_with(vec![refused(), refused()]);
    Coord::at(&server.url).run(&["lock", "a", "--wait", "60"]).assert_code(0);
    // The first request does not wait: its answer says whether the caller would wait for itself.
    let waits: Vec<i64> = server
        .requests()
        .iter()
        .skip(1)
        .map(|it| {
            let body: serde_json::Value = serde_json::from_str(&it.body).expect("JSON");
            body["wait_seconds"].as_i64().expect("a number")
        })
        .collect();
    assert_eq!(waits.len(), 2);
    assert!(waits[0] == 60 && waits[1] < 60, "{waits:?}");
    let keys: Vec<_> =
        server.requests().iter().map(|it| it.headers["idempotency-key"].clone()).collect();
    assert!(keys[0] != keys[1] && keys[1] != keys[2], "{keys:?}");
}
