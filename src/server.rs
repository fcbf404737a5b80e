//! The sockets of the server: the address, the time limits and number of HTTP connections, and graceful
//! shutdown. By hand, because `axum::serve` has no options for the size of a request's head, the time for
//! it and for the answer, and the number of connections, and closes idle connections at once when it shuts
//! down.
mod admission;
mod stream;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use http::{HeaderValue, Request, StatusCode, header};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use self::{
    admission::{Admission, Level},
    stream::WatchedStream,
};
use crate::{
    app::App,
    config::Config,
    http::busy,
    operation::{Connection, Limit, Party},
};

/// The pause after a connection could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The length of the operating system's queue of connections that were not accepted yet.
const BACKLOG: i32 = 4096;

/// The pause between two looks for a connection that can be closed for another one.
const ADMISSION_RETRY: Duration = Duration::from_millis(50);

/// The maximum size of a request's head, in bytes. Every connection can make the process buffer twice as
/// much before authentication.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The pages that are answered on a connection beyond the maximum.
const ALWAYS_ANSWERED: [&str; 2] = ["/live", "/health"];

/// The size of a connection's send buffer in the kernel, in bytes. The system grows it to several megabytes for a
/// client that reads nothing: filling those of all connections takes seconds, in which no other request is answered.
const SEND_BUFFER: usize = 64 << 10;

/// How long idle connections stay open after a signal to stop. A client with kept-alive connections,
/// such as a load balancer, can have sent a request that has not arrived yet.
const DRAIN_TIME: Duration = Duration::from_millis(100);

/// Binds the configured address. By default: every address of IPv6 and IPv4, or only of IPv4 where IPv6 is
/// missing.
pub async fn bind(config: &Config) -> io::Result<TcpListener> {
    if let Some(host) = config.host {
        return TcpListener::bind((host, config.port)).await;
    }
    match dual_stack(config.port) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, config.port)).await,
    }
}

fn dual_stack(port: u16) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Serves until `stop` resolves. Then accepts no further connections and gives requests in flight the grace
/// time to finish.
///
/// A connection that sends no complete request head within the keep-alive time is closed, whether it is
/// idle or slow, and so is one whose client takes no part of an answer for the write time. At the maximum
/// number of connections, the connection that has been stalled longest is closed for a new one. While the
/// service works on a request of each, new ones wait in the operating system's queue: a burst is delayed.
/// After a second of that it accepts some more, which can only ask for the state of the service.
pub async fn listen(
    listener: TcpListener,
    router: Router,
    app: &App,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let config = app.config();
    let mut server = Server::new(router, app);
    let mut stop = std::pin::pin!(stop);
    loop {
        let can_accept = server.admission.can_accept();
        tokio::select! {
            accepted = listener.accept(), if can_accept => match accepted {
                Ok((stream, peer)) => server.serve(stream, peer.ip()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Most likely there are no file descriptors left. Wait until connections have closed.
                    sleep(ACCEPT_RETRY).await;
                }
            },
            Some(()) = server.admission.end_of_one() => {}
            () = sleep(ADMISSION_RETRY), if !can_accept => {}
            () = &mut stop => break,
        }
    }
    server.accept_queued(listener)?;
    if timeout(config.shutdown_grace, server.finish()).await.is_err() {
        tracing::warn!("requests still in flight are cut off");
    }
    Ok(())
}

/// The open connections and the service that answers them.
struct Server<'a> {
    app: &'a App,
    builder: http1::Builder,
    service: TowerToHyperService<Router>,
    stopping: GracefulShutdown,
    /// Whether each answer tells the client to close its connection.
    is_draining: Arc<AtomicBool>,
    admission: Admission,
}

impl<'a> Server<'a> {
    fn new(router: Router, app: &'a App) -> Self {
        let config = app.config();
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(config.keep_alive)
            .max_buf_size(MAX_HEAD_BYTES);
        Self {
            app,
            builder,
            service: TowerToHyperService::new(router),
            stopping: GracefulShutdown::new(),
            is_draining: Arc::default(),
            admission: Admission::new(config.max_connections, config.timings.stall_time),
        }
    }

