//! The twenty queries of `abuse.sql`.

/// One of them.
pub(crate) struct Abuse {
    pub(crate) about: String,
    pub(crate) sql: String,
    /// Whether its answer is read with pauses.
    pub(crate) is_read_slowly: bool,
}

/// Reads the file: paragraphs of a comment and a statement. `{20*text}` stands for that text twenty times.
pub(crate) fn all() -> Vec<Abuse> {
    let text = include_str!("abuse.sql");
    let all: Vec<Abuse> = text
        .split("\n\n")
        .filter_map(|paragraph| {
            let is_comment = |line: &&str| line.starts_with("--");
            let sql: Vec<&str> = paragraph.lines().filter(|line| !is_comment(line)).collect();
            let about: Vec<&str> = paragraph
                .lines()
                .filter(is_comment)
                .map(|line| line.trim_start_matches("--").trim())
                .collect();
            let about = about.join(" ");
            let sql = sql.join("\n");
            (!sql.trim().is_empty()).then(|| Abuse {
                sql: expand(sql.trim().trim_end_matches(';')),
                is_read_slowly: about.contains("read slowly"),
                about,
            })
        })
        .collect();
    assert_eq!(all.len(), 20, "twenty of them");
    all
}

fn expand(text: &str) -> String {
    let Some((before, rest)) = text.split_once('{') else {
        return text.to_owned();
    };
    let (inside, after) = rest.split_once('}').expect("a bracket is closed");
    let (times, what) = inside.split_once('*').expect("a number, * and a text");
    let times: usize = times.parse().expect("a number");
    format!("{before}{}{}", what.repeat(times), expand(after))
}
