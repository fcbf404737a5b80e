//! The sockets of the server: where it listens, how long a connection may take, how many there may
//! be, and how it all ends.
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use http::{HeaderValue, header};
use hyper::{
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
    task::JoinSet,
    time::timeout,
};

use crate::{app::App, config::Config};

/// How long accepting pauses after it failed.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How many connections the system keeps for us until we accept them.
const BACKLOG: i32 = 1024;

/// The most bytes of a request's head. Every connection may make the process hold as many before a
/// key was seen.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How long open connections are still served after a signal to stop. Whoever keeps connections
/// open, as balancers do, may just have sent a request on one that looks idle to us.
const LAST_CALL: Duration = Duration::from_millis(100);

/// Opens the address of the configuration. By default that is every address of both IP versions,
/// or of version 4 where version 6 is missing.
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

/// Serves until `stop` resolves, then takes no new connection and lets requests in flight finish
/// within the grace time.
///
/// A connection without a complete request head for the keep-alive time is closed, whether it is
/// idle or slow. At the limit of connections nothing is accepted until one ends: the system queues
/// the others, which for a burst is a short delay where closing them would be failed requests.
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
        tokio::select! {
            accepted = listener.accept(), if server.has_room() => match accepted {
                Ok((stream, _)) => server.serve(stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Out of file handles, most likely: that passes when others close.
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
            Some(_) = server.connections.join_next() => {}
            () = &mut stop => break,
        }
    }
    server.accept_the_queued(listener)?;
    if timeout(config.shutdown_grace, server.finish()).await.is_err() {
        tracing::warn!("requests still in flight are cut off");
    }
    Ok(())
}

/// The open connections, and what serves them.
struct Server<'a> {
    app: &'a App,
    builder: http1::Builder,
    service: TowerToHyperService<Router>,
    stopping: GracefulShutdown,
    /// Whether each answer is the last one on its connection.
    last_call: Arc<AtomicBool>,
    /// When this is dropped, whatever is still running is cut off.
    connections: JoinSet<()>,
}

impl<'a> Server<'a> {
    fn new(router: Router, app: &'a App) -> Self {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(app.config().keep_alive)
            .max_buf_size(MAX_HEAD_BYTES);
        Self {
            app,
            builder,
            service: TowerToHyperService::new(router),
            stopping: GracefulShutdown::new(),
            last_call: Arc::default(),
            connections: JoinSet::new(),
        }
    }

    fn has_room(&self) -> bool {
        self.connections.len() < self.app.config().max_connections
    }

    fn serve(&mut self, stream: TcpStream) {
        // Without this, Nagle's algorithm and delayed acknowledgements hold small answers back.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let (service, last_call) = (self.service.clone(), self.last_call.clone());
        let service = service_fn(move |request| {
            let (answered, last_call) = (service.call(request), last_call.clone());
            async move {
                let mut response = answered.await?;
                if last_call.load(Ordering::Relaxed) {
                    let close = const { HeaderValue::from_static("close") };
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let connection = self.stopping.watch(connection);
        let present = self.app.0.metrics.connections.enter();
        self.connections.spawn(async move {
            let _present = present;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }

    /// Closes the listener. Who has already connected may have sent a request, which would be lost
    /// with the system's queue.
    fn accept_the_queued(&mut self, listener: TcpListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        while self.has_room()
            && let Ok((stream, _)) = listener.accept()
        {
            stream.set_nonblocking(true)?;
            self.serve(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    /// Answers what is in flight and closes every connection.
    async fn finish(mut self) {
        self.last_call.store(true, Ordering::Relaxed);
        let all_ended = async { while self.connections.join_next().await.is_some() {} };
        if timeout(LAST_CALL, all_ended).await.is_err() {
            self.stopping.shutdown().await;
        }
    }
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
