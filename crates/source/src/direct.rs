//! The direct drain: our own fetch requests to the partitions' leaders.
//!
//! Owns the connections, who leads what, and when to ask for more. librdkafka keeps the group, and its partitions are
//! assigned and paused. Record batches travel on as the broker packed them; they are unpacked on the worker that folds
//! them. Everything here runs on the thread that owns the drain and never waits longer than it is told, so that this
//! thread stays the pipeline's only clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    time::{Duration, Instant},
};

use alluvium_types::{BufferPool, ErrorClass, MemoryBudget, TopicPartition};
use bytes::Bytes;
use kafka_protocol::{
    error::ResponseError,
    messages::{
        ApiKey, BrokerId, FetchRequest, FetchResponse, MetadataRequest, MetadataResponse,
        TopicName,
        fetch_request::{FetchPartition, FetchTopic, ForgottenTopic},
        fetch_response::PartitionData,
        metadata_request::MetadataRequestTopic,
    },
    protocol::StrBytes,
};
use mio::Token;
use uuid::Uuid;

use crate::{
    Halt,
    notice::Notice,
    partition::{LogEnds, Partition},
    state::State,
};

mod codec;
mod connection;
pub(crate) mod feed;
mod link;
mod record_batch;
mod security;
mod session;
pub(crate) mod settings;
pub(crate) mod unpack;

use connection::Connection;
use feed::Placement;
use link::Link;
use session::{Ask, Session};
use settings::Settings;

/// Fetch versions: from the first with record batches to the first with topic ids.
const FETCH: (i16, i16) = (4, 13);
const FETCH_BY_NAME: i16 = 12;
const METADATA: (i16, i16) = (1, 12);

/// How long to wait for a broker while a partition of it is not asked for because enough of it waits.
const SHORT_WAIT: Duration = Duration::from_millis(10);
/// Leaders are looked up again so often even when nobody complains: one that was cut off does not say so.
const REFRESH: Duration = Duration::from_secs(30);
/// Waits between attempts to reach a broker.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The same complaint is made once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

struct Leader {
    link: Link,
    session: Session,
    asked: Option<Asked>,
    /// The broker asks for silence (throttling).
    rest_until: Option<Instant>,
}

/// A fetch request on its way.
struct Asked {
    /// The assignment it was made for, as a number that grows.
    assignment: u64,
    version: i16,
    names: BTreeMap<Uuid, StrBytes>,
}

/// A question for leaders on its way.
struct Lookup {
    link: Link,
    asked: Option<i16>,
}

/// Reads the assigned partitions from their leaders.
pub(crate) struct Fetcher {
    settings: Settings,
    sockets: mio::Poll,
    events: mio::Events,
    buffers: BufferPool,
    memory: MemoryBudget,
    last_token: usize,
    addresses: BTreeMap<i32, String>,
    leaders: BTreeMap<i32, Leader>,
    lookup: Option<Lookup>,
    lookup_after: Option<Instant>,
    refreshed: Option<Instant>,
    failures: u32,
    /// The bootstrap address whose turn it is.
    turn: usize,
    complained: Option<(String, Instant)>,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("settings", &self.settings)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// The name of an error code.
fn error_name(code: i16) -> String {
    ResponseError::try_from_code(code).map_or_else(|| "no error".to_owned(), |e| e.to_string())
}

impl Fetcher {
    /// # Errors
    /// The system has no more descriptors.
    pub(crate) fn new(
        settings: Settings,
        buffers: BufferPool,
        memory: MemoryBudget,
    ) -> io::Result<Self> {
        Ok(Self {
            settings,
            sockets: mio::Poll::new()?,
            events: mio::Events::with_capacity(64),
            buffers,
            memory,
            last_token: 0,
            addresses: BTreeMap::new(),
            leaders: BTreeMap::new(),
            lookup: None,
            lookup_after: None,
            refreshed: None,
            failures: 0,
            turn: 0,
            complained: None,
        })
    }

