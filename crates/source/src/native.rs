//! The six things librdkafka offers only in C: a message from a partition's queue, the borrowed
//! fields of its messages, the leader of a place in a list, the ids of topics, and two settings of its mock cluster.
//!
//! Owns every pointer of this crate. Does not own what the messages mean. The one file with
//! `unsafe`: `BaseConsumer::poll` makes one event and one `Arc` a message, and no safe wrapper hands
//! messages out by partition without them.
#![allow(unsafe_code)]

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    ffi::{CStr, CString},
    marker::PhantomData,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
    time::Duration,
};

use alluvium_types::{Timestamp, TopicId, TopicPartition};
use rdkafka::{
    ClientContext, bindings as sys,
    client::Client,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionList,
};

/// The queue of one assigned partition, split off the consumer's.
///
/// It must be dropped before its consumer is: the drain keeps all of them beside the consumer and
/// clears them first. [`consume`](Self::consume) must not run while a rebalance is served; both
/// happen on the one thread that owns the drain.
#[derive(Debug)]
pub(crate) struct PartitionQueue(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues are locked inside and may be used from any thread.
unsafe impl Send for PartitionQueue {}

impl PartitionQueue {
    /// Messages taken at once, at most.
    pub(crate) const BATCH: usize = 1024;

    /// Splits the partition's queue off. Done before the partition is assigned, so that no record
    /// of it ever reaches the consumer's queue. `None` when the topic's name holds a zero byte.
    pub(crate) fn split<C: ConsumerContext>(
        consumer: &BaseConsumer<C>,
        partition: &TopicPartition,
    ) -> Option<Self> {
        let topic = CString::new(&*partition.topic).ok()?;
        // SAFETY: the client lives as long as the borrow of `consumer`; the topic's name is copied
        // by librdkafka. The returned queue is a reference of our own, given back in `drop`.
        let queue = unsafe {
            sys::rd_kafka_queue_get_partition(
                consumer.client().native_ptr(),
                topic.as_ptr(),
                partition.partition,
            )
        };
        let queue = NonNull::new(queue)?;
        // SAFETY: `queue` was just obtained; a null destination ends forwarding, and marks the
        // queue so that `assign` does not forward it again (rdkafka_partition.c, fetch start).
        unsafe { sys::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut()) };
        Some(Self(queue))
    }

    /// Moves at most `count` messages that are there now to the end of `into`, without waiting.
    /// Messages of an older assignment are left out by librdkafka.
    ///
    /// One call for each: where a batch ends at the end of the partition, `rd_kafka_consume_batch_queue` (2.12) takes the place
    /// behind the next record for what was read, under leader 0, and when the leader changes it says that the log was cut off there.
    pub(crate) fn consume(&self, count: usize, into: &mut VecDeque<Message>) {
        // SAFETY: the queue is alive as long as `self`; the message is null or owned by the caller.
        let next = || NonNull::new(unsafe { sys::rd_kafka_consume_queue(self.0.as_ptr(), 0) });
        into.extend(std::iter::from_fn(next).take(count).map(Message));
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the reference obtained in `split`, given back once.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

/// A record, or an error, of one partition. Its bytes lie in librdkafka's fetch buffer.
#[derive(Debug)]
pub(crate) struct Message(NonNull<sys::rd_kafka_message_t>);

// SAFETY: the message is owned by this value alone; librdkafka lets any thread destroy it.
unsafe impl Send for Message {}

impl Message {
    fn fields(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: filled by `rd_kafka_consume_queue`, not changed by anybody since, and
        // valid until `drop`.
        unsafe { self.0.as_ref() }
    }

    /// The record's offset; for an error the offset it is about.
    pub(crate) fn offset(&self) -> i64 {
        self.fields().offset
    }

    /// The error this message stands for; `None` for a record.
    pub(crate) fn error(&self) -> Option<RDKafkaErrorCode> {
        match self.fields().err {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => None,
            err => Some(err.into()),
        }
    }

    /// Whether an error is about a log that was cut off. librdkafka gives it the code of a partition without a place to go on from, and
    /// tells the cause in words only.
    pub(crate) fn says_cut_off(&self) -> bool {
        let code = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__LOG_TRUNCATION;
        // SAFETY: returns a string that lives as long as the program.
        let words = unsafe { CStr::from_ptr(sys::rd_kafka_err2str(code)) };
        self.error_text().contains(&*words.to_string_lossy())
    }

    /// The words of an error.
    pub(crate) fn error_text(&self) -> String {
        // SAFETY: returns null or a string that lives as long as the message.
        let text = unsafe { sys::rd_kafka_message_errstr(self.0.as_ptr()) };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: not null, ends with zero, copied before the message goes.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    }

    /// The leader under whom the record was written; `None` where the broker does not tell, and for an error, of which librdkafka
    /// says nothing that means anything.
    pub(crate) fn leader_epoch(&self) -> Option<i32> {
        if self.error().is_some() {
            return None;
        }
        // SAFETY: the message is alive and was made by librdkafka for a record.
        let epoch = unsafe { sys::rd_kafka_message_leader_epoch(self.0.as_ptr()) };
        (epoch >= 0).then_some(epoch)
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        let fields = self.fields();
        // SAFETY: `key` is null or points to `key_len` bytes that live as long as the message.
        unsafe { bytes(fields.key, fields.key_len) }
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        let fields = self.fields();
        // SAFETY: `payload` is null or points to `len` bytes that live as long as the message.
        unsafe { bytes(fields.payload, fields.len) }
    }

    /// Bytes of key and value.
    pub(crate) fn size(&self) -> usize {
        self.fields().len + self.fields().key_len
    }

    /// The record's timestamp, whoever set it.
    pub(crate) fn timestamp(&self) -> Option<Timestamp> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, `kind` is written before the call returns.
        let millis = unsafe { sys::rd_kafka_message_timestamp(self.0.as_ptr(), &mut kind) };
        (kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && millis >= 0)
            .then(|| Timestamp::from_millis(millis))
    }

    /// The record's headers, in order. Names that are not UTF-8 are shown with replacement
    /// characters.
    pub(crate) fn headers(&self) -> Vec<(Cow<'_, str>, Option<&[u8]>)> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive; on success `headers` lives as long as the message.
        let found = unsafe { sys::rd_kafka_message_headers(self.0.as_ptr(), &mut headers) };
        let mut list = Vec::new();
        if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return list;
        }
        loop {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: `headers` was filled above; the three pointers are written on success and
            // point into the message.
            let found = unsafe {
                sys::rd_kafka_header_get_all(headers, list.len(), &mut name, &mut value, &mut size)
            };
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return list;
            }
            // SAFETY: as above: a string that ends with zero, and null or `size` bytes.
            list.push(unsafe {
                (
                    CStr::from_ptr(name).to_string_lossy(),
                    bytes(value.cast_mut(), size),
                )
            });
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: owned by this value, given back once.
        unsafe { sys::rd_kafka_message_destroy(self.0.as_ptr()) };
    }
}

