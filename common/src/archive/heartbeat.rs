//! A thread that shows again and again that a run is alive, as long as it is.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::report::message_of;
use crate::store::Key;

/// Between two signs of life.
const INTERVAL: Duration = Duration::from_secs(30);

/// The thread. Dropping it ends it; a sign of life that is being given is waited for.
#[derive(Debug)]
pub(super) struct Heartbeat<News> {
    /// `None` once the thread has been asked to end.
    control: Option<mpsc::Sender<News>>,
    thread: Option<JoinHandle<()>>,
}

impl<News: Send + 'static> Heartbeat<News> {
    /// Calls `beat` every half minute, and at once when there is news, which it gets. It writes the record under `key`;
    /// a failure is a warning, and the next beat comes all the same.
    pub(super) fn start(
        key: Key,
        mut beat: impl FnMut(&Key, Option<News>) -> anyhow::Result<()> + Send + 'static,
    ) -> Self {
        let (control, orders) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            loop {
                let news = match orders.recv_timeout(INTERVAL) {
                    Ok(news) => Some(news),
                    Err(mpsc::RecvTimeoutError::Timeout) => None,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                };
                if let Err(err) = beat(&key, news) {
                    tracing::warn!("cannot renew {key}: {}", message_of(&err));
                }
            }
        });
        Self { control: Some(control), thread: Some(thread) }
    }

    /// Hands news to the next beat, which comes at once.
    pub(super) fn tell(&self, news: News) {
        if let Some(control) = &self.control {
            // The thread only ends after this sender, so sending cannot fail before.
            let _sent = control.send(news).is_ok();
        }
    }
}

impl<News> Drop for Heartbeat<News> {
    fn drop(&mut self) {
        drop(self.control.take());
        if let Some(thread) = self.thread.take() {
            // A panic in that thread has ended the program already, through the panic hook.
            let _ended = thread.join().is_ok();
        }
    }
}
