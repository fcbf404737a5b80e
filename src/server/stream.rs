//! The stream of a connection, with a time limit for progress of what is written.
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::operation::Connection;

/// A stream whose writing fails when its client has not taken a byte for some time. A client that does not
/// read would keep its connection and its answer for ever.
pub(super) struct WatchedStream<S> {
    stream: S,
    connection: Arc<Connection>,
    limit: Duration,
    /// Set while the client takes nothing.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> WatchedStream<S> {
    pub(super) fn new(stream: S, connection: Arc<Connection>, limit: Duration) -> Self {
        Self { stream, connection, limit, deadline: None }
    }

    /// Passes on the outcome of a write, or an error at the deadline.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.connection.note_bytes();
        }
        if read.is_pending() {
            self.connection.note_silence();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }

    /// Without this, hyper would copy every answer, and build the next one of a pipeline before the
    /// previous one is written.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::poll_fn, net::Ipv4Addr};

    use super::*;

    /// A stream that takes nothing where the next entry is 0, and after the last one.
    struct Taking(VecDeque<usize>);

    impl AsyncWrite for Taking {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            match self.0.pop_front() {
                None | Some(0) => Poll::Pending,
                Some(count) => Poll::Ready(Ok(count)),
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn watched(taken: &[usize], limit: Duration) -> WatchedStream<Taking> {
        let connection = Arc::new(Connection::new(Ipv4Addr::LOCALHOST.into(), false));
        WatchedStream::new(Taking(taken.iter().copied().collect()), connection, limit)
    }

    #[tokio::test]
    async fn every_byte_that_the_client_takes_starts_the_time_anew() {
        let mut stream = watched(&[0, 1, 0], Duration::from_secs(3600));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for is_stalled in [true, false, true] {
            let written = Pin::new(&mut stream).poll_write(&mut cx, b"x");
            assert_eq!(written.is_pending(), is_stalled);
            assert_eq!(stream.deadline.is_some(), is_stalled);
        }
    }

    #[tokio::test]
    async fn writing_fails_at_the_deadline() {
        let mut stream = watched(&[], Duration::ZERO);
        let error = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"x")).await;
        assert_eq!(error.expect_err("nothing is taken").kind(), io::ErrorKind::TimedOut);
    }
}
