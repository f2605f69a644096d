//! Cancelling: a second connection names the first one by number and secret, and what that runs ends.
//!
//! Owns who is connected. A number that nobody has, or with another secret, changes nothing and says nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
};

use async_trait::async_trait;
use pgwire::{
    api::cancel::CancelHandler,
    messages::{cancel::CancelRequest, startup::SecretKey},
};
use rand::RngCore;
use tokio::sync::watch;

/// Everybody who is connected. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Connected(Arc<Inner>);

#[derive(Default)]
struct Inner {
    last: AtomicI32,
    entries: Mutex<HashMap<i32, Entry>>,
}

struct Entry {
    secret: SecretKey,
    orders: watch::Sender<()>,
}

/// One connection's place; it is free again when this is dropped.
pub(super) struct Place {
    pub(super) number: i32,
    pub(super) secret: SecretKey,
    orders: watch::Receiver<()>,
    connected: Connected,
}

/// Resolves when what began with it is to end.
pub(super) struct Cancelled(watch::Receiver<()>);

impl Connected {
    pub(super) fn enter(&self) -> Place {
        let number = self.0.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut bytes = [0; 4];
        rand::rng().fill_bytes(&mut bytes);
        let secret = SecretKey::I32(i32::from_be_bytes(bytes));
        let (orders, ordered) = watch::channel(());
        let entry = Entry {
            secret: secret.clone(),
            orders,
        };
        self.entries().insert(number, entry);
        Place {
            number,
            secret,
            orders: ordered,
            connected: self.clone(),
        }
    }

    /// Ends whatever runs.
    pub(super) fn cancel_all(&self) {
        for entry in self.entries().values() {
            entry.orders.send_replace(());
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Entry>> {
        // Entries come and go whole.
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connected.entries().remove(&self.number);
    }
}

impl Place {
    /// For a statement that begins now: orders from before do not count.
    pub(super) fn begin(&self) -> Cancelled {
        let mut orders = self.orders.clone();
        orders.mark_unchanged();
        Cancelled(orders)
    }
}

impl Cancelled {
    /// Never resolves when nobody orders it.
    pub(super) async fn ordered(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[async_trait]
impl CancelHandler for Connected {
    async fn on_cancel_request(&self, request: CancelRequest) {
        if let Some(entry) = self.entries().get(&request.pid)
            && entry.secret.eq_value(&request.secret_key)
        {
            entry.orders.send_replace(());
        }
    }
}
