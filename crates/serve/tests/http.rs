//! The HTTP door as its clients meet it, over a real socket.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alluvium_plan::{MemoryEpoch, PipelineState, Publisher, StatusBoard};
use alluvium_query::{Limits, QueryEngine};
use alluvium_serve::{
    Users,
    http::{Door, serve},
};
use alluvium_store::{Store, StoreRules};
use alluvium_types::{Epoch, OffsetRange, TopicPartition};
use datafusion::arrow::ipc::reader::StreamReader;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot};

use common::clicks;

struct House {
    address: String,
    client: Client,
    publisher: Arc<Publisher>,
    status: Arc<StatusBoard>,
    live: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl House {
    async fn open(limits: Limits) -> Self {
        let store = Store::over(Arc::new(InMemory::new()), StoreRules::default());
        let publisher = Arc::new(Publisher::default());
        publisher.publish(&"clicks".into(), clicks());
        let status = Arc::new(StatusBoard::default());
        let live = Arc::new(AtomicBool::new(true));
        let alive = live.clone();
        let door = Door {
            engine: QueryEngine::new(store, Some(publisher.clone()), Some(status.clone()), limits)
                .unwrap(),
            users: Users::new(&BTreeMap::new()),
            tls: None,
            status: status.clone(),
            metrics: Arc::new(|| Ok("alluvium_up 1\n".into())),
            live: Arc::new(move || match alive.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err("intake has not moved for 60 s".into()),
            }),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, door, async {
            let _ = stopped.await;
        }));
        Self {
            address,
            client: Client::new(),
            publisher,
            status,
            live,
            stop: Some(stop),
            server,
        }
    }

    async fn ask(&self, path: &str, accept: &str, body: Value) -> Response {
        self.client
            .post(format!("{}{path}", self.address))
            .header("accept", accept)
            .body(body.to_string())
            .send()
            .await
            .unwrap()
    }

    async fn sql(&self, sql: &str) -> Response {
        self.ask("/v1/sql", "application/json", json!({ "sql": sql }))
            .await
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self
            .client
            .get(format!("{}{path}", self.address))
            .send()
            .await
            .unwrap();
        (response.status(), response.text().await.unwrap())
    }
}

