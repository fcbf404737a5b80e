//! A function URL on this machine: `function-url PROGRAM PORT` serves HTTP on loopback, sends each request to
//! the function as the event of a function URL, and returns its answer. The function inherits this process's
//! environment. Two arguments are parsed by hand: clap would become a dependency of the library.
use std::{net::Ipv4Addr, path::PathBuf, process::ExitCode, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{Request, StatusCode};
use lambda_emulator::{Kind, Lambda};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// The most processes of the function at once.
const MOST_PROCESSES: usize = 8;

/// The most bytes of a request that AWS passes on.
const MOST_BYTES: usize = 6 * 1024 * 1024;

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [program, port] = &words[..] else { return usage() };
    let Ok(port) = port.parse() else { return usage() };
    match serve(program.into(), port).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("function-url: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: function-url PROGRAM PORT");
    ExitCode::from(2)
}

async fn serve(program: PathBuf, port: u16) -> std::io::Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    #[expect(clippy::disallowed_methods, reason = "passed on to the function, not read here")]
    let variables = std::env::vars().collect();
    let lambda = Lambda::new(&program, &variables, MOST_PROCESSES).await?;
    let router = Router::new().fallback(invoke).with_state(Arc::new(lambda));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    // When this returns, the processes of the function end.
    tokio::select! {
        served = axum::serve(listener, router) => served,
        _ = stop.recv() => Ok(()),
    }
}

async fn invoke(State(lambda): State<Arc<Lambda>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MOST_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let event = Kind::FunctionUrl.event(&Request::from_parts(parts, body));
    match lambda.invoke(&event).await {
        Ok(answer) => Kind::FunctionUrl.response(&answer).map(Body::from),
        Err(error) => {
            eprintln!("function-url: the function failed: {error}");
            StatusCode::BAD_GATEWAY.into_response()
        }
    }
}
