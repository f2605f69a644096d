//! The Flight SQL door as its clients meet it, over a real socket.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_plan::Publisher;
use alluvium_query::{Limits, QueryEngine};
use alluvium_serve::{
    Users,
    flight::{Door, serve},
};
use alluvium_store::{Store, StoreRules};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightClient,
    FlightData, FlightInfo,
    error::FlightError,
    sql::{
        CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo,
        SqlInfo, client::FlightSqlServiceClient,
    },
};
use datafusion::arrow::{
    array::{AsArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Int64Type, Schema},
    util::pretty::pretty_format_batches,
};
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, oneshot},
    task::JoinHandle,
};
use tonic::{Code, Request, transport::Channel};

use common::clicks;

const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000000) a, generate_series(1, 1000000000) b WHERE a.value + b.value < 0";
/// Tests with long answers take turns: one of them looks at the memory of the process.
static LONG_ANSWERS: Mutex<()> = Mutex::const_new(());
const LONG: &str =
    "SELECT value, repeat('x', 1000) AS text FROM generate_series(1, 9000000) AS t(value)";

type Client = FlightSqlServiceClient<Channel>;

struct House {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl House {
    async fn open() -> Self {
        Self::with(Limits::default(), 10).await
    }

    async fn with(limits: Limits, clients: usize) -> Self {
        let store = Store::over(Arc::new(InMemory::new()), StoreRules::default());
        let publisher = Arc::new(Publisher::default());
        publisher.publish(&"clicks".into(), clicks());
        let engine = QueryEngine::new(store, Some(publisher), None, limits).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(
            listener,
            Door {
                engine,
                users: Users::new(&BTreeMap::new()),
                tls: None,
                clients,
            },
            async {
                let _ = stopped.await;
            },
        ));
        Self {
            address,
            stop,
            server,
        }
    }

