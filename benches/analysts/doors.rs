//! Clients: HTTP, and Postgres' simple protocol over a bare socket.

use std::{
    io::{BufReader, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use reqwest::blocking::Client;
use serde_json::{Value, json};

/// How an answer ended.
pub(crate) struct Answer {
    pub(crate) took: Duration,
    /// `ok`, or what the door refused it with.
    pub(crate) ending: String,
    pub(crate) bytes: u64,
}

/// The HTTP door.
pub(crate) struct Http {
    client: Client,
    url: String,
}

impl Http {
    pub(crate) fn new(address: &str) -> Self {
        Self {
            client: Client::builder().timeout(None).build().unwrap(),
            url: address.to_owned(),
        }
    }

    fn post(
        &self,
        sql: &str,
        format: &str,
        patience: Duration,
    ) -> reqwest::Result<reqwest::blocking::Response> {
        self.client
            .post(format!("{}/v1/sql?format={format}", self.url))
            .timeout(patience)
            .body(json!({ "sql": sql }).to_string())
            .send()
    }

    /// The rows of an answer.
    pub(crate) fn rows(&self, sql: &str) -> Result<Vec<Value>, String> {
        let reply = self.post(sql, "json", Duration::from_secs(120));
        let text = reply
            .and_then(|reply| reply.text())
            .map_err(|error| error.to_string())?;
        let mut reply: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match reply["rows"].take() {
            Value::Array(rows) => Ok(rows),
            _ => Err(format!("{sql}: {reply}")),
        }
    }

    /// Asks and reads all of it; with `pause` after each 64 KiB.
    pub(crate) fn ask(&self, sql: &str, patience: Duration, pause: Duration) -> Answer {
        let begin = Instant::now();
        let mut bytes = 0;
        let ending = match self.post(sql, "ndjson", patience) {
            Err(error) if error.is_timeout() => "left by the client".into(),
            Err(error) => format!("broken: {error}"),
            Ok(mut reply) if reply.status().is_success() => {
                let mut buffer = vec![0; 64 << 10];
                loop {
                    match reply.read(&mut buffer) {
                        Ok(0) => break "ok".into(),
                        Ok(read) => bytes += read as u64,
                        Err(_) if begin.elapsed() >= patience => break "left by the client".into(),
                        Err(_) => break "broken off within the answer".into(),
                    }
                    std::thread::sleep(pause);
                }
            }
            Ok(reply) => {
                let status = reply.status().as_u16();
                let text = reply.text().unwrap_or_default();
                let reply: Value = serde_json::from_str(&text).unwrap_or_default();
                let error = &reply["error"];
                let message = error["message"].as_str().unwrap_or(&text);
                let short: String = message.chars().take(60).collect();
                let code = error["code"].as_str().unwrap_or_default();
                format!("{status} {code} {short}").replace(['|', '\n'], " ")
            }
        };
        Answer {
            took: begin.elapsed(),
            ending,
            bytes,
        }
    }

    /// What the server says about its one pipeline.
    pub(crate) fn status(&self) -> Option<Value> {
        let asked = self.client.get(format!("{}/v1/status", self.url));
        let text = asked
            .timeout(Duration::from_secs(5))
            .send()
            .ok()?
            .text()
            .ok()?;
        let status: Value = serde_json::from_str(&text).ok()?;
        let all = status
            .as_array()
            .or_else(|| status["pipelines"].as_array())?;
        all.first().cloned()
    }
}

/// A session at the Postgres door, without users and TLS.
pub(crate) struct Postgres {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Postgres {
    pub(crate) fn connect(address: &str) -> Self {
        let writer = TcpStream::connect(address).unwrap();
        writer.set_nodelay(true).unwrap();
        let mut session = Self {
            reader: BufReader::new(writer.try_clone().unwrap()),
            writer,
        };
        let parameters = b"user\0bench\0database\0alluvium\0\0";
        let mut start = ((parameters.len() + 8) as i32).to_be_bytes().to_vec();
        start.extend(196_608_i32.to_be_bytes());
        start.extend_from_slice(parameters);
        session.writer.write_all(&start).unwrap();
        session.read_to_ready();
        session
    }

    /// Asks; how many rows came.
    pub(crate) fn ask(&mut self, sql: &str) -> usize {
        let mut query = vec![b'Q'];
        query.extend(((sql.len() + 5) as i32).to_be_bytes());
        query.extend_from_slice(sql.as_bytes());
        query.push(0);
        self.writer.write_all(&query).unwrap();
        self.read_to_ready()
    }

    fn read_to_ready(&mut self) -> usize {
        let mut rows = 0;
        loop {
            let mut head = [0; 5];
            self.reader.read_exact(&mut head).unwrap();
            let length = i32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; length as usize - 4];
            self.reader.read_exact(&mut body).unwrap();
            match head[0] {
                b'D' => rows += 1,
                b'E' => panic!("{}", String::from_utf8_lossy(&body)),
                b'Z' => return rows,
                _ => {}
            }
        }
    }
}
