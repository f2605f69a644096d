//! The demo's live screen: rates, lag, watermarks, commits, rejects, memory and freshness, twice a second.
//!
//! Owns the terminal while it is shown. Does not own what it shows.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use alluvium_plan::{PipelineState, PipelineStatus, StatusBoard};
use chrono::Utc;
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Style, Stylize},
    text::Line,
    widgets::{Block, Borders, Gauge, Paragraph, Row, Sparkline, Table},
};

use crate::{
    output::{bytes, grouped},
    signals::Stop,
};

/// Between two pictures.
const REFRESH: Duration = Duration::from_millis(500);
/// Pictures that the curve of rates goes back.
const REMEMBERED: usize = 240;

/// What is shown.
pub(super) struct View {
    /// Where queries are answered.
    pub(super) url: String,
    pub(super) psql: String,
    /// What the pipeline says.
    pub(super) status: Arc<StatusBoard>,
    /// Events sent so far.
    pub(super) sent: Box<dyn Fn() -> u64>,
    /// Whether there is nothing to watch any more.
    pub(super) is_over: Box<dyn Fn() -> bool>,
}

/// Events a second, newest last.
struct Rates {
    last: (Instant, u64),
    history: VecDeque<u64>,
}

impl Rates {
    fn measure(&mut self, now: Instant, events_in: u64) {
        let seconds = now.duration_since(self.last.0).as_secs_f64();
        let rate = events_in.saturating_sub(self.last.1) as f64 / seconds.max(1e-3);
        self.last = (now, events_in);
        if self.history.len() == REMEMBERED {
            self.history.pop_front();
        }
        self.history.push_back(rate as u64);
    }
}

/// Shows the screen until `q`, ctrl-c, a signal, or the end of what is watched.
pub(super) fn show(view: &View, stop: &Stop) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let result = (|| {
        let mut rates = Rates {
            last: (Instant::now(), 0),
            history: VecDeque::new(),
        };
        while !stop.is_asked() && !(view.is_over)() {
            let pipelines = view.status.all();
            if pipelines
                .iter()
                .any(|pipeline| pipeline.state == PipelineState::Stopped)
            {
                return Ok(());
            }
            let events_in = pipelines.iter().map(|pipeline| pipeline.events_in).sum();
            rates.measure(Instant::now(), events_in);
            terminal.draw(|frame| draw(frame, view, &pipelines, &rates))?;
            if asked_to_leave(REFRESH)? {
                return Ok(());
            }
        }
        Ok(())
    })();
    // The terminal belongs to the shell again, also when drawing failed.
    ratatui::try_restore()?;
    result
}

/// Waits for keys for `patience`; whether one of them means leaving. In raw mode ctrl-c is a key.
fn asked_to_leave(patience: Duration) -> io::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if !event::poll(left)? {
            return Ok(false);
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let is_ctrl_c =
                key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if is_ctrl_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(true);
            }
        }
    }
}

fn draw(frame: &mut Frame<'_>, view: &View, pipelines: &[PipelineStatus], rates: &Rates) {
    let tables: usize = pipelines.iter().map(|pipeline| pipeline.tables.len()).sum();
    let partitions: usize = pipelines
        .iter()
        .map(|pipeline| pipeline.partitions.len())
        .sum();
    let [head, curve, memory, table_area, partition_area, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(6),
        Constraint::Length(1),
        Constraint::Length(tables as u16 + 3),
        Constraint::Max(partitions as u16 + 3),
        Constraint::Min(1),
    ])
    .areas(frame.area());

    frame.render_widget(Paragraph::new(headline(view, pipelines, rates)), head);
    let history: Vec<u64> = rates.history.iter().copied().collect();
    let width = usize::from(curve.width.saturating_sub(2));
    let shown = &history[history.len().saturating_sub(width)..];
    frame.render_widget(
        Sparkline::default()
            .block(
                Block::new()
                    .borders(Borders::TOP)
                    .title(" events a second "),
            )
            .data(shown)
            .style(Style::new().cyan()),
        curve,
    );
    let used: u64 = pipelines.iter().map(|pipeline| pipeline.memory_used).sum();
    let limit = pipelines
        .iter()
        .map(|pipeline| pipeline.memory_limit)
        .max()
        .unwrap_or(0);
    frame.render_widget(
        Gauge::default()
            .ratio((used as f64 / limit.max(1) as f64).clamp(0.0, 1.0))
            .label(format!("memory {} of {}", bytes(used), bytes(limit)))
            .gauge_style(Style::new().blue()),
        memory,
    );
    frame.render_widget(table_rows(pipelines), table_area);
    frame.render_widget(partition_rows(pipelines), partition_area);
    frame.render_widget(
        Paragraph::new(
            Line::from(format!(
                "SQL: {}    {}/v1/sql    q leaves with a last commit",
                view.psql, view.url
            ))
            .dim(),
        ),
        foot,
    );
}

