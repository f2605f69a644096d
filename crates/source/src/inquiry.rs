//! Questions to a broker outside any group: partitions, ids, the log's ends, offsets by time (P15).
//!
//! Owns one short-lived client a call. Does not own what is done with the answers.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use alluvium_types::{Timestamp, TopicId, TopicPartition};
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    client::{Client, OAuthToken},
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use crate::{
    Broker, SourceError,
    assignment::log_line,
    native::TopicQuestion,
    token::{Tokens, generate},
};

/// Keeps the last complaint of a client, which says more than "timed out", and shows tokens.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    last: Mutex<Option<String>>,
    tokens: Option<Tokens>,
    /// Whether the client has asked for a token yet.
    shown: AtomicBool,
}

impl Complaint {
    pub(crate) fn new(broker: &Broker) -> Self {
        Self {
            tokens: broker.tokens(),
            ..Self::default()
        }
    }
}

/// How long a client may take to ask for its first token, which it does at once.
const FIRST_TOKEN: Duration = Duration::from_secs(1);

/// Lets a client that nobody polls ask for a token, when it needs one.
pub(crate) fn show_token(client: &BaseConsumer<Complaint>) {
    let context = client.context();
    let deadline = Instant::now() + FIRST_TOKEN;
    while context.tokens.is_some()
        && !context.shown.load(Ordering::Relaxed)
        && Instant::now() < deadline
    {
        client.poll(Duration::from_millis(5));
    }
}

impl ClientContext for Complaint {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.shown.store(true, Ordering::Relaxed);
        generate(self.tokens.as_ref()).inspect_err(|error| {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        })
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, text: &str) {
        log_line(level, fac, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut complaint = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // That all brokers are down says less than why one is.
        if complaint.is_none()
            || error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown)
        {
            *complaint = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Complaint {}

/// How long an answer that tells of a timeout may itself take.
const GRACE: Duration = Duration::from_millis(500);

struct Inquiry<'b> {
    broker: &'b Broker,
    client: BaseConsumer<Complaint>,
    deadline: Instant,
}

impl<'b> Inquiry<'b> {
    fn open(broker: &'b Broker, timeout: Duration) -> Result<Self, SourceError> {
        let mut config = broker.config();
        config.set("allow.auto.create.topics", "false");
        // The end of what can be read is also the end that a committed reader reaches.
        config.set("isolation.level", "read_committed");
        let client = broker.create(&config, Complaint::new(broker))?;
        show_token(&client);
        Ok(Self {
            broker,
            client,
            deadline: Instant::now() + timeout,
        })
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn unanswered(&self, question: impl Into<String>, cause: KafkaError) -> SourceError {
        unanswered(self.broker, &self.client, question.into(), cause)
    }
}

/// An error with the client's last complaint.
pub(crate) fn unanswered(
    broker: &Broker,
    client: &BaseConsumer<Complaint>,
    question: String,
    cause: KafkaError,
) -> SourceError {
    // Complaints wait in the client's queue behind lines of its log, one a turn.
    for _ in 0..32 {
        client.poll(Duration::ZERO);
    }
    let context = client.context();
    let hint = context
        .last
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    SourceError::Unanswered {
        brokers: broker.brokers.clone(),
        question,
        cause,
        hint,
    }
}

fn code_of(err: RDKafkaRespErr) -> KafkaError {
    KafkaError::MetadataFetch(err.into())
}

/// How many partitions each topic has; `None`: there is no such topic. Creates no topic.
///
/// # Errors
/// [`SourceError::Unanswered`] when no broker answers in time or refuses the question.
pub fn partition_counts(
    broker: &Broker,
    topics: &[Arc<str>],
    timeout: Duration,
) -> Result<BTreeMap<Arc<str>, Option<i32>>, SourceError> {
    let inquiry = Inquiry::open(broker, timeout)?;
    let mut counts = BTreeMap::new();
    for topic in topics {
        let question = || format!("the partitions of topic {topic}");
        let metadata = inquiry
            .client
            .fetch_metadata(Some(topic), inquiry.remaining())
            .map_err(|cause| inquiry.unanswered(question(), cause))?;
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == &**topic);
        let count = match found.map(|found| (found.error(), found.partitions().len())) {
            None | Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART), _)) => None,
            Some((Some(err), _)) => return Err(inquiry.unanswered(question(), code_of(err))),
            Some((None, count)) => Some(i32::try_from(count).unwrap_or(i32::MAX)),
        };
        counts.insert(Arc::clone(topic), count);
    }
    Ok(counts)
}