    async fn channel(&self) -> Channel {
        let endpoint = format!("http://{}", self.address);
        Channel::from_shared(endpoint)
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    async fn client(&self) -> Client {
        FlightSqlServiceClient::new(self.channel().await)
    }
}

async fn rows(client: &mut Client, info: FlightInfo) -> Result<Vec<RecordBatch>, FlightError> {
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let stream = client.do_get(ticket).await?;
    stream.try_collect().await
}

async fn ask(client: &mut Client, sql: &str) -> Result<Vec<RecordBatch>, FlightError> {
    let info = client.execute(sql.into(), None).await?;
    rows(client, info).await
}

fn shown(batches: &[RecordBatch]) -> String {
    pretty_format_batches(batches).unwrap().to_string()
}

fn number(batches: &[RecordBatch]) -> i64 {
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap();
    batch.column(0).as_primitive::<Int64Type>().value(0)
}

/// What the server said, which the client wraps in an error of its own.
fn said<T: std::fmt::Debug>(result: Result<T, impl std::fmt::Debug>) -> String {
    format!("{:?}", result.unwrap_err())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_announced_and_fetched() {
    let house = House::open().await;
    let mut client = house.client().await;
    let sql = "SELECT country, clicks, arrow_cast('x', 'Utf8View') AS view, arrow_cast('y', 'Dictionary(Int32, Utf8)') AS word FROM clicks";
    let info = client.execute(sql.into(), None).await.unwrap();
    let announced = info.clone().try_decode_schema().unwrap();
    let batches = rows(&mut client, info).await.unwrap();
    assert_eq!(*batches[0].schema(), announced);
    let types: Vec<_> = announced
        .fields()
        .iter()
        .map(|field| field.data_type().clone())
        .collect();
    assert_eq!(
        types,
        [
            DataType::Utf8,
            DataType::Int64,
            DataType::Utf8,
            DataType::Utf8
        ]
    );
    assert!(
        shown(&batches).contains("| CH      | 3      | x    | y    |"),
        "{}",
        shown(&batches)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_what_they_include_and_headers_how_to_read() {
    let house = House::open().await;
    for (header, clicks, offset) in [
        (None, 1, 13),
        (Some("fresh"), 1, 13),
        (Some("committed"), 0, 10),
    ] {
        let mut client = house.client().await;
        if let Some(header) = header {
            client.set_header("alluvium-read", header);
        }
        let info = client
            .execute("SELECT clicks FROM clicks".into(), None)
            .await
            .unwrap();
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let answer = client
            .inner_mut()
            .do_get(ticket)
            .await
            .unwrap()
            .into_inner();
        let messages: Vec<FlightData> = answer.try_collect().await.unwrap();
        let expected: serde_json::Value = serde_json::json!({"clicks/0": offset});
        for message in [&messages[0], messages.last().unwrap()] {
            let as_of: serde_json::Value = serde_json::from_slice(&message.app_metadata).unwrap();
            assert_eq!(
                as_of["tables"]["public.clicks"]["offsets"], expected,
                "{header:?}"
            );
        }
        let count = ask(&mut client, "SELECT count(*) FROM clicks")
            .await
            .unwrap();
        assert_eq!(number(&count), clicks, "{header:?}");
        let mode = ask(&mut client, "SHOW alluvium.read").await.unwrap();
        assert!(shown(&mode).contains(header.unwrap_or("fresh")));
    }
    let mut client = house.client().await;
    client.set_header("alluvium-read", "stale");
    assert!(said(ask(&mut client, "SELECT 1").await).contains("fresh or committed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_a_code_and_advice() {
    let house = House::open().await;
    let mut client = house.client().await;
    for (sql, code, words) in [
        ("SELECT * FROM click", "NotFound", "did you mean clicks?"),
        (
            "SELECT click FROM clicks",
            "InvalidArgument",
            "did you mean clicks?",
        ),
        ("SELEC 1", "InvalidArgument", "line 1, column 1"),
        (
            "INSERT INTO clicks VALUES (1)",
            "Unimplemented",
            "use SELECT",
        ),
        ("COPY (SELECT 1) TO '/tmp/x'", "Unimplemented", "use SELECT"),
        (
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "Unimplemented",
            "",
        ),
        (
            "SET alluvium.read = 'committed'",
            "Unimplemented",
            "alluvium-read",
        ),
        ("SHOW alluvium.as_of", "Unimplemented", "app_metadata"),
        ("SELECT 1 / 0", "InvalidArgument", "by zero"),
    ] {
        let text = said(ask(&mut client, sql).await);
        assert!(text.contains(code) && text.contains(words), "{sql}: {text}");
    }
    let update = client
        .execute_update("DELETE FROM clicks".into(), None)
        .await;
    assert!(said(update).contains("use SELECT"));
    let query = client.execute_update("SELECT 1".into(), None).await;
    assert!(said(query).contains("execute it as one"));
    let transaction = client.begin_transaction().await;
    assert!(said(transaction).contains("only reads"));
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_take_parameters() {
    let house = House::open().await;
    let mut client = house.client().await;
    let sql = "SELECT clicks + ? FROM clicks WHERE country = ? AND window_start < ?";
    let mut prepared = client.prepare(sql.into(), None).await.unwrap();
    let wanted = prepared.parameter_schema().unwrap();
    let types: Vec<_> = wanted
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    assert_eq!(types, ["Int64", "Utf8", "Timestamp(µs, \"UTC\")"]);
    assert_eq!(prepared.dataset_schema().unwrap().fields().len(), 1);
    let unbound = prepared.execute().await.unwrap();
    assert!(said(rows(&mut client, unbound).await).contains("$1"));
    // Values of other types than announced become what is wanted.
    let columns = [
        (
            "a",
            Arc::new(datafusion::arrow::array::Int32Array::from(vec![4])) as _,
        ),
        ("b", Arc::new(StringArray::from(vec!["CH"])) as _),
        (
            "c",
            Arc::new(
                datafusion::arrow::array::TimestampNanosecondArray::from(vec![
                    1_893_456_000_000_000_000,
                ])
                .with_timezone("UTC"),
            ) as _,
        ),
    ];
    prepared
        .set_parameters(RecordBatch::try_from_iter(columns).unwrap())
        .unwrap();
    for _ in 0..2 {
        let info = prepared.execute().await.unwrap();
        assert_eq!(number(&rows(&mut client, info).await.unwrap()), 7);
    }
    let two =
        RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1, 2])) as _)]).unwrap();
    prepared.set_parameters(two).unwrap();
    assert!(said(prepared.execute().await).contains("one row of parameters"));
    prepared.close().await.unwrap();
    assert!(
        said(
            client
                .prepare("SELECT * FROM click".into(), None)
                .await
                .map(|_| ())
        )
        .contains("did you mean clicks?")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_can_be_asked() {
    let house = House::open().await;
    let mut client = house.client().await;
    let info = client.get_catalogs().await.unwrap();
    assert!(shown(&rows(&mut client, info).await.unwrap()).contains("alluvium"));
    let all = CommandGetDbSchemas {
        catalog: None,
        db_schema_filter_pattern: None,
    };
    let info = client.get_db_schemas(all).await.unwrap();
    let schemas = shown(&rows(&mut client, info).await.unwrap());
    for schema in ["public", "panes", "dead_letters", "system"] {
        assert!(schemas.contains(schema), "{schemas}");
    }
    let info = client.get_table_types().await.unwrap();
    assert!(shown(&rows(&mut client, info).await.unwrap()).contains("TABLE"));
    for include_schema in [false, true] {
        let wanted = CommandGetTables {
            catalog: Some("alluvium".into()),
            db_schema_filter_pattern: Some("pub%".into()),
            table_name_filter_pattern: Some("click_".into()),
            table_types: vec!["TABLE".into()],
            include_schema,
        };
        let info = client.get_tables(wanted).await.unwrap();
        let announced = info.clone().try_decode_schema().unwrap();
        let tables = rows(&mut client, info).await.unwrap();
        assert_eq!(*tables[0].schema(), announced);
        assert_eq!(tables[0].num_rows(), 1);
        assert_eq!(tables[0].column(2).as_string::<i32>().value(0), "clicks");
        if include_schema {
            let bytes = tables[0].column(4).as_binary::<i32>().value(0).to_vec();
            let schema = Schema::try_from(arrow_flight::IpcMessage(bytes.into())).unwrap();
            let names: Vec<_> = schema
                .fields()
                .iter()
                .map(|field| field.name().as_str())
                .collect();
            assert_eq!(names[..3], ["window_start", "window_end", "country"]);
        }
    }
    let keys = |table: &str| CommandGetPrimaryKeys {
        catalog: None,
        db_schema: None,
        table: table.into(),
    };
    let info = client.get_primary_keys(keys("clicks")).await.unwrap();
    let found = rows(&mut client, info).await.unwrap();
    let columns = found[0].column(3).as_string::<i32>();
    assert_eq!(
        columns.iter().flatten().collect::<Vec<_>>(),
        ["window_start", "country"]
    );
    let info = client.get_primary_keys(keys("nothing")).await.unwrap();
    let none = rows(&mut client, info).await.unwrap();
    assert!(none.iter().all(|batch| batch.num_rows() == 0));
    let info = client
        .get_sql_info(vec![
            SqlInfo::FlightSqlServerName,
            SqlInfo::FlightSqlServerReadOnly,
        ])
        .await
        .unwrap();
    let facts = rows(&mut client, info).await.unwrap();
    assert_eq!(facts[0].num_rows(), 2);
    assert!(shown(&facts).contains("Alluvium"));
    let types = CommandGetXdbcTypeInfo { data_type: None };
    let info = client.get_xdbc_type_info(types).await.unwrap();
    assert!(shown(&rows(&mut client, info).await.unwrap()).contains("timestamp"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shakes_hands_gets_a_token() {
    let house = House::open().await;
    let mut client = house.client().await;
    client.handshake("analyst", "anything").await.unwrap();
    assert!(client.token().is_some());
    assert_eq!(number(&ask(&mut client, "SELECT 1").await.unwrap()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_cancelled_by_its_ticket_and_by_going_away() {
    let _alone = LONG_ANSWERS.lock().await;
    let limits = Limits {
        concurrent: 1,
        ..Limits::default()
    };
    let house = House::with(limits, 10).await;
    // Before its first rows, and with rows that nobody reads.
    for sql in [ENDLESS, LONG] {
        let mut client = house.client().await;
        let info = client.execute(sql.into(), None).await.unwrap();
        let (mut asking, fetched) = (client.clone(), info.clone());
        let (begun, beginning) = oneshot::channel();
        let fetching = tokio::spawn(async move {
            let ticket = fetched.endpoint[0].ticket.clone().unwrap();
            let stream = match sql == LONG {
                true => {
                    let mut stream = asking.do_get(ticket).await.unwrap();
                    stream.next().await.unwrap().unwrap();
                    begun.send(()).unwrap();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    stream
                }
                false => {
                    begun.send(()).unwrap();
                    asking.do_get(ticket).await?
                }
            };
            stream.try_collect::<Vec<_>>().await
        });
        beginning.await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let asked = Instant::now();
        let request = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
        let cancel = || Request::new(Action::new("CancelFlightInfo", request.clone()));
        let answer = client.inner_mut().do_action(cancel()).await.unwrap();
        let answer = answer.into_inner().try_next().await.unwrap().unwrap();
        let result = CancelFlightInfoResult::decode(answer.body).unwrap();
        assert_eq!(result.status(), CancelStatus::Cancelled, "{sql}");
        // Its place, the only one, is free.
        assert_eq!(number(&ask(&mut client, "SELECT 5").await.unwrap()), 5);
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "{:?}",
            asked.elapsed()
        );
        assert!(said(fetching.await.unwrap()).contains("cancelled"), "{sql}");
        let again = client.inner_mut().do_action(cancel()).await.unwrap();
        let again = again.into_inner().try_next().await.unwrap().unwrap();
        let result = CancelFlightInfoResult::decode(again.body).unwrap();
        assert_eq!(result.status(), CancelStatus::NotCancellable);
    }
    // A client that goes while it waits.
    let mut client = house.client().await;
    let info = client.execute(ENDLESS.into(), None).await.unwrap();
    let gone = tokio::time::timeout(Duration::from_millis(300), rows(&mut client, info)).await;
    assert!(gone.is_err());
    let asked = Instant::now();
    assert_eq!(number(&ask(&mut client, "SELECT 6").await.unwrap()), 6);
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_who_go_in_the_middle_leave_nothing_behind() {
    let _alone = LONG_ANSWERS.lock().await;
    let limits = Limits {
        concurrent: 2,
        ..Limits::default()
    };
    let house = House::with(limits, 10).await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    for turn in 0..100 {
        let mut client = house.client().await;
        let info = client.execute(LONG.into(), None).await.unwrap();
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let mut stream = client.do_get(ticket).await.unwrap();
        let first = stream.next().await.unwrap();
        assert!(first.is_ok(), "{turn}: {first:?}");
    }
    let mut client = house.client().await;
    assert_eq!(number(&ask(&mut client, "SELECT 7").await.unwrap()), 7);
    drop(client);
    let patience = Instant::now();
    while tasks() > before {
        assert!(
            patience.elapsed() < Duration::from_secs(5),
            "{} tasks",
            tasks()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_the_query_back() {
    let _alone = LONG_ANSWERS.lock().await;
    let house = House::open().await;
    let mut client = house.client().await;
    let info = client.execute(LONG.into(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut stream = client.do_get(ticket).await.unwrap();
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    stream.next().await.unwrap().unwrap();
    let before = resident();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = resident().saturating_sub(before);
    // The answer has nine gigabytes.
    assert!(grown < 100 << 20, "{} MiB", grown >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_are_let_in_and_only_so_much() {
    let house = House::with(Limits::default(), 1).await;
    let mut first = house.client().await;
    assert_eq!(number(&ask(&mut first, "SELECT 1").await.unwrap()), 1);
    let mut second = house.client().await;
    assert!(said(ask(&mut second, "SELECT 1").await).contains("too many clients"));
    let mut flight = FlightClient::new(house.channel().await);
    let refused = flight.handshake("x").await.unwrap_err();
    assert!(
        matches!(refused, FlightError::Tonic(status) if status.code() == Code::ResourceExhausted)
    );
    // Nobody waits for those who say nothing, or something else.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(house.address).await.unwrap());
    }
    let mut other = TcpStream::connect(house.address).await.unwrap();
    other
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = other.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    let long = format!("SELECT '{}'", "x".repeat(600 << 10));
    assert!(said(ask(&mut first, &long).await).contains("too large"));
    assert_eq!(number(&ask(&mut first, "SELECT 2").await.unwrap()), 2);
    drop((first, silent));
    // Its place is free when it has gone.
    let patience = Instant::now();
    loop {
        let mut next = house.client().await;
        if ask(&mut next, "SELECT 3").await.is_ok() {
            break;
        }
        assert!(patience.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_closes_while_a_client_reads() {
    let _alone = LONG_ANSWERS.lock().await;
    let house = House::open().await;
    let mut client = house.client().await;
    let info = client.execute(LONG.into(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut stream = client.do_get(ticket).await.unwrap();
    stream.next().await.unwrap().unwrap();
    house.stop.send(()).unwrap();
    let rest = said(stream.try_collect::<Vec<_>>().await);
    assert!(rest.contains("cancelled"), "{rest}");
    drop(client);
    let ended = tokio::time::timeout(Duration::from_secs(6), house.server).await;
    ended.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_ticket_opens_nothing() {
    let house = House::open().await;
    let mut client = house.client().await;
    let mut info = client.execute("SELECT 1".into(), None).await.unwrap();
    info.endpoint[0].ticket = Some(arrow_flight::Ticket::new("anything"));
    assert!(rows(&mut client, info).await.is_err());
}