    fn serve(&mut self, stream: TcpStream, address: IpAddr) {
        // Without this, Nagle's algorithm and delayed acknowledgements delay small answers by up to 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        if let Err(error) = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER) {
            tracing::debug!(%error, "the send buffer could not be limited");
        }
        if let Some(closed) = self.admission.make_room() {
            count(self.app, Limit::Connections, &closed);
        }
        let is_beyond_max = self.admission.is_beyond_max();
        let connection = Arc::new(Connection::new(address.to_canonical(), is_beyond_max));
        let answering = Answering {
            service: self.service.clone(),
            connection: connection.clone(),
            app: self.app.clone(),
            is_draining: self.is_draining.clone(),
            level: self.admission.level(),
        };
        let service = service_fn(move |request| answering.clone().answer(request));
        let write_time = self.app.config().write_time;
        let stream = WatchedStream::new(stream, connection.clone(), write_time);
        let serving = self.builder.serve_connection(TokioIo::new(stream), service);
        let serving = self.stopping.watch(serving);
        let counted = self.app.0.metrics.connections.enter();
        let (app, served) = (self.app.clone(), connection.clone());
        self.admission.serve(connection, async move {
            let _counted = counted;
            if let Err(error) = serving.await {
                tracing::debug!(%error, "a connection ended early");
                if let Some(limit) = reached_limit(&error, &served) {
                    count(&app, limit, &served);
                }
            }
        });
    }

    /// Accepts the connections in the operating system's queue and closes the listener. Their clients
    /// can have sent requests, which would be lost with the queue.
    fn accept_queued(&mut self, listener: TcpListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        while self.admission.can_accept()
            && let Ok((stream, peer)) = listener.accept()
        {
            stream.set_nonblocking(true)?;
            self.serve(TcpStream::from_std(stream)?, peer.ip());
        }
        Ok(())
    }

    /// Answers the requests in flight and closes every connection.
    async fn finish(mut self) {
        self.is_draining.store(true, Ordering::Relaxed);
        let all_ended = async { while self.admission.end_of_one().await.is_some() {} };
        if timeout(DRAIN_TIME, all_ended).await.is_err() {
            self.stopping.shutdown().await;
        }
    }
}

/// What answers the requests of one connection.
#[derive(Clone)]
struct Answering {
    service: TowerToHyperService<Router>,
    connection: Arc<Connection>,
    app: App,
    is_draining: Arc<AtomicBool>,
    level: Arc<Level>,
}

impl Answering {
    /// Answers a request. The connection counts as in work once this is polled, which hyper does when the
    /// previous answer of a pipeline is written.
    async fn answer(
        self,
        mut request: Request<Incoming>,
    ) -> Result<Response, std::convert::Infallible> {
        self.connection.begin_work();
        let mut response = if head_bytes(&request) > MAX_HEAD_BYTES {
            count(&self.app, Limit::HeadSize, &self.connection);
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            response
        } else if self.is_refused(&request) {
            count(&self.app, Limit::AllInWork, &self.connection);
            busy(request.headers())
        } else {
            request.extensions_mut().insert(self.connection.clone());
            self.service.call(request).await?
        };
        if self.should_close(response.status()) {
            let close = const { HeaderValue::from_static("close") };
            response.headers_mut().insert(header::CONNECTION, close);
        }
        self.connection.stall();
        Ok(response)
    }

    /// Whether a request on a connection beyond the maximum asks for more than the state of the service.
    fn is_refused(&self, request: &Request<Incoming>) -> bool {
        self.connection.is_beyond_max
            && self.level.is_exceeded()
            && !ALWAYS_ANSWERED.contains(&request.uri().path())
    }

    /// Whether the client has to close the connection after an answer. Without room for others, clients
    /// without a key and those beyond the maximum get one answer for each connection.
    fn should_close(&self, status: StatusCode) -> bool {
        let is_beyond_max = self.connection.is_beyond_max;
        self.is_draining.load(Ordering::Relaxed)
            || status == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            || (self.level.is_full() && (is_beyond_max || self.connection.key_number().is_none()))
    }
}

/// Returns the size of a request's head, without optional white space. hyper refuses some heads that are too
/// large, but its buffer takes up to twice the maximum.
fn head_bytes<B>(request: &Request<B>) -> usize {
    const VERSION_AND_ENDS: usize = " ".len() + " HTTP/1.1\r\n".len() + "\r\n".len();
    let uri = request.uri();
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let line = request.method().as_str().len() + authority + path + VERSION_AND_ENDS;
    let headers = request.headers().iter();
    line + headers.map(|(name, value)| name.as_str().len() + value.len() + 3).sum::<usize>()
}

/// Returns the limit that ended a connection. An idle connection has reached none.
fn reached_limit(error: &hyper::Error, connection: &Connection) -> Option<Limit> {
    if error.is_parse_too_large() {
        return Some(Limit::HeadSize);
    }
    let source = std::error::Error::source(error).and_then(|it| it.downcast_ref::<io::Error>());
    match source {
        Some(error) => (error.kind() == io::ErrorKind::TimedOut).then_some(Limit::WriteTime),
        None => (error.is_timeout() && connection.has_begun_request()).then_some(Limit::HeadTime),
    }
}

/// Counts and logs that a connection has reached a limit.
fn count(app: &App, limit: Limit, connection: &Connection) {
    let key = connection.key_number().and_then(|number| app.0.keys.numbered(number));
    let party = Party { address: Some(connection.address), key, ..Party::default() };
    app.0.metrics.limits.count(limit, party);
}

/// Resolves when the process is asked to stop, by SIGTERM or by Ctrl-C.
pub async fn stop_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