fn headline(view: &View, pipelines: &[PipelineStatus], rates: &Rates) -> Vec<Line<'static>> {
    let sum = |of: fn(&PipelineStatus) -> u64| pipelines.iter().map(of).sum::<u64>();
    let lag: i64 = pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.partitions)
        .filter_map(|partition| partition.lag)
        .sum();
    let rate = rates.history.back().copied().unwrap_or(0);
    let freshness = pipelines
        .iter()
        .filter_map(|pipeline| pipeline.freshness_p99_ms)
        .reduce(f64::max)
        .map_or_else(|| "-".to_owned(), |millis| format!("{millis:.0} ms"));
    let mut lines = vec![
        Line::from(format!(
            "{} events a second, {} sent, {} read ({}), {} not yet committed",
            grouped(rate),
            grouped((view.sent)()),
            grouped(sum(|pipeline| pipeline.events_in)),
            bytes(sum(|pipeline| pipeline.bytes_in)),
            grouped(u64::try_from(lag).unwrap_or(0)),
        ))
        .bold(),
        Line::from(format!(
            "freshness p99 {freshness} (from the record's timestamp until a query sees it), {} rejected, {} rebalances, {} overtaken",
            grouped(sum(|pipeline| pipeline.rejected)),
            grouped(sum(|pipeline| pipeline.rebalances)),
            grouped(sum(|pipeline| pipeline.overtaken)),
        )),
    ];
    let reasons = pipelines
        .iter()
        .filter_map(|pipeline| pipeline.reason.clone());
    lines.extend(reasons.map(|reason| Line::from(reason).yellow()));
    lines
}

fn table_rows(pipelines: &[PipelineStatus]) -> Table<'static> {
    let rows = pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.tables)
        .map(|table| {
            let ago = table.last_commit.map_or_else(
                || "-".to_owned(),
                |time| {
                    let micros = Utc::now().timestamp_micros() - time.micros();
                    format!("{:.0} s ago", micros.max(0) as f64 / 1e6)
                },
            );
            let watermark = table
                .watermark
                .map_or_else(|| "-".to_owned(), |time| time.to_string());
            Row::new([
                table.table.clone(),
                grouped(table.commits),
                ago,
                grouped(table.files),
                grouped(table.balance.counted),
                grouped(table.balance.filtered),
                grouped(table.balance.rejected),
                grouped(table.balance.late),
                watermark,
            ])
        });
    let widths = [
        Constraint::Min(18),
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(7),
        Constraint::Length(13),
        Constraint::Length(11),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(28),
    ];
    Table::new(rows, widths)
        .header(
            Row::new([
                "table",
                "commits",
                "last",
                "files",
                "counted",
                "filtered",
                "rejected",
                "late",
                "watermark",
            ])
            .dim(),
        )
        .block(Block::new().borders(Borders::TOP))
}

fn partition_rows(pipelines: &[PipelineStatus]) -> Table<'static> {
    let number = |offset: Option<i64>| {
        offset.map_or_else(
            || "-".to_owned(),
            |offset| grouped(u64::try_from(offset).unwrap_or(0)),
        )
    };
    let rows = pipelines
        .iter()
        .flat_map(|pipeline| &pipeline.partitions)
        .map(move |partition| {
            Row::new([
                format!("{}/{}", partition.topic, partition.partition),
                number(partition.position),
                number(partition.committed),
                number(partition.log_end),
                number(partition.lag),
                partition.halted.clone().unwrap_or_default(),
            ])
        });
    let widths = [
        Constraint::Min(18),
        Constraint::Length(14),
        Constraint::Length(14),
        Constraint::Length(14),
        Constraint::Length(12),
        Constraint::Min(10),
    ];
    Table::new(rows, widths)
        .header(Row::new(["partition", "read", "committed", "log end", "behind", ""]).dim())
        .block(Block::new().borders(Borders::TOP))
}

#[cfg(test)]
mod tests {
    use alluvium_plan::{PartitionStatus, TableStatus};
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    #[test]
    fn the_screen_shows_what_happens() {
        let status = Arc::new(StatusBoard::default());
        status.update(&"clicks".into(), |pipeline| {
            pipeline.events_in = 1_234_567;
            pipeline.memory_used = 3 << 20;
            pipeline.memory_limit = 512 << 20;
            pipeline.freshness_p99_ms = Some(321.0);
            pipeline.partitions.push(PartitionStatus {
                topic: "clicks".into(),
                partition: 5,
                lag: Some(77),
                ..PartitionStatus::default()
            });
            pipeline.tables.push(TableStatus {
                table: "clicks_per_minute".into(),
                commits: 12,
                ..TableStatus::default()
            });
        });
        let view = View {
            url: "http://127.0.0.1:8427".into(),
            psql: "psql -h 127.0.0.1 -p 8432 alluvium".into(),
            status: status.clone(),
            sent: Box::new(|| 2_000_000),
            is_over: Box::new(|| false),
        };
        let mut rates = Rates {
            last: (Instant::now(), 1_134_567),
            history: VecDeque::new(),
        };
        rates.measure(rates.last.0 + Duration::from_secs(2), 1_234_567);
        let mut terminal = Terminal::new(TestBackend::new(140, 30)).unwrap();
        terminal
            .draw(|frame| draw(frame, &view, &status.all(), &rates))
            .unwrap();
        let shown = terminal.backend().to_string();
        for part in [
            "50,000 events a second",
            "2,000,000 sent",
            "1,234,567 read",
            "p99 321 ms",
            "3.0 MiB of 512.0 MiB",
            "clicks_per_minute",
            "clicks/5",
            "77",
            "q leaves",
        ] {
            assert!(shown.contains(part), "{part} is missing in\n{shown}");
        }
    }
}
