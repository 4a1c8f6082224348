//! What is said of a call that did its work: at most one line for PostgreSQL's log.

use common::archive::segments::Put;

use crate::deliver::Delivery;
use crate::request::Request;

/// Says what somebody should know; nothing where all is as usual.
pub(crate) fn say(request: &Request, deliveries: &[Delivery]) {
    let aside: Vec<String> = deliveries
        .iter()
        .filter_map(|delivery| match &delivery.put {
            Put::SetAside(key) => Some(format!("{key} in {}", delivery.place)),
            Put::Stored | Put::AlreadyThere => None,
        })
        .collect();
    if aside.is_empty() {
        tracing::debug!("archived {}", request.name);
    } else {
        tracing::warn!(
            "{} was archived before with different contents, as when two standbys are promoted; this one is kept as {}",
            request.name,
            aside.join(", ")
        );
    }
}
