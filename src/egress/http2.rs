//! The client's side of HTTP/2: streams at the same time, each a request of its own that is judged and recorded.
//!
//! What a connection can cost is set here, not left to a library's defaults: streams, header lists, what may be sent
//! ahead of a slow origin, and how many resets are borne before the connection is ended (CVE-2023-44487,
//! CVE-2025-8671). The library bounds CONTINUATION frames by the header list and answers no flood of SETTINGS or
//! PING faster than it is read.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::http::answer;
use super::outlet::Outlet;
use super::request::Site;
use crate::shutdown::Shutdown;

/// Largest header list of either direction.
pub(super) const HEADER_LIST_LIMIT: u32 = 64 * 1024;

/// Streams at a time on one connection.
const STREAMS: u32 = 128;

/// What a client may send ahead of the origin per stream, and on one connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What is held for a client that reads slowly, per stream.
const SEND_BUFFER: usize = 256 * 1024;

/// Resets before a stream was looked at, and streams that broke the protocol, after which the connection is ended.
const PENDING_RESETS: usize = 32;
const LOCAL_RESETS: usize = 256;

/// How long a connection may be without a stream, and then without its end.
const IDLE: Duration = Duration::from_secs(60);
const FAREWELL: Duration = Duration::from_secs(5);

/// How often a silent client is asked whether it lives, and how long the answer may take.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// Spawns the library's tasks within a scope, so that they end with it.
#[derive(Clone, Debug)]
pub(super) struct Scope(pub(super) Shutdown);

impl<F> Executor<F> for Scope
where
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn_until_cancelled(async move { drop(task.await) });
    }
}

/// Serves the streams of a connection for `site` until either side ends it.
pub(super) async fn serve<S>(outlet: &Arc<Outlet>, site: &Site, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (activity, watched) = watch::channel(0);
    let (activity, shared, site) = (Arc::new(activity), outlet.clone(), Arc::new(site.clone()));
    let service = service_fn(move |request: Request<Incoming>| {
        let open = OpenStream::new(&activity);
        let (outlet, site) = (shared.clone(), site.clone());
        async move {
            let response = answer(&outlet, &site, request).await;
            // The stream is open for as long as its answer is under way.
            Ok::<_, Infallible>(response.map(|body| {
                body.map_frame(move |frame| {
                    let _still_open = &open;
                    frame
                })
            }))
        }
    });
    let mut connection = pin!(
        http2::Builder::new(Scope(outlet.upstream.scope.clone()))
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_LIST_LIMIT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(LOCAL_RESETS)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .serve_connection(TokioIo::new(stream), service)
    );
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = idle(watched.clone(), IDLE) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                served = connection => served,
                () = idle(watched, FAREWELL) => Ok(()),
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection ended");
    }
}

/// Counted for as long as it lives.
struct OpenStream(Arc<watch::Sender<usize>>);

impl OpenStream {
    fn new(activity: &Arc<watch::Sender<usize>>) -> Self {
        activity.send_modify(|open| *open += 1);
        Self(activity.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// Returns when no stream was open for so long.
async fn idle(mut open: watch::Receiver<usize>, patience: Duration) {
    loop {
        let is_open = *open.borrow_and_update() > 0;
        let changed = async {
            // The sender lives in the service; without it the connection has ended, and nobody waits here any more.
            if open.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        if is_open {
            changed.await;
        } else if timeout(patience, changed).await.is_err() {
            return;
        }
    }
}