    /// Sends, receives and asks for more, and waits for a broker no longer than `timeout` if there was nothing to do.
    pub(crate) fn turn(&mut self, state: &mut State, timeout: Duration) -> io::Result<()> {
        if !self.step(state, Instant::now()) && !timeout.is_zero() {
            match self.sockets.poll(&mut self.events, Some(timeout)) {
                Ok(()) => {}
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
            if !self.events.is_empty() {
                self.step(state, Instant::now());
            }
        }
        Ok(())
    }

    /// Whether anything arrived.
    fn step(&mut self, state: &mut State, now: Instant) -> bool {
        let mut arrived = self.drive_lookup(state, now);
        let ids: Vec<i32> = self.leaders.keys().copied().collect();
        for id in ids {
            arrived |= self.drive_leader(id, state, now);
        }
        self.look_up(state, now);
        self.ask_leaders(state, now);
        arrived
    }

    // --- who leads what ---

    /// Begins to ask for leaders when a partition has none, or the last answer is old.
    fn look_up(&mut self, state: &mut State, now: Instant) {
        let homeless = state
            .partitions
            .iter_mut()
            .filter(|partition| partition.halted().is_none())
            .filter_map(Partition::feed)
            .any(|feed| feed.placement.is_none());
        let old = self
            .refreshed
            .is_none_or(|at| now.duration_since(at) >= REFRESH);
        let wanted = homeless || old && !state.partitions.is_empty();
        if !wanted || self.lookup.is_some() || self.lookup_after.is_some_and(|after| now < after) {
            return;
        }
        // Brokers that were named by others first: the bootstrap addresses may be old.
        let known: Vec<String> = self
            .addresses
            .values()
            .chain(&self.settings.bootstrap)
            .cloned()
            .collect();
        let Some(address) = known.get(self.turn % known.len().max(1)) else {
            return;
        };
        self.turn += 1;
        match self.connect(address, now) {
            Ok(link) => self.lookup = Some(Lookup { link, asked: None }),
            Err(cause) => self.failed(address, &cause, state, now),
        }
    }

    fn connect(&mut self, address: &str, now: Instant) -> io::Result<Link> {
        self.last_token += 1;
        let connection = Connection::begin(
            address,
            self.settings.security.tls.as_ref(),
            &self.settings.client_id,
            (self.sockets.registry(), Token(self.last_token)),
            self.buffers.clone(),
            self.memory.clone(),
        )?;
        Link::begin(connection, now + self.settings.patience)
    }

    fn failed(&mut self, address: &str, cause: &io::Error, state: &mut State, now: Instant) {
        let wait = (BACKOFF.0 * 2u32.saturating_pow(self.failures)).min(BACKOFF.1);
        self.failures = (self.failures + 1).min(16);
        self.lookup_after = Some(now + wait);
        let class = match cause.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidData => ErrorClass::Config,
            _ => ErrorClass::Transient,
        };
        self.complain(class, format!("broker {address}: {cause}"), state, now);
    }

    fn complain(&mut self, class: ErrorClass, text: String, state: &mut State, now: Instant) {
        let again = self
            .complained
            .as_ref()
            .is_some_and(|(last, at)| *last == text && now.duration_since(*at) < COMPLAIN_EVERY);
        if !again {
            self.complained = Some((text.clone(), now));
            state.notices.push(Notice::Error { class, text });
        }
    }

    fn drive_lookup(&mut self, state: &mut State, now: Instant) -> bool {
        let Some(mut lookup) = self.lookup.take() else {
            return false;
        };
        let outcome = self.drive_one_lookup(&mut lookup, state, now);
        match outcome {
            Ok(None) => {
                self.lookup = Some(lookup);
                false
            }
            Ok(Some(answer)) => {
                lookup.link.into_connection().end(self.sockets.registry());
                self.placed(&answer, state, now);
                true
            }
            Err(cause) => {
                lookup.link.into_connection().end(self.sockets.registry());
                self.failed("asked for leaders", &cause, state, now);
                true
            }
        }
    }

