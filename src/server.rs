//! The sockets of the server: the address, the time limit and number of HTTP connections, and graceful
//! shutdown. By hand, because `axum::serve` has no options for the size of a request's head, the time for
//! it and the number of connections, and closes idle connections at once when it shuts down.
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

/// The pause after a connection could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The length of the operating system's queue of connections that were not accepted yet.
const BACKLOG: i32 = 1024;

/// The maximum size of a request's head, in bytes. Every connection can make the process buffer this much
/// before authentication.
const MAX_HEAD_BYTES: usize = 64 << 10;

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
/// idle or slow. At the maximum number of connections, no connection is accepted until another one ends.
/// Further clients wait in the operating system's queue: a burst is delayed, and does not fail.
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
                    // Most likely there are no file descriptors left. Wait until connections have closed.
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
            Some(_) = server.connections.join_next() => {}
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
    /// Dropping the set aborts the requests that are still running.
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
            is_draining: Arc::default(),
            connections: JoinSet::new(),
        }
    }

    fn has_room(&self) -> bool {
        self.connections.len() < self.app.config().max_connections
    }

    fn serve(&mut self, stream: TcpStream) {
        // Without this, Nagle's algorithm and delayed acknowledgements delay small answers by up to 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let (service, is_draining) = (self.service.clone(), self.is_draining.clone());
        let service = service_fn(move |request| {
            let (answered, is_draining) = (service.call(request), is_draining.clone());
            async move {
                let mut response = answered.await?;
                if is_draining.load(Ordering::Relaxed) {
                    let close = const { HeaderValue::from_static("close") };
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let connection = self.stopping.watch(connection);
        let counted = self.app.0.metrics.connections.enter();
        self.connections.spawn(async move {
            let _counted = counted;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }

    /// Accepts the connections in the operating system's queue and closes the listener. Their clients
    /// can have sent requests, which would be lost with the queue.
    fn accept_queued(&mut self, listener: TcpListener) -> io::Result<()> {
        let listener = listener.into_std()?;
        while self.has_room()
            && let Ok((stream, _)) = listener.accept()
        {
            stream.set_nonblocking(true)?;
            self.serve(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    /// Answers the requests in flight and closes every connection.
    async fn finish(mut self) {
        self.is_draining.store(true, Ordering::Relaxed);
        let all_ended = async { while self.connections.join_next().await.is_some() {} };
        if timeout(DRAIN_TIME, all_ended).await.is_err() {
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
