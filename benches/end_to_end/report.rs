//! What comes out of the race: a table for people, and a chart.

use std::fmt::Write as _;

use crate::{Contestant, usage::Outcome};

/// The medians of one contestant.
pub(crate) struct Line {
    pub(crate) contestant: Contestant,
    /// Thousand events a CPU second.
    pub(crate) per_cpu: f64,
    wall: f64,
    peak_mib: f64,
    broker_cpu: Option<f64>,
}

/// The medians of each contestant over its rounds, after a look that all of them counted the same.
///
/// # Panics
/// When a contestant read or counted something else than the others.
pub(crate) fn medians(chosen: &[Contestant], rounds: &[Vec<Outcome>], events: usize) -> Vec<Line> {
    for round in rounds {
        let mut counted = None;
        for (contestant, outcome) in chosen.iter().zip(round) {
            let all = (outcome.groups, outcome.clicks, outcome.bytes);
            if contestant.counts() {
                let first = *counted.get_or_insert(all);
                assert_eq!(first, all, "{contestant:?} counts the same");
            } else {
                assert_eq!(outcome.clicks as usize, events, "{contestant:?} reads all");
            }
        }
    }
    let line = |(position, contestant): (usize, &Contestant)| {
        let median = |figure: &dyn Fn(&Outcome) -> f64| {
            let mut figures: Vec<f64> = rounds
                .iter()
                .map(|round| figure(&round[position]))
                .collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        let watched = rounds[0][position].broker_cpu.is_some();
        Line {
            contestant: *contestant,
            per_cpu: median(&|outcome| events as f64 / outcome.cpu / 1e3),
            wall: median(&|outcome| outcome.wall),
            peak_mib: median(&|outcome| outcome.peak_mib),
            broker_cpu: watched.then(|| median(&|outcome| outcome.broker_cpu.unwrap_or_default())),
        }
    };
    chosen.iter().enumerate().map(line).collect()
}

/// A table in Markdown.
pub(crate) fn table(lines: &[Line]) -> String {
    let of = |line: &Line, baseline: Contestant| {
        lines
            .iter()
            .find(|other| other.contestant == baseline)
            .map_or_else(
                || "–".to_owned(),
                |other| format!("{:.2}", line.per_cpu / other.per_cpu),
            )
    };
    let mut text = String::from(
        "| | thousand events per CPU second | of poll | of by hand | wall s | peak MiB | CPU s of the broker |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for line in lines {
        let broker = line
            .broker_cpu
            .map_or_else(|| "–".to_owned(), |cpu| format!("{cpu:.1}"));
        writeln!(
            text,
            "| {} | {:.0} | {} | {} | {:.1} | {:.0} | {broker} |",
            line.contestant.title(),
            line.per_cpu,
            of(line, Contestant::Poll),
            of(line, Contestant::ByHand),
            line.wall,
            line.peak_mib,
        )
        .unwrap();
    }
    text
}

/// A bar chart of events per CPU second, as SVG, for those that do the whole job or none of it.
pub(crate) fn chart(lines: &[Line]) -> String {
    const BAR: usize = 26;
    const LEFT: usize = 380;
    const WIDTH: usize = 420;
    let most = lines.iter().map(|line| line.per_cpu).fold(1.0, f64::max);
    let height = lines.len() * BAR + 40;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"20\" font-weight=\"bold\">Thousand events per CPU second (more is better)</text>\n",
        LEFT + WIDTH + 80
    );
    for (position, line) in lines.iter().enumerate() {
        let top = 32 + position * BAR;
        let long = line.per_cpu / most * WIDTH as f64;
        let colour = if line.contestant.is_ours() {
            "#1a6e8e"
        } else {
            "#9aa5ab"
        };
        writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{long:.1}\" height=\"{}\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{:.0}</text>",
            LEFT - 8,
            top + 15,
            line.contestant.title().replace('`', ""),
            BAR - 6,
            LEFT as f64 + long + 6.0,
            top + 15,
            line.per_cpu,
        )
        .unwrap();
    }
    text.push_str("</svg>\n");
    text
}
