//! Pulls jobs while there is room for them in the spool, those of the highest priority first.
//!
//! A work queue has no priorities of its own: each priority has a consumer. While there are jobs they are asked for
//! one priority after the other, without waiting. When there are none, one request per priority waits on the server;
//! what comes too much is given back at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::{AckKind, Message};
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::job::look_after;
use super::layout::JOBS;
use super::names::Priority;
use super::shared::{Mode, Shared};

type Jobs = Pin<Box<pull::Batch>>;

/// A request that waits is made anew after so long.
const LONG: Duration = Duration::from_secs(30);
/// What the server may take to say that there is nothing.
const SHORT: Duration = Duration::from_secs(5);
/// After an error.
const PAUSE: Duration = Duration::from_secs(2);
/// How often it is looked whether the connection is a new one, on which the server knows of no requests.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The puller of one bridge.
pub struct Puller {
    shared: Arc<Shared>,
    /// Places for jobs in the spool.
    places: Arc<Semaphore>,
    consumers: Vec<Consumer<pull::Config>>,
    /// Requests that wait on the server, by priority.
    waiting: [Option<Jobs>; 3],
    /// Connections so far, when the requests were made.
    connects: u64,
}

impl Puller {
    pub fn new(shared: Arc<Shared>, places: Arc<Semaphore>) -> Self {
        Self { shared, places, consumers: Vec::new(), waiting: [None, None, None], connects: 0 }
    }

    /// Pulls until the bridge ends.
    pub async fn run(mut self) {
        let mut has_complained = false;
        loop {
            let shared = Arc::clone(&self.shared);
            let mode = shared.wait_for_mode(|mode| matches!(mode, Mode::Pulling | Mode::Ending)).await;
            if mode != Mode::Pulling {
                return;
            }
            let Some(first) = self.place().await else { return };
            let mut places = vec![first];
            while let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                places.push(place);
            }
            let done = self.round(places).await;
            if self.shared.mode() != Mode::Pulling {
                // What waits on the server would be sent to nobody.
                while let Some(Some(message)) = self.next_waiting().now_or_never() {
                    let _ = message.ack_with(AckKind::Nak(None)).await;
                }
                self.waiting = [None, None, None];
            }
            match done {
                Ok(()) => has_complained = false,
                Err(reason) => {
                    if !has_complained {
                        tracing::warn!("no jobs are pulled: {reason}");
                        has_complained = true;
                    }
                    self.consumers.clear();
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// A place for a job. What comes before there is one is for another device.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        let places = Arc::clone(&self.places);
        let place = places.acquire_owned();
        tokio::pin!(place);
        loop {
            tokio::select! {
                place = &mut place => return place.ok(),
                message = self.next_waiting() => {
                    if let Some(message) = message {
                        let _ = message.ack_with(AckKind::Nak(None)).await;
                    }
                }
            }
        }
    }

    /// Pulls once, for as many jobs as there are places.
    async fn round(&mut self, mut places: Vec<OwnedSemaphorePermit>) -> Result<(), String> {
        self.find_consumers().await?;
        let n_places = places.len();
        // What came while there was no room.
        while let Some(Some(message)) = self.next_waiting().now_or_never() {
            self.start(message, &mut places).await;
        }
        for at in 0..self.consumers.len() {
            if places.is_empty() {
                return Ok(());
            }
            let fetched = self.consumers[at].fetch().max_messages(places.len()).messages().await;
            let mut jobs = fetched.map_err(|error| error.to_string())?;
            while let Some(message) = timeout(SHORT, jobs.next()).await.map_err(|_| "no answer".to_owned())? {
                let message = message.map_err(|error| error.to_string())?;
                self.start(message, &mut places).await;
            }
        }
        if places.len() == n_places {
            self.wait(&mut places).await?;
        }
        Ok(())
    }

    /// Waits for one job of any priority, or until there is something else to do.
    async fn wait(&mut self, places: &mut Vec<OwnedSemaphorePermit>) -> Result<(), String> {
        for (waiting, consumer) in self.waiting.iter_mut().zip(&self.consumers) {
            if waiting.is_none() {
                let batch = consumer.batch().max_messages(1).expires(LONG).messages().await;
                *waiting = Some(Box::pin(batch.map_err(|error| error.to_string())?));
            }
        }
        let shared = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                message = self.next_waiting() => {
                    if let Some(message) = message {
                        self.start(message, places).await;
                    }
                    return Ok(());
                }
                _ = shared.wait_for_mode(|mode| mode != Mode::Pulling) => return Ok(()),
                () = sleep(LOOK_EVERY) => {}
            }
            let statistics = self.shared.publisher.connection.client.statistics();
            let connects = statistics.connects.load(Ordering::Relaxed);
            if connects != self.connects {
                self.connects = connects;
                self.waiting = [None, None, None];
                return Ok(());
            }
        }
    }

    /// The next job of a waiting request, the highest priority first; none when a request has ended.
    fn next_waiting(&mut self) -> impl Future<Output = Option<Message>> {
        let waiting = &mut self.waiting;
        std::future::poll_fn(move |context| {
            let mut has_ended = false;
            for slot in waiting.iter_mut() {
                let Some(jobs) = slot else { continue };
                match jobs.as_mut().poll_next(context) {
                    Poll::Ready(Some(Ok(message))) => return Poll::Ready(Some(message)),
                    Poll::Ready(Some(Err(_)) | None) => {
                        *slot = None;
                        has_ended = true;
                    }
                    Poll::Pending => {}
                }
            }
            if has_ended { Poll::Ready(None) } else { Poll::Pending }
        })
    }

    async fn start(&self, message: Message, places: &mut Vec<OwnedSemaphorePermit>) {
        match places.pop().or_else(|| Arc::clone(&self.places).try_acquire_owned().ok()) {
            Some(place) if self.shared.mode() == Mode::Pulling => {
                tokio::spawn(look_after(Arc::clone(&self.shared), message, place));
            }
            _ => {
                let _ = message.ack_with(AckKind::Nak(None)).await;
            }
        }
    }

    async fn find_consumers(&mut self) -> Result<(), String> {
        if !self.consumers.is_empty() {
            return Ok(());
        }
        let jetstream = &self.shared.publisher.connection.jetstream;
        for priority in Priority::ALL {
            let name = self.shared.settings.model.consumer(priority);
            let consumer = jetstream.get_consumer_from_stream(&name, JOBS).await;
            let consumer = consumer.map_err(|error| {
                format!("the consumer {name} of {JOBS} is not to be had: {error}; see `jetspool bridge init`")
            })?;
            self.shared.set_ack_wait(consumer.cached_info().config.ack_wait);
            self.consumers.push(consumer);
        }
        Ok(())
    }
}
