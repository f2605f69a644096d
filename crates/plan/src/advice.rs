//! What to do about a key that does not belong where it stands. Owns where each key does belong.

use crate::{
    hints::{meant_key, synonym},
    reader::Keys,
    written::{pipeline, schema, server},
};

/// Every map of fixed keys and where it stands.
const PLACES: &[(&str, &[&str])] = &[
    (pipeline::Pipeline::PLACE, pipeline::Pipeline::KEYS),
    (pipeline::Source::PLACE, pipeline::Source::KEYS),
    (pipeline::Kafka::PLACE, pipeline::Kafka::KEYS),
    (pipeline::Decode::PLACE, pipeline::Decode::KEYS),
    (pipeline::JsonDecode::PLACE, pipeline::JsonDecode::KEYS),
    (pipeline::EventTime::PLACE, pipeline::EventTime::KEYS),
    (pipeline::Accept::PLACE, pipeline::Accept::KEYS),
    (pipeline::Table::PLACE, pipeline::Table::KEYS),
    (pipeline::Window::PLACE, pipeline::Window::KEYS),
    (pipeline::DeadLetters::PLACE, pipeline::DeadLetters::KEYS),
    (pipeline::Test::PLACE, pipeline::Test::KEYS),
    (schema::EventSchema::PLACE, schema::EventSchema::KEYS),
    (server::ServerFile::PLACE, server::ServerFile::KEYS),
    (server::Storage::PLACE, server::Storage::KEYS),
    (server::Connections::PLACE, server::Connections::KEYS),
    (server::Kafka::PLACE, server::Kafka::KEYS),
    (server::Tls::PLACE, server::Tls::KEYS),
    (server::Sasl::PLACE, server::Sasl::KEYS),
    (server::Listen::PLACE, server::Listen::KEYS),
    (server::DoorTls::PLACE, server::DoorTls::KEYS),
    (server::User::PLACE, server::User::KEYS),
    (server::Role::PLACE, server::Role::KEYS),
    (server::RoleQuery::PLACE, server::RoleQuery::KEYS),
    (server::Memory::PLACE, server::Memory::KEYS),
];

/// What to do about a key that is not one of `known`.
pub(crate) fn for_key(key: &str, place: &str, known: &[&str]) -> String {
    let synonym = synonym(key);
    match meant_key(key, known) {
        Some(meant) if Some(meant) == synonym => return format!("here it is called `{meant}`"),
        Some(meant) => return format!("did you mean `{meant}`?"),
        None => {}
    }
    // Only places of the same file can be meant.
    let file = PLACES
        .iter()
        .position(|(name, _)| *name == place)
        .map_or(0, file_of);
    let elsewhere = |key: &str| {
        PLACES
            .iter()
            .enumerate()
            .find(|(at, (name, keys))| {
                file_of(*at) == file && *name != place && keys.contains(&key)
            })
            .map(|(_, (name, _))| *name)
    };
    if let Some(where_) = elsewhere(key) {
        return format!("`{key}` belongs {where_}: look at the indentation");
    }
    if let Some((ours, where_)) = synonym.and_then(|ours| Some((ours, elsewhere(ours)?))) {
        return format!("it is called `{ours}` and belongs {where_}");
    }
    match known {
        [] => String::new(),
        known => format!("known keys are {}", known.join(", ")),
    }
}

/// Which file a place belongs to: pipeline, schema or server.
fn file_of(position: usize) -> usize {
    match position {
        0..=10 => 1,
        11 => 2,
        _ => 3,
    }
}