    fn drive_one_lookup(
        &self,
        lookup: &mut Lookup,
        state: &State,
        now: Instant,
    ) -> io::Result<Option<MetadataResponse>> {
        let sasl = self.settings.security.sasl.as_ref();
        loop {
            if let Some(frame) = lookup.link.drive(sasl, now, true)? {
                let version = lookup
                    .asked
                    .ok_or_else(|| io::Error::other("an answer without a question"))?;
                return lookup.link.answer(frame, version).map(Some);
            }
            if !lookup.link.is_ready() || lookup.asked.is_some() {
                return Ok(None);
            }
            let version = lookup
                .link
                .version(ApiKey::Metadata, METADATA.0, METADATA.1)?;
            let topics: BTreeSet<&str> = state
                .partitions
                .iter()
                .map(|partition| &*partition.name.topic)
                .collect();
            let topics = topics
                .into_iter()
                .map(|topic| MetadataRequestTopic::default().with_name(Some(topic_name(topic))))
                .collect();
            // Before version 4 there is no such wish, and the encoder insists on the default.
            let request = MetadataRequest::default()
                .with_topics(Some(topics))
                .with_allow_auto_topic_creation(version < 4);
            let deadline = now + self.settings.patience;
            lookup
                .link
                .ask(ApiKey::Metadata, version, &request, deadline)?;
            lookup.asked = Some(version);
            // Once more around, so that it goes off at once.
        }
    }

    /// Takes in who leads what.
    fn placed(&mut self, answer: &MetadataResponse, state: &mut State, now: Instant) {
        self.refreshed = Some(now);
        for broker in &answer.brokers {
            let host = &*broker.host;
            let address = if host.contains(':') {
                format!("[{host}]:{}", broker.port)
            } else {
                format!("{host}:{}", broker.port)
            };
            let before = self.addresses.insert(broker.node_id.0, address.clone());
            if before.is_some_and(|before| before != address) {
                self.drop_leader(broker.node_id.0);
            }
        }
        let mut homeless = None;
        for partition in &mut state.partitions {
            let topic = answer.topics.iter().find(|topic| {
                topic
                    .name
                    .as_ref()
                    .is_some_and(|name| *name.0 == *partition.name.topic)
            });
            let (error, id, found) = match topic {
                None => (0, Uuid::nil(), None),
                Some(topic) => (
                    topic.error_code,
                    topic.topic_id,
                    topic
                        .partitions
                        .iter()
                        .find(|found| found.partition_index == partition.name.partition),
                ),
            };
            if partition.halted().is_some() {
                continue;
            }
            let name = partition.name.clone();
            let Some(feed) = partition.feed() else {
                continue;
            };
            if let Some(found) = feed.another(id) {
                let offset = feed.next();
                let halt = Halt::Recreated {
                    topic: name.topic.clone(),
                    offset,
                    found,
                };
                partition.halt(halt.clone());
                state.notices.push(Notice::Halted {
                    partition: name,
                    halt,
                });
                continue;
            }
            let error = found.map_or(error, |found| found.error_code);
            let leader = found.filter(|found| found.leader_id.0 >= 0);
            match leader {
                Some(leader) => {
                    let fresh = Placement {
                        leader: leader.leader_id.0,
                        epoch: leader.leader_epoch,
                    };
                    // An answer can be older than what a leader has told since.
                    if feed
                        .placement
                        .is_none_or(|known| known.epoch <= fresh.epoch)
                    {
                        feed.placement = Some(fresh);
                    }
                }
                None if feed.placement.is_none() => {
                    homeless = Some((name, error));
                }
                None => {}
            }
        }
        match homeless {
            Some((name, error)) => {
                self.lookup_after = Some(now + 2 * BACKOFF.0);
                let text = format!("partition {name} has no leader ({})", error_name(error));
                self.complain(ErrorClass::Transient, text, state, now);
            }
            None => self.lookup_after = None,
        }
    }

    // --- fetching ---

    fn drop_leader(&mut self, id: i32) {
        if let Some(leader) = self.leaders.remove(&id) {
            leader.link.into_connection().end(self.sockets.registry());
        }
    }

