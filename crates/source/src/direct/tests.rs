//! What the fetcher does between brokers' answers, without a broker.

use kafka_protocol::messages::metadata_response::{
    MetadataResponsePartition, MetadataResponseTopic,
};

use super::{feed::Feed, *};
use crate::Recorded;

const TOPIC: &str = "clicks";

fn fetcher() -> Fetcher {
    let properties = BTreeMap::from([("bootstrap.servers".to_owned(), "127.0.0.1:9".to_owned())]);
    let settings = Settings::read(&properties, 1 << 20, 1).unwrap();
    Fetcher::new(settings, BufferPool::new(1), MemoryBudget::new(1 << 20)).unwrap()
}

#[test]
fn it_waits_where_there_is_nothing_to_do() {
    let timeout = Duration::from_millis(20);
    let started = Instant::now();
    fetcher().turn(&mut State::default(), timeout).unwrap();
    assert!(started.elapsed() >= timeout, "it would never rest");
}

#[test]
fn a_leader_is_followed_and_an_older_answer_is_not() {
    let name = TopicPartition::new(TOPIC, 0);
    let feed = Feed::starting_at(Recorded::at(0), 1 << 20);
    let mut state = State {
        partitions: vec![Partition::fetched(name, feed, 0)],
        ..State::default()
    };
    let mut fetcher = fetcher();
    for (told, epoch, followed) in [(1, 5, 1), (2, 4, 1), (3, 6, 3), (4, 6, 4)] {
        let partition = MetadataResponsePartition::default()
            .with_leader_id(BrokerId(told))
            .with_leader_epoch(epoch);
        let topic = MetadataResponseTopic::default()
            .with_name(Some(topic_name(TOPIC)))
            .with_partitions(vec![partition]);
        let answer = MetadataResponse::default().with_topics(vec![topic]);
        fetcher.placed(&answer, &mut state, Instant::now());
        let placement = state.partitions[0].feed().unwrap().placement.unwrap();
        assert_eq!(placement.leader, followed, "told {told} in epoch {epoch}");
    }
}

#[test]
fn topics_are_asked_for_by_their_ids_when_all_are_known() {
    let id = Uuid::from_u64_pair(1, 2);
    assert_eq!(newest_fetch([id, id].iter()), FETCH.1);
    assert_eq!(newest_fetch([id, Uuid::nil()].iter()), FETCH_BY_NAME);
    assert!(FETCH_BY_NAME < FETCH.1);
}
