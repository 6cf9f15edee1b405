//! Lets only requests of the strict grammar through to the HTTP library.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{Expected, FramingError};
use super::websocket::Gate;

/// How much is read at a time while a head or chunk line is looked at.
const READ_SIZE: usize = 16 * 1024;

/// What the HTTP library gets in the place of malformed bytes: it answers 400 in its turn, and closes.
const REFUSED: &[u8] = b"\0\r\n\r\n";

/// A client's stream that is checked on its way in; what goes out passes untouched.
pub(super) struct StrictReader<S, F> {
    inner: S,
    expected: Expected,
    /// Read, and not yet known to be well-formed.
    held: BytesMut,
    /// How much of it was looked at.
    searched: usize,
    /// Well-formed, and not yet passed on.
    passed: BytesMut,
    /// Told of the first violation; none is left after that.
    refused: Option<F>,
    /// Whether the bytes are requests at all.
    gate: Gate,
}

impl<S, F: FnOnce(FramingError)> StrictReader<S, F> {
    /// Calls `refused` at the first violation. The stream ends there. Behind an open `gate` nothing is checked.
    pub(super) fn new(inner: S, gate: Gate, refused: F) -> Self {
        let (held, passed) = (BytesMut::new(), BytesMut::new());
        Self { inner, expected: Expected::Head, held, searched: 0, passed, refused: Some(refused), gate }
    }

    /// Moves what is well-formed from `held` to `passed`.
    fn check(&mut self) {
        loop {
            match self.expected.advance(&self.held, self.searched) {
                Ok(Some((length, next))) => {
                    self.passed.unsplit(self.held.split_to(length));
                    self.expected = next;
                    self.searched = 0;
                }
                Ok(None) => {
                    self.searched = self.held.len();
                    return;
                }
                Err(error) => {
                    self.held.clear();
                    self.passed.extend_from_slice(REFUSED);
                    if let Some(refused) = self.refused.take() {
                        self.gate.refuse();
                        refused(error);
                    }
                    return;
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin, F: FnOnce(FramingError) + Unpin> AsyncRead for StrictReader<S, F> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.gate.is_raw() && !this.held.is_empty() {
                // The beginning of what would have been a request: it came before the answer, and follows it now.
                this.passed.unsplit(this.held.split());
            }
            if !this.passed.is_empty() {
                let length = this.passed.len().min(out.remaining());
                out.put_slice(&this.passed[..length]);
                this.passed.advance(length);
                return Poll::Ready(Ok(()));
            }
            if this.gate.is_raw() {
                return Pin::new(&mut this.inner).poll_read(context, out);
            }
            if this.refused.is_none() {
                return Poll::Ready(Ok(()));
            }
            if let (Expected::Body(left), true) = (this.expected, this.held.is_empty()) {
                return this.poll_body(left, context, out);
            }
            let mut space = [std::mem::MaybeUninit::uninit(); READ_SIZE];
            let mut buffer = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.held.extend_from_slice(buffer.filled());
            this.check();
        }
    }
}

impl<S: AsyncRead + Unpin, F> StrictReader<S, F> {
    /// A body of known length needs no look, so it is read in place.
    fn poll_body(
        &mut self,
        left: u64,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let limit = usize::try_from(left).unwrap_or(usize::MAX).min(out.remaining());
        let mut space = ReadBuf::new(out.initialize_unfilled_to(limit));
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut space))?;
        let length = space.filled().len();
        out.advance(length);
        self.expected = match left - length as u64 {
            0 => Expected::Head,
            left => Expected::Body(left),
        };
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for StrictReader<S, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