    /// Connects to leaders that have none, and asks those that are idle.
    fn ask_leaders(&mut self, state: &mut State, now: Instant) {
        let wanted: BTreeSet<i32> = state
            .partitions
            .iter_mut()
            .filter(|partition| partition.halted().is_none())
            .filter_map(Partition::feed)
            .filter_map(|feed| Some(feed.placement?.leader))
            .collect();
        let idle: Vec<i32> = self
            .leaders
            .iter()
            .filter(|(id, leader)| leader.asked.is_none() && !wanted.contains(id))
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.drop_leader(id);
        }
        for id in wanted {
            if !self.leaders.contains_key(&id) && !self.open_leader(id, state, now) {
                continue;
            }
            if let Err(cause) = self.ask_leader(id, state, now) {
                self.lose_leader(id, &cause, state, now);
            }
        }
    }

    fn open_leader(&mut self, id: i32, state: &mut State, now: Instant) -> bool {
        let Some(address) = self.addresses.get(&id).cloned() else {
            let cause = io::Error::other("nobody knows its address");
            self.lose_leader(id, &cause, state, now);
            return false;
        };
        match self.connect(&address, now) {
            Ok(link) => {
                self.leaders.insert(
                    id,
                    Leader {
                        link,
                        session: Session::new(),
                        asked: None,
                        rest_until: None,
                    },
                );
                true
            }
            Err(cause) => {
                self.lose_leader(id, &cause, state, now);
                false
            }
        }
    }

    /// The connection to a leader is of no use any more: its partitions are looked up again.
    fn lose_leader(&mut self, id: i32, cause: &io::Error, state: &mut State, now: Instant) {
        self.drop_leader(id);
        for partition in &mut state.partitions {
            if let Some(feed) = partition.feed()
                && feed.placement.is_some_and(|placed| placed.leader == id)
            {
                feed.lost(now);
            }
        }
        let address = self
            .addresses
            .get(&id)
            .map_or_else(|| format!("number {id}"), Clone::clone);
        self.failed(&address, cause, state, now);
    }

