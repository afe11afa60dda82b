//! Connections as they are accepted: how many there are, how long a handshake may take, and that none
//! outlives the server.
//!
//! What a peer holds before it has shown a key is bounded here: `limits.connections_max` connections, and
//! `limits.handshake_timeout_ms` from the accept to the end of the TLS handshake and the first bytes of
//! HTTP/2. From then on HTTP/2 pings tell a silent peer from one that is gone (`serve`). Cost: one flag and
//! one poll of a watch a read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

use crate::limits::Limits;
use crate::phase::{Phase, Phases};
use crate::telemetry::metrics::Metrics;

/// Length of what an HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

/// Time that a peer gets to close its side after ours is closed.
const LINGER: Duration = Duration::from_millis(500);

/// The connections that `listener` accepts.
pub fn incoming(
    listener: TcpListener,
    limits: &Limits,
    phases: &Phases,
    metrics: &Arc<Metrics>,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let handshake = Duration::from_millis(limits.handshake_timeout_ms);
    let (phases, metrics) = (phases.clone(), Arc::clone(metrics));
    TcpIncoming::from(listener).with_nodelay(Some(true)).filter_map(move |accepted| match accepted {
        Ok(stream) => match Arc::clone(&room).try_acquire_owned() {
            Ok(place) => Some(Ok(Connection::new(stream, place, handshake, phases.clone()))),
            Err(_) => {
                // Dropped here, which closes it. No line in the log: a flood would fill the disk, too.
                metrics.refused_connection();
                None
            }
        },
        Err(error) => Some(Err(error)),
    })
}

/// A connection in its bounds.
pub struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    /// Runs until the handshake is done.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether TLS, where there is any, is agreed on.
    agreed: AtomicBool,
    /// Bytes read since then.
    bytes_after: usize,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_cut: bool,
    /// Runs from when our side is closed.
    linger: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, handshake: Duration, mut phases: Phases) -> Self {
        Self {
            stream,
            _place: place,
            timer: Some(Box::pin(tokio::time::sleep(handshake))),
            agreed: AtomicBool::new(false),
            bytes_after: 0,
            cut: Box::pin(async move { phases.reached(Phase::Cut).await }),
            is_cut: false,
            linger: None,
        }
    }

    /// Reads what the peer still sends, to its end or for a while. The system answers what nobody has read
    /// with a reset when a connection is dropped, and a reset takes with it what is on its way to the peer:
    /// the last answers, and why there are no more.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 4_096];
        loop {
            let linger = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
            if linger.as_mut().poll(cx).is_ready() || self.check_cut(cx).is_err() {
                return Poll::Ready(());
            }
            let mut rest = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut rest) {
                Poll::Ready(Ok(())) if !rest.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Fails once the server has ended.
    fn check_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_cut = self.is_cut || self.cut.as_mut().poll(cx).is_ready();
        if self.is_cut {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has ended"));
        }
        Ok(())
    }

    /// Notes `bytes` that were read, and fails when the handshake takes too long.
    fn check_handshake(&mut self, bytes: usize, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(timer) = &mut self.timer else { return Ok(()) };
        if *self.agreed.get_mut() {
            self.bytes_after += bytes;
        }
        if self.bytes_after >= PREFACE_BYTES {
            self.timer = None;
        } else if timer.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "limits.handshake_timeout_ms"));
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    /// tonic asks once, when TLS is agreed on and before the first byte of HTTP/2 is read.
    fn connect_info(&self) -> TcpConnectInfo {
        self.agreed.store(true, Ordering::Relaxed);
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.check_handshake(buf.filled().len() - before, cx)?;
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_rest(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A listener of these limits, and its address.
    async fn listen(
        limits: &Limits,
        phases: &Phases,
    ) -> (impl Stream<Item = io::Result<Connection>> + use<>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (incoming(listener, limits, phases, &Arc::new(Metrics::new())), address)
    }

    #[tokio::test]
    async fn there_are_only_so_many() {
        let (_lead, phases) = phase::start();
        let limits = Limits { connections_max: 1, ..Limits::default() };
        let (accepted, address) = listen(&limits, &phases).await;
        let mut accepted = Box::pin(accepted);
        let _one = TcpStream::connect(&address).await.unwrap();
        let first = accepted.next().await.unwrap().unwrap();
        let mut two = TcpStream::connect(&address).await.unwrap();
        // The second is closed while the stream goes on waiting.
        let closed = async { two.read(&mut [0; 8]).await.map_or(0, |bytes| bytes) };
        tokio::select! {
            bytes = closed => assert_eq!(bytes, 0),
            _ = accepted.next() => panic!("more than one"),
        }
        drop(first);
        let _three = TcpStream::connect(&address).await.unwrap();
        accepted.next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_handshake_has_its_time() {
        let (_lead, phases) = phase::start();
        let limits = Limits { handshake_timeout_ms: 50, ..Limits::default() };
        let (accepted, address) = listen(&limits, &phases).await;
        let mut accepted = Box::pin(accepted);
        let _silent = TcpStream::connect(&address).await.unwrap();
        let mut silent = accepted.next().await.unwrap().unwrap();
        silent.connect_info();
        let error = silent.read(&mut [0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");

        let mut peer = TcpStream::connect(&address).await.unwrap();
        let mut shaken = accepted.next().await.unwrap().unwrap();
        shaken.connect_info();
        peer.write_all(&[7; PREFACE_BYTES]).await.unwrap();
        let mut bytes = [0; PREFACE_BYTES];
        shaken.read_exact(&mut bytes).await.unwrap();
        // Silence from here on is for pings to judge.
        let silence = tokio::time::timeout(Duration::from_millis(150), shaken.read(&mut bytes)).await;
        assert!(silence.is_err());
    }

    #[tokio::test]
    async fn what_nobody_read_takes_nothing_with_it() {
        let (_lead, phases) = phase::start();
        let (accepted, address) = listen(&Limits::default(), &phases).await;
        let mut accepted = Box::pin(accepted);
        for closes in [true, false] {
            let mut peer = TcpStream::connect(&address).await.unwrap();
            let mut connection = accepted.next().await.unwrap().unwrap();
            peer.write_all(b"a question that comes too late").await.unwrap();
            let closing = tokio::spawn(async move {
                connection.write_all(b"the last answer").await.unwrap();
                connection.shutdown().await.unwrap();
            });
            if !closes {
                // It goes on sending and never closes: it has its time, and no more.
                closing.await.unwrap();
            }
            let mut answer = Vec::new();
            peer.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"the last answer");
        }
    }

    #[tokio::test]
    async fn none_outlives_the_server() {
        let (lead, phases) = phase::start();
        let (accepted, address) = listen(&Limits::default(), &phases).await;
        let mut accepted = Box::pin(accepted);
        let _peer = TcpStream::connect(&address).await.unwrap();
        let mut connection = accepted.next().await.unwrap().unwrap();
        let reading = tokio::spawn(async move { connection.read(&mut [0; 8]).await });
        tokio::task::yield_now().await;
        lead.advance(Phase::Cut);
        let error = reading.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
    }
}