/// Says under which leader the record before the place was written, for the last place of a list.
pub(crate) fn set_last_leader_epoch(list: &mut TopicPartitionList, epoch: i32) {
    // SAFETY: the list is alive and borrowed alone; its elements are an array of `cnt`, of which the last is changed.
    unsafe {
        let list = &*list.ptr();
        if let Ok(last) = usize::try_from(list.cnt - 1) {
            sys::rd_kafka_topic_partition_set_leader_epoch(list.elems.add(last), epoch);
        }
    }
}

/// Null, or `length` bytes.
///
/// # Safety
/// `start` is null or points to `length` bytes that live and do not change for `'a`.
unsafe fn bytes<'a>(start: *mut std::ffi::c_void, length: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { slice::from_raw_parts(start.cast::<u8>().cast_const(), length) })
}

/// The ids of topics, as a broker says; `None`: it is too old to give any. A topic that it does not
/// know, or may not show, is left out.
pub(crate) type TopicIds = BTreeMap<Arc<str>, Option<TopicId>>;

/// A question for the ids of topics, on its way.
///
/// It must be dropped before its client is, as [`PartitionQueue`].
#[derive(Debug)]
pub(crate) struct TopicQuestion(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues are locked inside and may be used from any thread.
unsafe impl Send for TopicQuestion {}

impl TopicQuestion {
    /// Sends it to this broker; an answer or an error comes within about `timeout`. Creates no topic.
    pub(crate) fn ask<C: ClientContext>(
        client: &Client<C>,
        broker: i32,
        topics: &[Arc<str>],
        timeout: Duration,
    ) -> Result<Self, KafkaError> {
        let refused = |what: &str| KafkaError::Subscription(what.to_owned());
        let names: Vec<CString> = topics
            .iter()
            .map(|topic| CString::new(&**topic))
            .collect::<Result<_, _>>()
            .map_err(|_| refused("a topic's name holds a zero byte"))?;
        let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let none = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let mut text = [0; 256];
        let words = (text.as_mut_ptr(), text.len());
        // SAFETY: the client is alive and copies the names, which live until the end of this function.
        // Options and list are made and destroyed here. The queue is a reference of our own, given
        // back in `drop`.
        unsafe {
            let rk = client.native_ptr();
            let queue = NonNull::new(sys::rd_kafka_queue_new(rk)).map(Self);
            let queue = queue.ok_or_else(|| refused("there is no queue for the answer"))?;
            let options = sys::rd_kafka_AdminOptions_new(rk, operation);
            // To a broker that we choose: librdkafka's own choice is the controller, which a reader need not reach.
            let mut err = sys::rd_kafka_AdminOptions_set_broker(options, broker, words.0, words.1);
            if err == none {
                err = sys::rd_kafka_AdminOptions_set_request_timeout(
                    options, millis, words.0, words.1,
                );
            }
            if err == none {
                let (names, count) = (pointers.as_mut_ptr(), pointers.len());
                let list = sys::rd_kafka_TopicCollection_of_topic_names(names, count);
                sys::rd_kafka_DescribeTopics(rk, list, options, queue.0.as_ptr());
                sys::rd_kafka_TopicCollection_destroy(list);
            }
            sys::rd_kafka_AdminOptions_destroy(options);
            if err == none {
                Ok(queue)
            } else {
                Err(KafkaError::MetadataFetch(err.into()))
            }
        }
    }

    /// The answer if it comes within `wait`; `None`: not yet. It is given once.
    pub(crate) fn answer(&self, wait: Duration) -> Option<Result<TopicIds, KafkaError>> {
        let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue lives as long as `self`. The event is ours and destroyed once, after what
        // hangs on it was copied; only the answer to our question comes to this queue.
        unsafe {
            let event = NonNull::new(sys::rd_kafka_queue_poll(self.0.as_ptr(), millis))?;
            let answer = read_topics(event);
            sys::rd_kafka_event_destroy(event.as_ptr());
            Some(answer)
        }
    }
}

impl Drop for TopicQuestion {
    fn drop(&mut self) {
        // SAFETY: the reference obtained in `ask`, given back once.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

/// # Safety
/// `event` is alive and the answer to a question for topics.
unsafe fn read_topics(event: NonNull<sys::rd_kafka_event_t>) -> Result<TopicIds, KafkaError> {
    let none = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: the caller's promise; everything read hangs on the event and is copied.
    unsafe {
        let err = sys::rd_kafka_event_error(event.as_ptr());
        if err != none {
            return Err(KafkaError::MetadataFetch(err.into()));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.as_ptr());
        if result.is_null() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let mut ids = TopicIds::new();
        for at in 0..count {
            let topic = *topics.add(at);
            let error = sys::rd_kafka_TopicDescription_error(topic);
            if !error.is_null() && sys::rd_kafka_error_code(error) != none {
                continue;
            }
            let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic));
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            let id = TopicId::from_halves(
                sys::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned(),
                sys::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned(),
            );
            ids.insert(name.to_string_lossy().into(), id);
        }
        Ok(ids)
    }
}

/// The mock cluster inside a client, for the settings that rust-rdkafka does not wrap.
pub(crate) struct MockSettings<'c> {
    cluster: NonNull<sys::rd_kafka_mock_cluster_t>,
    _client: PhantomData<&'c ()>,
}

