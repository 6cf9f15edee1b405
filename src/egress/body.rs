//! Bodies that are passed on as they come: counted, never collected, and followed to their end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};

/// A body of either direction.
pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A body that is complete in memory.
pub(super) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// How far a body has come; shared with whoever has to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: AtomicU64,
    complete: AtomicBool,
    broken: AtomicBool,
}

impl Progress {
    /// Counts bytes that were passed on.
    pub(super) fn add(&self, bytes: usize) {
        self.state.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that were passed on.
    pub(super) fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::Relaxed)
    }

    /// Whether the body was passed on to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.state.complete.load(Ordering::Acquire)
    }

    /// Whether its sender failed before the end.
    pub(super) fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::Acquire)
    }
}

/// Told once how a body ended: true if it was complete, false if it broke or was dropped by its reader.
type AtEnd = Box<dyn FnOnce(bool) + Send>;

/// A body that is counted on its way.
pub(super) struct Followed {
    inner: Incoming,
    progress: Progress,
    at_end: Option<AtEnd>,
}

impl Followed {
    /// Counts `inner` in `progress` and calls `at_end` exactly once.
    pub(super) fn new(
        inner: Incoming,
        progress: Progress,
        at_end: impl FnOnce(bool) + Send + 'static,
    ) -> Self {
        let mut followed = Self { inner, progress, at_end: Some(Box::new(at_end)) };
        if followed.inner.is_end_stream() {
            followed.end(true);
        }
        followed
    }

    /// As the type that hyper gets.
    pub(super) fn boxed(self) -> Body {
        self.boxed_unsync()
    }

    fn end(&mut self, complete: bool) {
        if complete {
            self.progress.state.complete.store(true, Ordering::Release);
        }
        if let Some(at_end) = self.at_end.take() {
            at_end(complete);
        }
    }
}

impl hyper::body::Body for Followed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.progress.add(data.len());
                }
                if self.inner.is_end_stream() {
                    self.end(true);
                }
            }
            Poll::Ready(Some(Err(_))) => {
                self.progress.state.broken.store(true, Ordering::Release);
                self.end(false);
            }
            Poll::Ready(None) => self.end(true),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.end(false);
    }
}