/// A broker to ask about these topics: one that leads a partition of the first, as a reader is connected to it anyway.
pub(crate) fn broker_of<C: ClientContext>(
    client: &Client<C>,
    topics: &[Arc<str>],
    timeout: Duration,
) -> Result<i32, KafkaError> {
    let metadata = client.fetch_metadata(topics.first().map(|topic| &**topic), timeout)?;
    let leader = metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
        .map(|partition| partition.leader())
        .find(|leader| *leader >= 0);
    leader
        .or_else(|| Some(metadata.brokers().first()?.id()))
        .ok_or(KafkaError::MetadataFetch(
            RDKafkaErrorCode::BrokerNotAvailable,
        ))
}

/// The ids that the broker gives these topics (P18). A topic that there is not, and every topic of a broker
/// that is too old to give ids, is left out. Creates no topic.
///
/// # Errors
/// [`SourceError::Unanswered`] when no broker answers in time or refuses the question.
pub fn topic_ids(
    broker: &Broker,
    topics: &[Arc<str>],
    timeout: Duration,
) -> Result<BTreeMap<Arc<str>, TopicId>, SourceError> {
    let inquiry = Inquiry::open(broker, timeout)?;
    let refused = |cause| inquiry.unanswered("the ids of its topics", cause);
    let client = inquiry.client.client();
    let question = broker_of(client, topics, inquiry.remaining())
        .and_then(|broker| TopicQuestion::ask(client, broker, topics, inquiry.remaining()))
        .map_err(refused)?;
    // The answer comes soon after its deadline at the latest, and says then that it is too late.
    let answer = question
        .answer(inquiry.remaining() + GRACE)
        .unwrap_or(Err(KafkaError::MetadataFetch(
            RDKafkaErrorCode::RequestTimedOut,
        )))
        .map_err(refused)?;
    Ok(answer
        .into_iter()
        .filter_map(|(topic, id)| Some((topic, id?)))
        .collect())
}

/// Where each partition's log begins, and where the part that can be read ends.
///
/// # Errors
/// [`SourceError::UnknownPartition`], or [`SourceError::Unanswered`] when a partition's leader does
/// not answer in time.
pub fn log_bounds(
    broker: &Broker,
    partitions: &[TopicPartition],
    timeout: Duration,
) -> Result<BTreeMap<TopicPartition, (i64, i64)>, SourceError> {
    let inquiry = Inquiry::open(broker, timeout)?;
    partitions
        .iter()
        .map(|partition| Ok((partition.clone(), bounds(&inquiry, partition)?)))
        .collect()
}

fn bounds(inquiry: &Inquiry<'_>, partition: &TopicPartition) -> Result<(i64, i64), SourceError> {
    inquiry
        .client
        .fetch_watermarks(&partition.topic, partition.partition, inquiry.remaining())
        .map_err(|cause| match cause.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition,
            ) => SourceError::UnknownPartition(partition.clone()),
            _ => inquiry.unanswered(format!("the log's ends of partition {partition}"), cause),
        })
}

/// The first offset of each partition whose record is not older than `time`; the log's end where
/// there is none.
///
/// # Errors
/// As [`log_bounds`].
pub fn offsets_at(
    broker: &Broker,
    partitions: &[TopicPartition],
    time: Timestamp,
    timeout: Duration,
) -> Result<BTreeMap<TopicPartition, i64>, SourceError> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let inquiry = Inquiry::open(broker, timeout)?;
    let question = || format!("the offsets at {time}");
    // Kafka's clock has milliseconds: round up, or a record before `time` would come too. Times
    // before 1970 mean the log's beginning; below zero Kafka reads orders, not times.
    let millis = time.micros().max(0).div_euclid(1000)
        + i64::from(time.micros().max(0).rem_euclid(1000) != 0);
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(
            &partition.topic,
            partition.partition,
            Offset::Offset(millis),
        )
        .map_err(|cause| inquiry.unanswered(question(), cause))?;
    }
    let found = inquiry
        .client
        .offsets_for_times(list, inquiry.remaining())
        .map_err(|cause| inquiry.unanswered(question(), cause))?;
    partitions
        .iter()
        .map(|partition| {
            let element = found
                .find_partition(&partition.topic, partition.partition)
                .ok_or_else(|| SourceError::UnknownPartition(partition.clone()))?;
            element
                .error()
                .map_err(|cause| inquiry.unanswered(question(), cause))?;
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                // No record is that young.
                _ => bounds(&inquiry, partition)?.1,
            };
            Ok((partition.clone(), offset))
        })
        .collect()
}
