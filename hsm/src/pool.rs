//! Worker threads behind one bounded queue: the only way async code reaches a blocking HSM call.
//!
//! Each thread owns its state `W`. A job that panics costs that state and nothing else. A caller that
//! gives up never stops a job that has started; a job whose caller is gone before the start is skipped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::error::HsmError;

enum Job<W> {
    Run(Box<dyn FnOnce(&mut W) + Send>),
    Stop(oneshot::Sender<()>),
}

type Queue<W> = Arc<Mutex<mpsc::Receiver<Job<W>>>>;

/// A fixed set of worker threads. They end when the pool is dropped or stopped.
pub(crate) struct Pool<W> {
    queue: mpsc::Sender<Job<W>>,
    workers: usize,
    deadline: Duration,
}

impl<W: 'static> Pool<W> {
    /// Starts `workers` threads, each with its own `make()`, in front of a queue of `queue` places.
    pub(crate) fn start(
        workers: usize,
        queue: usize,
        deadline: Duration,
        make: impl Fn() -> W + Clone + Send + 'static,
    ) -> Result<Self, HsmError> {
        let workers = workers.max(1);
        let (sender, receiver) = mpsc::channel(queue.max(1));
        let receiver: Queue<W> = Arc::new(Mutex::new(receiver));
        for index in 0..workers {
            let (receiver, make) = (Arc::clone(&receiver), make.clone());
            std::thread::Builder::new()
                .name(format!("hsm-{index}"))
                .spawn(move || serve(&receiver, make))
                .map_err(HsmError::StartWorker)?;
        }
        Ok(Self {
            queue: sender,
            workers,
            deadline,
        })
    }

    /// Runs `work` on a worker. The deadline covers waiting in the queue and the work itself.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut W) -> Result<T, HsmError> + Send + 'static,
    ) -> Result<T, HsmError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |worker: &mut W| {
            if !reply.is_closed() {
                // A caller that has given up meanwhile needs no answer; secrets in it wipe themselves.
                reply.send(work(worker)).ok();
            }
        });
        let answered = async {
            self.queue
                .send(Job::Run(job))
                .await
                .map_err(|_| HsmError::Closed)?;
            // A reply dropped without an answer: the job panicked, or all workers have ended.
            answer.await.map_err(|_| {
                if self.queue.is_closed() {
                    HsmError::Closed
                } else {
                    HsmError::Abandoned
                }
            })?
        };
        tokio::time::timeout(self.deadline, answered)
            .await
            .map_err(|_| HsmError::Deadline)?
    }

    /// Ends every worker after the jobs already queued, within the deadline.
    pub(crate) async fn stop(&self) -> Result<(), HsmError> {
        let stopped = async {
            for _ in 0..self.workers {
                let (done, answer) = oneshot::channel();
                self.queue
                    .send(Job::Stop(done))
                    .await
                    .map_err(|_| HsmError::Closed)?;
                answer.await.map_err(|_| HsmError::Abandoned)?;
            }
            Ok(())
        };
        tokio::time::timeout(self.deadline, stopped)
            .await
            .map_err(|_| HsmError::Deadline)?
    }
}

fn serve<W>(queue: &Queue<W>, make: impl Fn() -> W) {
    let mut worker = make();
    loop {
        // One idle worker waits in the queue, the others at the lock.
        let job = queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        match job {
            Some(Job::Run(job)) => {
                if catch_unwind(AssertUnwindSafe(|| job(&mut worker))).is_err() {
                    tracing::error!("an hsm operation panicked; its sessions are replaced");
                    worker = make();
                }
            }
            Some(Job::Stop(done)) => {
                drop(worker);
                done.send(()).ok();
                return;
            }
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::Pool;
    use crate::error::{ErrorClass, HsmError};

    fn pool(workers: usize, queue: usize, deadline_ms: u64) -> Pool<u32> {
        Pool::start(workers, queue, Duration::from_millis(deadline_ms), || 0).unwrap()
    }

    #[tokio::test]
    async fn a_full_queue_answers_at_the_deadline_and_recovers() {
        let pool = Arc::new(pool(1, 1, 300));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let blocked = {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.run(move |_| Ok(held.recv().ok())).await })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        let started = Instant::now();
        let (queued, unqueued) = tokio::join!(pool.run(|_| Ok(())), pool.run(|_| Ok(())));
        assert_eq!(queued.unwrap_err().kind(), ErrorClass::Deadline);
        assert_eq!(unqueued.unwrap_err().kind(), ErrorClass::Deadline);
        assert!(started.elapsed() < Duration::from_secs(3));
        assert!(matches!(blocked.await.unwrap(), Err(HsmError::Deadline)));
        release.send(()).unwrap();
        assert_eq!(pool.run(|_| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_job_whose_caller_gave_up_is_never_started() {
        let pool = pool(1, 4, 300);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let started = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&started);
        let (first, second) = tokio::join!(
            pool.run(move |_| Ok(held.recv().ok())),
            pool.run(move |_| Ok(counter.fetch_add(1, Ordering::SeqCst)))
        );
        assert!(matches!(
            (first, second),
            (Err(HsmError::Deadline), Err(HsmError::Deadline))
        ));
        release.send(()).unwrap();
        pool.run(|_| Ok(())).await.unwrap();
        assert_eq!(started.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_panic_costs_one_workers_state_and_nothing_else() {
        let pool = pool(1, 4, 2000);
        pool.run(|state| {
            *state = 5;
            Ok(())
        })
        .await
        .unwrap();
        let panicked = pool
            .run(|_| -> Result<(), HsmError> { panic!("on purpose") })
            .await;
        assert!(matches!(panicked, Err(HsmError::Abandoned)));
        assert_eq!(pool.run(|state| Ok(*state)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_stopped_pool_is_closed() {
        let pool = pool(3, 4, 2000);
        pool.stop().await.unwrap();
        assert!(matches!(pool.run(|_| Ok(())).await, Err(HsmError::Closed)));
    }
}