async fn refused(response: Response) -> (u16, String, String, Option<String>) {
    let status = response.status().as_u16();
    let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    let error = &body["error"];
    let text = |name: &str| error[name].as_str().map(str::to_owned);
    (
        status,
        text("code").unwrap(),
        text("message").unwrap(),
        text("hint"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_its_columns_rows_and_what_it_includes() {
    let house = House::open(Limits::default()).await;
    let response = house.sql("SELECT * FROM clicks").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        body["rows"],
        json!([{
            "window_start": "2026-03-01T12:00:00Z", "window_end": "2026-03-01T12:01:00Z", "country": "CH",
            "final": false, "clicks": 3
        }])
    );
    assert_eq!(
        body["columns"][4],
        json!({ "name": "clicks", "type": "Int64" })
    );
    let as_of =
        json!({ "version": 4, "offsets": { "clicks/0": 13 }, "watermark": null, "epochs": [1] });
    assert_eq!(body["as_of"]["tables"]["public.clicks"], as_of);
    let committed = json!({ "sql": "SELECT count(*) AS n FROM clicks", "read": "committed" });
    let body: Value = house
        .ask("/v1/sql", "*/*", committed)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(body["rows"], json!([{ "n": 0 }]));
    let typed = json!({
        "sql": "SELECT $1 AS t, $2 + 1 AS i, $3 * 2 AS f, $4 AS b, $5 AS n, 1.5::decimal(10,2) AS d, \
                arrow_cast('foo', 'Binary') AS x WHERE $1 = 'O''Brien'",
        "params": ["O'Brien", 41, 1.25, true, null]
    });
    let body: Value = house
        .ask("/v1/sql", "*/*", typed)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        body["rows"],
        json!([{ "t": "O'Brien", "i": 42, "f": 2.5, "b": true, "n": null, "d": "1.50", "x": "Zm9v" }])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_carries_the_same_rows() {
    let house = House::open(Limits::default()).await;
    let sql = json!({ "sql": "SELECT value AS v, value::text AS t FROM generate_series(1, 20000) ORDER BY v" });
    let csv = house.ask("/v1/sql", "text/csv", sql.clone()).await;
    assert_eq!(csv.headers()["content-type"], "text/csv; charset=utf-8");
    assert!(csv.headers().contains_key("alluvium-as-of"));
    let csv = csv.text().await.unwrap();
    assert!(csv.starts_with("v,t\r\n1,1\r\n2,2\r\n") && csv.ends_with("20000,20000\r\n"));
    assert_eq!(csv.lines().count(), 20_001);
    let ndjson = house
        .ask("/v1/sql?format=ndjson", "text/csv", sql.clone())
        .await
        .text()
        .await
        .unwrap();
    assert_eq!(ndjson.lines().count(), 20_000);
    assert_eq!(ndjson.lines().next(), Some(r#"{"v":1,"t":"1"}"#));
    let json: Value = house
        .ask("/v1/sql", "text/html, */*;q=0.8", sql.clone())
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), 20_000);
    let arrow = house
        .ask("/v1/sql?format=arrow", "*/*", sql.clone())
        .await
        .bytes()
        .await
        .unwrap();
    let reader = StreamReader::try_new(arrow.as_ref(), None).unwrap();
    assert!(reader.schema().metadata().contains_key("alluvium.as_of"));
    let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 20_000);
    let accept = "application/vnd.apache.parquet";
    let file = house
        .ask("/v1/sql", accept, sql)
        .await
        .bytes()
        .await
        .unwrap();
    let rows: usize = ParquetRecordBatchReader::try_new(file, 8192)
        .unwrap()
        .map(|batch| batch.unwrap().num_rows())
        .sum();
    assert_eq!(rows, 20_000);
    let empty = json!({ "sql": "SELECT 1 AS a WHERE false" });
    assert_eq!(
        house
            .ask("/v1/sql?format=csv", "*/*", empty.clone())
            .await
            .text()
            .await
            .unwrap(),
        "a\r\n"
    );
    let body: Value = house
        .ask("/v1/sql", "*/*", empty)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(body["rows"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_when_asked() {
    let house = House::open(Limits::default()).await;
    for (coding, begins) in [
        ("gzip", &[0x1f, 0x8b][..]),
        ("zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
    ] {
        let response = house
            .client
            .post(format!("{}/v1/sql?format=csv", house.address))
            .header("accept-encoding", coding)
            .body(
                json!({ "sql": "SELECT repeat('x', 1000) FROM generate_series(1, 100)" })
                    .to_string(),
            )
            .send()
            .await
            .unwrap();
        assert_eq!(response.headers()["content-encoding"], coding);
        let bytes = response.bytes().await.unwrap();
        assert!(bytes.starts_with(begins), "{coding}");
        assert!(bytes.len() < 10_000, "{coding}: {}", bytes.len());
    }
}

/// A request has no session: what would only seem to change something is refused, with what does.
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_refused_and_each_request_says_how_it_reads() {
    let house = House::open(Limits::default()).await;
    for (sql, hint) in [
        ("SET alluvium.read = 'committed'", "\"read\": \"committed\""),
        (
            "/* at first */ SET alluvium.read TO fresh",
            "\"read\": \"committed\"",
        ),
        ("SHOW alluvium.as_of", "as_of"),
    ] {
        let (status, code, message, told) = refused(house.sql(sql).await).await;
        assert_eq!((status, code.as_str()), (400, "0A000"), "{sql}: {message}");
        assert!(told.unwrap().contains(hint), "{sql}");
    }
    for read in ["fresh", "committed"] {
        let body = json!({ "sql": "SHOW alluvium.read", "read": read });
        let answer: Value = house
            .ask("/v1/sql", "*/*", body)
            .await
            .json()
            .await
            .unwrap();
        assert_eq!(answer["rows"][0]["alluvium.read"], read);
    }
    let url = format!(
        "{}/v1/sql/live?sql=SET+alluvium.read='committed'",
        house.address
    );
    let response = house.client.get(url).send().await.unwrap();
    let (status, code, _, told) = refused(response).await;
    assert_eq!((status, code.as_str()), (400, "0A000"));
    assert!(told.unwrap().contains("&read=committed"));
}

/// Row groups end early where rows are wide, so that what is held of an answer does not grow with it.
#[tokio::test(flavor = "multi_thread")]
async fn parquet_comes_in_pieces() {
    let house = House::open(Limits::default()).await;
    let sql = "SELECT value, repeat(md5(value::text), 100) AS x FROM generate_series(1, 20000) AS t(value)";
    let accept = "application/vnd.apache.parquet";
    let file = house.ask("/v1/sql", accept, json!({ "sql": sql })).await;
    let file = file.bytes().await.unwrap();
    assert!(file.len() > 40 << 20, "{}", file.len());
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let groups = reader.metadata().row_groups();
    assert_eq!(
        groups.iter().map(|group| group.num_rows()).sum::<i64>(),
        20_000
    );
    for group in groups {
        assert!(
            group.compressed_size() < 48 << 20,
            "{}",
            group.compressed_size()
        );
    }
    assert!(groups.len() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_a_code_a_message_a_hint_and_a_fitting_status() {
    let house = House::open(Limits {
        timeout: Duration::from_secs(2),
        ..Limits::default()
    })
    .await;
    let (status, code, message, hint) = refused(house.sql("SELECT * FROM click").await).await;
    assert_eq!(
        (status, code.as_str(), message.as_str()),
        (400, "42P01", "there is no table click")
    );
    assert_eq!(hint.as_deref(), Some("did you mean clicks?"));
    let syntax: Value = house.sql("SELECT 1 +").await.json().await.unwrap();
    assert_eq!(syntax["error"]["code"], "42601");
    for (sql, status, code) in [
        (
            "SELECT 1 / (value - value) FROM generate_series(1, 3)",
            400,
            "22012",
        ),
        ("DROP TABLE clicks", 400, "25006"),
        ("SELECT 1 AS a, 2 AS a", 400, ""),
        (
            "SELECT sum(a.value * b.value) FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b",
            504,
            "57014",
        ),
    ] {
        let (got, of, message, _) = refused(house.sql(sql).await).await;
        assert_eq!(got, status, "{sql}: {message}");
        assert!(code.is_empty() || of == code, "{sql}: {of} {message}");
    }
    let long = format!("SELECT '{}'", "x".repeat(70_000));
    assert_eq!(refused(house.sql(&long).await).await.0, 413);
    let huge = json!({ "sql": "SELECT 1", "params": ["x".repeat(2 << 20)] });
    let response = house.ask("/v1/sql", "*/*", huge).await;
    assert_eq!(response.headers()["connection"], "close");
    assert_eq!(refused(response).await.0, 413);
    for (path, accept, body, status) in [
        ("/v1/sql", "*/*", json!("SELECT 1"), 400),
        ("/v1/sql", "*/*", json!({ "query": "SELECT 1" }), 400),
        (
            "/v1/sql",
            "*/*",
            json!({ "sql": "SELECT $1", "params": [[1]] }),
            400,
        ),
        ("/v1/sql", "*/*", json!({ "sql": "SELECT $1" }), 400),
        (
            "/v1/sql?format=xml",
            "*/*",
            json!({ "sql": "SELECT 1" }),
            406,
        ),
        ("/v1/sql", "image/png", json!({ "sql": "SELECT 1" }), 406),
        (
            "/v1/sql?fromat=csv",
            "*/*",
            json!({ "sql": "SELECT 1" }),
            400,
        ),
        ("/", "*/*", json!({}), 404),
        ("/livez", "*/*", json!({}), 405),
    ] {
        let (got, _, message, hint) = refused(house.ask(path, accept, body.clone()).await).await;
        assert_eq!(got, status, "{path} {body}: {message}");
        assert!(hint.is_some(), "{path} {body}: {message}");
    }
    let (status, body) = house.get("/nothing").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.contains("POST /v1/sql"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_says_so() {
    let house = House::open(Limits {
        concurrent: 1,
        ..Limits::default()
    })
    .await;
    // An answer that nobody reads holds the only place.
    let sql = "SELECT repeat('x', 1000) AS x FROM generate_series(1, 1000000)";
    let held = house.sql(sql).await;
    assert_eq!(held.status(), StatusCode::OK);
    let (status, code, _, _) = refused(house.sql("SELECT 1").await).await;
    assert_eq!((status, code.as_str()), (429, "53300"));
    // Hanging up gives it back.
    drop(held);
    let mut freed = false;
    for _ in 0..5 {
        freed = freed || house.sql("SELECT 1").await.status() == StatusCode::OK;
    }
    assert!(freed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_status_breaks_the_stream() {
    let house = House::open(Limits::default()).await;
    let sql =
        "SELECT repeat('x', 100) AS x, 1 / (value - 300000) AS y FROM generate_series(1, 1000000)";
    // Parquet comes in larger pieces.
    let wide = "SELECT repeat(md5(value::text), 100) AS x, 1 / (value - 30000) AS y FROM generate_series(1, 1000000) AS t(value)";
    for (format, sql) in [
        ("json", sql),
        ("ndjson", sql),
        ("csv", sql),
        ("arrow", sql),
        ("parquet", wide),
    ] {
        let path = format!("/v1/sql?format={format}");
        let response = house.ask(&path, "*/*", json!({ "sql": sql })).await;
        assert_eq!(response.status(), StatusCode::OK, "{format}");
        assert!(response.bytes().await.is_err(), "{format} looks whole");
    }
    // The same error within the first MiB is a refusal.
    let early = "SELECT 1 / (value - 3000) AS y FROM generate_series(1, 1000000)";
    assert_eq!(refused(house.sql(early).await).await.1, "22012");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_life_readiness_status_and_metrics() {
    let mut house = House::open(Limits::default()).await;
    assert_eq!(house.get("/livez").await.0, StatusCode::OK);
    house.live.store(false, Ordering::Relaxed);
    let (status, body) = house.get("/livez").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("intake has not moved"), "{body}");
    assert_eq!(house.get("/readyz").await.0, StatusCode::OK);
    house.status.update(&"web".into(), |status| {
        status.state = PipelineState::Waiting;
        status.reason = Some("topic clicks is missing".into());
    });
    let (status, body) = house.get("/readyz?verbose").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("topic clicks is missing"), "{body}");
    assert!(!house.get("/readyz").await.1.contains("topic"));
    house.status.update(&"web".into(), |status| {
        status.state = PipelineState::Running
    });
    assert_eq!(house.get("/readyz").await.0, StatusCode::OK);
    let status: Value = serde_json::from_str(&house.get("/v1/status").await.1).unwrap();
    assert_eq!(status["pipelines"][0]["pipeline"], "web");
    assert_eq!(
        house.get("/metrics").await,
        (StatusCode::OK, "alluvium_up 1\n".into())
    );
    house.stop.take().unwrap().send(()).unwrap();
    drop(house.client);
    house.server.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_the_door_itself_are_described() {
    let house = House::open(Limits::default()).await;
    let (status, text) = house.get("/v1/tables").await;
    assert_eq!(status, StatusCode::OK);
    let tables: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        tables,
        json!({ "tables": [{
            "name": "clicks",
            "group_columns": [{ "name": "country", "type": "Utf8" }],
            "measures": [{ "name": "clicks", "type": "Int64", "expression": "count(*)" }],
        }]})
    );
    let (status, text) = house.get("/v1/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    let described: Value = serde_json::from_str(&text).unwrap();
    // Every route that a wrong address is told of is described, and no other.
    let (_, text) = house.get("/nothing").await;
    let hint: Value = serde_json::from_str(&text).unwrap();
    let told = hint["error"]["hint"].as_str().unwrap();
    let mut routes = 0;
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let route = format!("{} {path}", method.to_uppercase());
            assert!(told.contains(&route), "{route} is not in: {told}");
            routes += 1;
        }
    }
    assert_eq!(told.split(", ").count(), routes, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_runs_is_listed_and_ended() {
    let house = Arc::new(House::open(Limits::default()).await);
    let long = "SELECT sum(a.value * b.value) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
    let asked = {
        let house = house.clone();
        tokio::spawn(async move { refused(house.sql(long).await).await })
    };
    let id = loop {
        let (_, text) = house.get("/v1/queries").await;
        let running: Value = serde_json::from_str(&text).unwrap();
        let query = running["queries"][0].clone();
        if query["sql"] == long {
            assert_eq!(query["door"], "http");
            assert_eq!(query["rows"], 0);
            assert!(query["since"].as_str().unwrap().ends_with('Z'));
            break query["id"].as_u64().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let seen = house
        .sql("SELECT id, query FROM system.queries ORDER BY id")
        .await;
    let seen: Value = seen.json().await.unwrap();
    assert_eq!(seen["rows"].as_array().unwrap().len(), 2, "{seen}");
    assert_eq!(seen["rows"][0]["query"], long);
    let end = |id: String| {
        let url = format!("{}/v1/queries/{id}", house.address);
        house.client.delete(url).send()
    };
    let begun = std::time::Instant::now();
    assert_eq!(
        end(id.to_string()).await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    let (status, code, message, _) = asked.await.unwrap();
    assert_eq!((status, code.as_str()), (409, "57014"), "{message}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    // What works for it hears of its end when it yields next.
    while house.get("/v1/queries").await.1.trim() != "{\"queries\":[]}" {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it is still there"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for nothing in [id.to_string(), "99999".into(), "x".into()] {
        assert_eq!(end(nothing).await.unwrap().status(), StatusCode::NOT_FOUND);
    }
}

/// The next event: its name and its data.
async fn event(response: &mut Response, read: &mut String) -> (String, Value) {
    loop {
        if let Some((event, rest)) = read.split_once("\n\n") {
            let (event, rest) = (event.to_owned(), rest.to_owned());
            *read = rest;
            // Several lines of data are one text, says the standard.
            let field = |name: &str| -> Vec<String> {
                let lines = event.lines().filter_map(|line| line.strip_prefix(name));
                lines.map(|text| text.trim_start().to_owned()).collect()
            };
            let data = field("data:");
            if !data.is_empty() {
                let data = serde_json::from_str(&data.join("\n")).unwrap();
                return (field("event:").concat(), data);
            }
            continue;
        }
        let chunk = tokio::time::timeout(Duration::from_secs(20), response.chunk());
        let chunk = chunk.await.unwrap().unwrap().expect("the stream goes on");
        read.push_str(std::str::from_utf8(&chunk).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_query_answers_when_rows_change() {
    let house = House::open(Limits::default()).await;
    let live = |query: &str| {
        let url = format!("{}/v1/sql/live?{query}", house.address);
        house.client.get(url).send()
    };
    let mut response = live("sql=SELECT+sum(clicks)+AS+n+FROM+clicks&every=200")
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut read = String::new();
    let (name, answer) = event(&mut response, &mut read).await;
    assert_eq!(
        (name.as_str(), &answer["rows"]),
        ("answer", &json!([{ "n": "3" }]))
    );
    assert_eq!(
        answer["as_of"]["tables"]["public.clicks"]["version"], 4,
        "{answer}"
    );
    // Where nothing has changed it is not asked again: between these two of ours there is no other question.
    let number = async || -> u64 {
        let asked = house.sql("SELECT max(id) AS id FROM system.queries").await;
        let body: Value = asked.json().await.unwrap();
        body["rows"][0]["id"]
            .to_string()
            .trim_matches('"')
            .parse()
            .unwrap()
    };
    let before = number().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(number().await, before + 1);
    // A commit that changes no row is no news; one more click is.
    let mut table = clicks();
    table.committed.version = 5;
    house.publisher.publish(&"clicks".into(), table.clone());
    tokio::time::sleep(Duration::from_millis(700)).await;
    table.memory.push(Arc::new(MemoryEpoch {
        epoch: Epoch(2),
        ranges: BTreeMap::from([(
            TopicPartition::new("clicks", 0),
            OffsetRange::new(13, 16).unwrap(),
        )]),
        panes: table.memory[0].panes.clone(),
    }));
    house.publisher.publish(&"clicks".into(), table);
    let (_, answer) = event(&mut response, &mut read).await;
    assert_eq!(answer["rows"], json!([{ "n": "6" }]));
    assert_eq!(
        answer["as_of"]["tables"]["public.clicks"]["version"], 5,
        "{answer}"
    );

    // Parameters are values.
    let counted =
        "sql=SELECT+clicks+%2B+$2+AS+n+FROM+clicks+WHERE+country+=+$1&params=[%22CH%22,4]";
    let mut response = live(counted).await.unwrap();
    let (_, answer) = event(&mut response, &mut String::new()).await;
    assert_eq!(answer["rows"][0]["n"], 10, "{answer}");
    for wrong in ["params=1", "params=[[1]]", "params=["] {
        let response = live(&format!("sql=SELECT+$1&{wrong}")).await.unwrap();
        assert_eq!(refused(response).await.0, 400, "{wrong}");
    }

    let (status, code, _, hint) =
        refused(live("sql=SELECT+clikcs+FROM+clicks").await.unwrap()).await;
    assert_eq!((status, code.as_str()), (400, "42703"));
    assert!(hint.unwrap().contains("clicks"));
    let (status, _, message, hint) = refused(live("sql=SELECT+1&every=5").await.unwrap()).await;
    assert_eq!(status, 400, "{message}");
    assert!(hint.unwrap().contains("200"));
    let (status, _, message, _) = refused(live("sq=SELECT+1").await.unwrap()).await;
    assert_eq!(status, 400, "{message}");
    // What fails only while it runs is an event, and the last one.
    let mut response = live("sql=SELECT+1/(clicks-6)+FROM+clicks+LIMIT+1")
        .await
        .unwrap();
    let mut read = String::new();
    let (name, error) = event(&mut response, &mut read).await;
    assert_eq!(
        (name.as_str(), &error["error"]["code"]),
        ("error", &json!("22012")),
        "{error}"
    );
    assert_eq!(response.chunk().await.unwrap(), None);
}
