//! A request body that must arrive in time, and what becomes of the part that nobody read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout};

/// How much of a body that nobody wants is still read.
const DRAINED: usize = 1024 * 1024;
/// Who has sent nothing for so long waits for the answer.
const PAUSE: Duration = Duration::from_millis(500);

/// The body of a request; reading it fails once a limit has passed since the first read.
pub struct Deadline {
    /// `None` only while it is dropped.
    body: Option<Timed>,
    unread: Option<oneshot::Sender<Timed>>,
}

/// What the reader of a body leaves.
pub struct Unread(oneshot::Receiver<Timed>);

struct Timed {
    body: Incoming,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Bounds the time it takes to read `body`.
    #[must_use]
    pub fn new(body: Incoming, limit: Duration) -> (Self, Unread) {
        let (unread, left) = oneshot::channel();
        let body = Timed {
            body,
            limit,
            timer: None,
        };
        let this = Self {
            body: Some(body),
            unread: Some(unread),
        };
        (this, Unread(left))
    }
}

impl Unread {
    /// Reads on when the answer is there, and forgets what it reads: over HTTP/1.1 a client that is still sending would
    /// find its connection closed, and the answer gone with it.
    pub async fn drain(mut self) {
        let Ok(mut body) = self.0.try_recv() else {
            return;
        };
        let mut left = DRAINED;
        while let Ok(Some(Ok(frame))) = timeout(PAUSE, body.frame()).await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(length) else {
                return;
            };
            left = rest;
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let (Some(body), Some(unread)) = (self.body.take(), self.unread.take())
            && !body.is_end_stream()
        {
            // Nobody waits for it when the connection is gone.
            drop(unread.send(body));
        }
    }
}

impl Body for Deadline {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Body for Timed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let limit = this.limit;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Some(Err("the request body did not arrive in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
