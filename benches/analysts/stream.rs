//! A producer that hardly costs anything: record batches are made and packed once, and sent again and again at a fixed rate.
//!
//! Owns the bytes of a record batch and of a produce request, because a client that handles each event would take the core
//! that the measured server needs. Does not own what an event is.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, UNIX_EPOCH},
};

/// Requests a second; each has one batch for every partition.
const PULSE: usize = 50;

/// One record batch without its time, as Kafka takes it: version 2, lz4.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    events: usize,
}

/// Where in a batch its fields stand.
const LENGTH: usize = 8;
const CHECKSUM: usize = 17;
const ATTRIBUTES: usize = 21;
const FIRST_TIME: usize = 27;
const LAST_TIME: usize = 35;

impl Batch {
    pub(crate) fn of(events: &[String]) -> Self {
        let mut records = Vec::new();
        for (number, event) in events.iter().enumerate() {
            let mut record = vec![0]; // attributes
            put_varint(&mut record, 0); // time, from the batch's
            put_varint(&mut record, number as i64);
            put_varint(&mut record, -1); // no key
            put_varint(&mut record, event.len() as i64);
            record.extend_from_slice(event.as_bytes());
            put_varint(&mut record, 0); // headers
            put_varint(&mut records, record.len() as i64);
            records.append(&mut record);
        }
        let mut packed = lz4::EncoderBuilder::new()
            .block_mode(lz4::BlockMode::Independent)
            .build(Vec::new())
            .unwrap();
        packed.write_all(&records).unwrap();
        let (packed, ended) = packed.finish();
        ended.unwrap();

        let mut bytes = Vec::new();
        bytes.extend(0_i64.to_be_bytes()); // the broker says where it begins
        bytes.extend(0_i32.to_be_bytes()); // its length, below
        bytes.extend((-1_i32).to_be_bytes()); // leader epoch
        bytes.push(2); // version
        bytes.extend(0_u32.to_be_bytes()); // its checksum, when it is sent
        bytes.extend(3_i16.to_be_bytes()); // lz4
        bytes.extend((events.len() as i32 - 1).to_be_bytes());
        bytes.extend([0; 16]); // first and last time, when it is sent
        bytes.extend((-1_i64).to_be_bytes()); // no producer id
        bytes.extend((-1_i16).to_be_bytes());
        bytes.extend((-1_i32).to_be_bytes());
        bytes.extend((events.len() as i32).to_be_bytes());
        bytes.extend(packed);
        let length = (bytes.len() - LENGTH - 4) as i32;
        bytes[LENGTH..LENGTH + 4].copy_from_slice(&length.to_be_bytes());
        Self {
            bytes,
            events: events.len(),
        }
    }

    /// Appends it as of a moment.
    fn put(&self, now: i64, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend_from_slice(&self.bytes);
        let batch = &mut to[start..];
        batch[FIRST_TIME..FIRST_TIME + 8].copy_from_slice(&now.to_be_bytes());
        batch[LAST_TIME..LAST_TIME + 8].copy_from_slice(&now.to_be_bytes());
        let checksum = crc_fast::crc32_iscsi(&batch[ATTRIBUTES..]);
        batch[CHECKSUM..CHECKSUM + 4].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// A number in zigzag and seven bits a byte.
fn put_varint(to: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    while rest >= 0x80 {
        to.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as i16).to_be_bytes());
    to.extend_from_slice(text.as_bytes());
}

/// A connection to the one broker, which leads every partition.
pub(crate) struct Producer {
    socket: TcpStream,
    topic: String,
}

impl Producer {
    pub(crate) fn new(brokers: &str, topic: &str) -> Self {
        let socket = TcpStream::connect(brokers).unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            topic: topic.to_owned(),
        }
    }

    /// Sends one batch to each partition, from 0 on, and waits until the broker has them.
    pub(crate) fn send(&mut self, batches: &[&Batch]) -> usize {
        let now = UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
        let mut request = vec![0; 4];
        request.extend(0_i16.to_be_bytes()); // Produce
        request.extend(7_i16.to_be_bytes());
        request.extend(1_i32.to_be_bytes()); // correlation
        put_text(&mut request, "bench");
        request.extend((-1_i16).to_be_bytes()); // no transaction
        request.extend(1_i16.to_be_bytes()); // acks
        request.extend(30_000_i32.to_be_bytes());
        request.extend(1_i32.to_be_bytes());
        put_text(&mut request, &self.topic);
        request.extend((batches.len() as i32).to_be_bytes());
        for (partition, batch) in batches.iter().enumerate() {
            request.extend((partition as i32).to_be_bytes());
            request.extend((batch.bytes.len() as i32).to_be_bytes());
            batch.put(now, &mut request);
        }
        let length = (request.len() - 4) as i32;
        request[..4].copy_from_slice(&length.to_be_bytes());
        self.socket.write_all(&request).unwrap();

        let mut length = [0; 4];
        self.socket.read_exact(&mut length).unwrap();
        let mut reply = vec![0; i32::from_be_bytes(length) as usize];
        self.socket.read_exact(&mut reply).unwrap();
        // Correlation, one topic and its name, the partitions; of each its number and its error come first.
        let mut at = 4 + 4 + 2 + self.topic.len() + 4;
        for _ in batches {
            let error = i16::from_be_bytes([reply[at + 4], reply[at + 5]]);
            assert_eq!(error, 0, "Kafka's code for what it says of a batch");
            at += 4 + 2 + 8 + 8 + 8;
        }
        batches.iter().map(|batch| batch.events).sum()
    }
}

/// Events that flow at a fixed rate until they are stopped.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Stream {
    /// `batch(number, events)` makes one; their ring is sent round and round. Returns when the ring is made.
    pub(crate) fn start(
        mut producer: Producer,
        partitions: usize,
        per_second: usize,
        batch: impl Fn(usize, usize) -> Batch,
    ) -> Self {
        let events = (per_second / PULSE / partitions).max(1);
        let ring: Vec<Batch> = (0..16 * partitions)
            .map(|number| batch(number, events))
            .collect();
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (halt, count): (_, Arc<AtomicU64>) = (stop.clone(), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let begin = Instant::now();
            let mut round = 0_usize;
            while !halt.load(Ordering::Relaxed) {
                let due = Duration::from_secs(1) * round as u32 / PULSE as u32;
                thread::sleep(due.saturating_sub(begin.elapsed()));
                let at = round * partitions % ring.len();
                let batches: Vec<&Batch> = ring[at..at + partitions].iter().collect();
                let sent = producer.send(&batches);
                count.fetch_add(sent as u64, Ordering::Relaxed);
                round += 1;
            }
        });
        Self { stop, sent, thread }
    }

    /// Events that the broker has.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}