    fn ask_leader(&mut self, id: i32, state: &mut State, now: Instant) -> io::Result<()> {
        let queued: usize = state
            .partitions
            .iter_mut()
            .filter_map(Partition::feed)
            .map(|feed| feed.bytes())
            .sum();
        let room = self.settings.queue_bytes.saturating_sub(queued);
        let share = self.settings.queue_bytes / state.partitions.len().max(1);
        let assignment = state.generation.0;
        let Some(leader) = self.leaders.get_mut(&id) else {
            return Ok(());
        };
        let resting = leader.rest_until.is_some_and(|until| now < until);
        if !leader.link.is_ready() || leader.asked.is_some() || resting || room == 0 {
            return Ok(());
        }
        let mut wanted: BTreeMap<TopicPartition, Ask> = BTreeMap::new();
        let mut ids: BTreeMap<StrBytes, Uuid> = BTreeMap::new();
        let mut some_are_full = false;
        for partition in &mut state.partitions {
            if partition.halted().is_some() {
                continue;
            }
            let name = partition.name.clone();
            let Some(feed) = partition.feed() else {
                continue;
            };
            ids.insert(StrBytes::from_string(name.topic.to_string()), feed.topic());
            let Some(placement) = feed.placement.filter(|placed| placed.leader == id) else {
                continue;
            };
            if feed.bytes() >= share {
                some_are_full = true;
            } else if feed.asks(now) {
                wanted.insert(name, feed.ask(placement));
            } else {
                some_are_full = true;
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let most = newest_fetch(ids.values());
        let version = leader.link.version(ApiKey::Fetch, FETCH.0, most)?;
        let by_id = version > FETCH_BY_NAME;
        let change = leader.session.ask(wanted, by_id);
        let wait = if some_are_full {
            self.settings.max_wait.min(SHORT_WAIT)
        } else {
            self.settings.max_wait
        };
        let request = fetch_request(&self.settings, room, wait, change, &ids, version);
        leader.link.ask(
            ApiKey::Fetch,
            version,
            &request,
            now + wait + self.settings.patience,
        )?;
        leader.asked = Some(Asked {
            assignment,
            version,
            names: ids.into_iter().map(|(name, id)| (id, name)).collect(),
        });
        // Off it goes at once.
        let sasl = self.settings.security.sasl.as_ref();
        if let Some(frame) = leader.link.drive(sasl, now, true)? {
            self.fetched(id, frame, state, now)?;
        }
        Ok(())
    }

    fn drive_leader(&mut self, id: i32, state: &mut State, now: Instant) -> bool {
        let sasl = self.settings.security.sasl.as_ref();
        let Some(leader) = self.leaders.get_mut(&id) else {
            return false;
        };
        let outcome = match leader.link.drive(sasl, now, leader.asked.is_some()) {
            Ok(None) => return false,
            Ok(Some(frame)) => self.fetched(id, frame, state, now),
            Err(cause) => Err(cause),
        };
        if let Err(cause) = outcome {
            self.lose_leader(id, &cause, state, now);
        }
        true
    }

    /// Takes in a leader's answer.
    fn fetched(
        &mut self,
        id: i32,
        frame: Bytes,
        state: &mut State,
        now: Instant,
    ) -> io::Result<()> {
        let Some(leader) = self.leaders.get_mut(&id) else {
            return Ok(());
        };
        let Some(asked) = leader.asked.take() else {
            return Err(io::Error::other("an answer without a question"));
        };
        let answer: FetchResponse = leader.link.answer(frame, asked.version)?;
        if let Ok(millis) = u64::try_from(answer.throttle_time_ms)
            && millis > 0
        {
            leader.rest_until = Some(now + Duration::from_millis(millis));
        }
        match ResponseError::try_from_code(answer.error_code) {
            None => leader.session.answered(answer.session_id),
            Some(
                ResponseError::FetchSessionIdNotFound
                | ResponseError::InvalidFetchSessionEpoch
                | ResponseError::FetchSessionTopicIdError,
            ) => {
                leader.session.restart();
                return Ok(());
            }
            Some(error) => return Err(io::Error::other(format!("it answers {error}"))),
        }
        self.failures = 0;
        if asked.assignment != state.generation.0 {
            // Of a former assignment: everything is asked for again, from the recorded offsets (P27).
            return Ok(());
        }
        // A partition of the session that the answer leaves out is as it was.
        for partition in &mut state.partitions {
            if leader.session.holds(&partition.name) {
                partition.ends.heard = Some(now);
            }
        }
        for topic in answer.responses {
            let name = if asked.version > FETCH_BY_NAME {
                asked.names.get(&topic.topic_id).cloned()
            } else {
                Some(topic.topic.0)
            };
            let Some(name) = name else { continue };
            for data in topic.partitions {
                self.partition_fetched(id, &name, data, state, now);
            }
        }
        Ok(())
    }

    fn partition_fetched(
        &mut self,
        leader: i32,
        topic: &str,
        mut data: PartitionData,
        state: &mut State,
        now: Instant,
    ) {
        let State {
            partitions,
            notices,
            ..
        } = state;
        let Some(partition) = partitions.iter_mut().find(|partition| {
            partition.name.partition == data.partition_index && *partition.name.topic == *topic
        }) else {
            return;
        };
        if partition.halted().is_some() {
            return;
        }
        let known = |offset: i64| (offset >= 0).then_some(offset);
        let ends = LogEnds {
            low: known(data.log_start_offset),
            stable: known(data.last_stable_offset),
            high: known(data.high_watermark),
            heard: Some(now),
        };
        if data.error_code != 0 {
            // Whoever answers so does not know where the log ends.
            partition.ends.heard = None;
        }
        let name = partition.name.clone();
        let Some(feed) = partition.feed() else {
            return;
        };
        let halt = match ResponseError::try_from_code(data.error_code) {
            None if data.diverging_epoch.end_offset >= 0 => Halt::Truncated {
                offset: feed.next(),
                end: data.diverging_epoch.end_offset,
            },
            None => {
                let whole = feed.receive(&mut data);
                partition.ends = ends;
                if !whole {
                    let text = format!(
                        "partition {name}: a record batch did not fit into a response; asking for more"
                    );
                    self.complain(ErrorClass::Transient, text, state, now);
                }
                return;
            }
            Some(ResponseError::OffsetOutOfRange) => {
                let text = error_name(data.error_code);
                partition.halt_out_of_range(partition.position(), text);
                return;
            }
            Some(
                error @ (ResponseError::NotLeaderOrFollower
                | ResponseError::FencedLeaderEpoch
                | ResponseError::UnknownLeaderEpoch
                | ResponseError::UnknownTopicOrPartition
                | ResponseError::UnknownTopicId
                | ResponseError::InconsistentTopicId
                | ResponseError::LeaderNotAvailable
                | ResponseError::ReplicaNotAvailable
                | ResponseError::KafkaStorageError),
            ) => {
                feed.lost(now);
                let new_leader = &data.current_leader;
                if new_leader.leader_id.0 >= 0
                    && self.addresses.contains_key(&new_leader.leader_id.0)
                {
                    feed.placement = Some(Placement {
                        leader: new_leader.leader_id.0,
                        epoch: new_leader.leader_epoch,
                    });
                }
                tracing::debug!(partition = %name, leader, %error, "the leader has to be looked up");
                return;
            }
            Some(error) => {
                feed.rest(now);
                let class = match error {
                    ResponseError::TopicAuthorizationFailed
                    | ResponseError::GroupAuthorizationFailed
                    | ResponseError::ClusterAuthorizationFailed => ErrorClass::Config,
                    _ => ErrorClass::Transient,
                };
                self.complain(class, format!("partition {name}: {error}"), state, now);
                return;
            }
        };
        partition.halt(halt.clone());
        notices.push(Notice::Halted {
            partition: name,
            halt,
        });
    }
}

/// The newest form of a fetch in which topics of these ids can be asked for. By their ids wherever all are known: a name may stand for
/// another topic by now (P18).
fn newest_fetch<'i>(mut ids: impl Iterator<Item = &'i Uuid>) -> i16 {
    match ids.all(|id| !id.is_nil()) {
        true => FETCH.1,
        false => FETCH_BY_NAME,
    }
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn fetch_request(
    settings: &Settings,
    room: usize,
    wait: Duration,
    change: session::Change,
    ids: &BTreeMap<StrBytes, Uuid>,
    version: i16,
) -> FetchRequest {
    let by_id = version > FETCH_BY_NAME;
    let id = |topic: &str| {
        ids.iter()
            .find(|(name, _)| name.as_str() == topic)
            .map_or_else(Uuid::nil, |(_, id)| *id)
    };
    let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
    for (name, ask) in &change.asked {
        let mut partition = FetchPartition::default()
            .with_partition(name.partition)
            .with_fetch_offset(ask.offset)
            .with_partition_max_bytes(ask.max_bytes);
        if version >= 9 {
            partition = partition.with_current_leader_epoch(ask.leader_epoch);
        }
        if version >= 12 {
            partition = partition.with_last_fetched_epoch(ask.last_epoch);
        }
        topics.entry(&name.topic).or_default().push(partition);
    }
    let mut forgotten: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for name in &change.forgotten {
        forgotten
            .entry(&name.topic)
            .or_default()
            .push(name.partition);
    }
    let topics = topics
        .into_iter()
        .map(|(topic, partitions)| {
            let named = FetchTopic::default().with_partitions(partitions);
            if by_id {
                named.with_topic_id(id(topic))
            } else {
                named.with_topic(topic_name(topic))
            }
        })
        .collect();
    let mut request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(settings.min_bytes)
        .with_max_bytes(
            i32::try_from(room)
                .unwrap_or(i32::MAX)
                .min(settings.response_bytes),
        )
        // Committed records only.
        .with_isolation_level(1)
        .with_topics(topics);
    if version >= 7 {
        let forgotten = forgotten
            .into_iter()
            .map(|(topic, partitions)| {
                let named = ForgottenTopic::default().with_partitions(partitions);
                if by_id {
                    named.with_topic_id(id(topic))
                } else {
                    named.with_topic(topic_name(topic))
                }
            })
            .collect();
        request = request
            .with_session_id(change.id)
            .with_session_epoch(change.epoch)
            .with_forgotten_topics_data(forgotten);
    }
    request
}

#[cfg(test)]
mod tests;