impl<'c> MockSettings<'c> {
    /// `None` when the client has no mock cluster.
    pub(crate) fn of<C: ClientContext>(client: &'c Client<C>) -> Option<Self> {
        // SAFETY: the client is alive; its mock cluster lives exactly as long.
        let cluster = unsafe { sys::rd_kafka_handle_mock_cluster(client.native_ptr()) };
        Some(Self {
            cluster: NonNull::new(cluster)?,
            _client: PhantomData,
        })
    }

    /// How long a group waits for further members before its first assignment.
    pub(crate) fn first_rebalance_after(&self, delay: Duration) {
        let millis = i32::try_from(delay.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the cluster lives for `'c`; the call locks it.
        unsafe {
            sys::rd_kafka_mock_group_initial_rebalance_delay_ms(self.cluster.as_ptr(), millis);
        }
    }

    /// Lets the first broker tell clients that it is to be found at `127.0.0.1:port`.
    pub(crate) fn advertise(&self, port: u16) {
        // SAFETY: the cluster lives for `'c`; the call locks it and copies the host's name.
        unsafe {
            sys::rd_kafka_mock_broker_set_host_port(
                self.cluster.as_ptr(),
                1,
                c"127.0.0.1".as_ptr(),
                port.into(),
            );
        }
    }
}
