//! One stream of bytes for several readers, of which the slowest sets the pace.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};

use crate::error::{Error, Result};

/// So many bytes may wait for a reader before the others have to wait for it.
const AHEAD: usize = 128 * 1024;

/// The stream that is shared.
pub(super) struct Fanout(Arc<Mutex<Shared>>);

struct Shared {
    bytes: BoxStream<'static, Result<Bytes>>,
    /// `None` for a branch that is gone.
    branches: Vec<Option<Waiting>>,
    is_over: bool,
    failure: Option<Error>,
}

/// What waits for one branch, and whom to wake when there is more.
#[derive(Default)]
struct Waiting {
    chunks: VecDeque<Bytes>,
    length: usize,
    waker: Option<Waker>,
}

/// One reader's view of the stream: every byte of it, in order. Dropped, it holds up the others no longer.
pub(super) struct Branch {
    shared: Arc<Mutex<Shared>>,
    position: usize,
}

impl Fanout {
    /// Shares `bytes` between `count` branches.
    pub(super) fn new(
        bytes: impl Stream<Item = Result<Bytes>> + Send + 'static,
        count: usize,
    ) -> (Self, Vec<Branch>) {
        let shared = Arc::new(Mutex::new(Shared {
            bytes: bytes.boxed(),
            branches: (0..count).map(|_| Some(Waiting::default())).collect(),
            is_over: false,
            failure: None,
        }));
        let branch = |position| Branch {
            shared: shared.clone(),
            position,
        };
        let branches = (0..count).map(branch).collect();
        (Fanout(shared), branches)
    }

    /// Why the stream failed, if it did. It shows at the readers as a broken body, which would blame the wrong side.
    pub(super) fn failure(&self) -> Option<Error> {
        lock(&self.0).failure.clone()
    }

    /// Takes one branch out, which ends in an error if it is still read. A destination may refuse an upload whose body an HTTP
    /// connection still holds; the others must not wait for it.
    pub(super) fn close(&self, position: usize) {
        lock(&self.0).close(position);
    }
}

impl Shared {
    fn close(&mut self, position: usize) {
        self.branches[position] = None;
        self.wake_all();
    }

    fn wake_all(&mut self) {
        for branch in self.branches.iter_mut().flatten() {
            if let Some(waker) = branch.waker.take() {
                waker.wake();
            }
        }
    }

    /// The next chunk for the branch at `position`, from what waits for it or from the stream.
    fn poll(
        &mut self,
        position: usize,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        let failed = || Poll::Ready(Some(Err(io::Error::other("the source failed"))));
        if self.failure.is_some() {
            return failed();
        }
        let Some(own) = self.branches[position].as_mut() else {
            return failed();
        };
        if let Some(chunk) = own.chunks.pop_front() {
            own.length -= chunk.len();
            // Others may have waited for this one.
            self.wake_all();
            return Poll::Ready(Some(Ok(chunk)));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        let is_behind = |branch: &Waiting| branch.length >= AHEAD;
        if self.branches.iter().flatten().any(is_behind) {
            return self.wait(position, context);
        }
        match self.bytes.poll_next_unpin(context) {
            Poll::Pending => self.wait(position, context),
            Poll::Ready(Some(Ok(chunk))) => {
                for (other, branch) in self.branches.iter_mut().enumerate() {
                    if let Some(branch) = branch.as_mut().filter(|_| other != position) {
                        branch.length += chunk.len();
                        branch.chunks.push_back(chunk.clone());
                    }
                }
                self.wake_all();
                Poll::Ready(Some(Ok(chunk)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.failure = Some(error);
                self.wake_all();
                failed()
            }
            Poll::Ready(None) => {
                self.is_over = true;
                self.wake_all();
                Poll::Ready(None)
            }
        }
    }

    fn wait(&mut self, position: usize, context: &Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(own) = &mut self.branches[position] {
            own.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Stream for Branch {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        lock(&self.shared).poll(self.position, context)
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        lock(&self.shared).close(self.position);
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, stream};

    use super::*;

    fn chunks(lengths: &[usize]) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        let chunks: Vec<_> = lengths
            .iter()
            .map(|length| Ok(Bytes::from(vec![7; *length])))
            .collect();
        stream::iter(chunks)
    }

    fn next(branch: &mut Branch) -> Option<Option<io::Result<Bytes>>> {
        branch.next().now_or_never()
    }

    fn length(branch: &mut Branch) -> usize {
        match next(branch) {
            Some(Some(Ok(chunk))) => chunk.len(),
            other => unreachable!("expected a chunk: {other:?}"),
        }
    }

    #[test]
    fn every_branch_gets_every_byte_and_the_slowest_sets_the_pace() {
        let (_, mut branches) = Fanout::new(chunks(&[AHEAD, 1, 2]), 2);
        let [fast, slow] = branches.as_mut_slice() else {
            unreachable!("two branches")
        };
        assert_eq!(length(fast), AHEAD);
        assert!(next(fast).is_none(), "it waits for the other");
        assert_eq!(length(slow), AHEAD);
        assert_eq!((length(fast), length(fast)), (1, 2));
        assert_eq!((length(slow), length(slow)), (1, 2));
        assert!(matches!((next(fast), next(slow)), (Some(None), Some(None))));
    }

    #[test]
    fn a_branch_that_is_gone_holds_up_nobody() {
        let (_, mut branches) = Fanout::new(chunks(&[AHEAD, 1]), 2);
        let mut last = branches.remove(1);
        assert_eq!(length(&mut last), AHEAD);
        assert!(next(&mut last).is_none());
        drop(branches);
        assert_eq!(length(&mut last), 1);
    }

    #[test]
    fn a_branch_that_is_closed_holds_up_nobody_and_ends_in_an_error() {
        let (fanout, mut branches) = Fanout::new(chunks(&[AHEAD, 1]), 2);
        let [closed, other] = branches.as_mut_slice() else {
            unreachable!("two branches")
        };
        assert_eq!(length(other), AHEAD);
        fanout.close(0);
        assert!(matches!(next(closed), Some(Some(Err(_)))));
        assert_eq!(length(other), 1);
    }

    #[test]
    fn a_failure_is_kept_for_whoever_asks_and_ends_every_branch() {
        let failing = stream::iter([Err(Error::Internal("x".to_owned()))]);
        let (fanout, mut branches) = Fanout::new(failing, 2);
        for branch in &mut branches {
            assert!(matches!(next(branch), Some(Some(Err(_)))));
        }
        assert!(fanout.failure().is_some());
    }
}
