//! Commands that are known and not there yet: they say so, and what to do meanwhile.
//!
//! Owns their names and their answers, so that a script that calls one is told the truth instead of a
//! usage error. A command leaves this table when it arrives.

use clap::{Arg, ArgAction, Command};

use crate::failure::Failure;

struct Planned {
    name: &'static str,
    about: &'static str,
    meanwhile: &'static str,
}

const PLANNED: [Planned; 4] = [
    Planned {
        name: "plan",
        about: "what would change if a pipeline file were deployed",
        meanwhile: "`alluvium check` types the file and runs its tests; `alluvium run` refuses a definition that does not fit its table",
    },
    Planned {
        name: "pause",
        about: "stops a pipeline",
        meanwhile: "move its file out of `pipelines/` and restart the server; if it is the only one, stop the server",
    },
    Planned {
        name: "resume",
        about: "starts a stopped pipeline again",
        meanwhile: "restart the server: every pipeline goes on from the offsets in its tables",
    },
    Planned {
        name: "drop",
        about: "forgets a pipeline",
        meanwhile: "stop the server, remove its file from `pipelines/`, and its tables if you want to lose them; a server without a \
                    pipeline has nothing to do, and does not start",
    },
];

/// Adds the planned commands: hidden from the list of commands, named under a heading of their own.
pub(crate) fn add_to(command: Command) -> Command {
    let width = PLANNED.iter().map(|planned| planned.name.len()).max();
    let mut heading = String::from("Not available yet (each says what to do meanwhile):\n");
    for planned in &PLANNED {
        heading.push_str(&format!(
            "  {:width$}  {}\n",
            planned.name,
            planned.about,
            width = width.unwrap_or_default()
        ));
    }
    PLANNED
        .iter()
        .fold(command.after_long_help(heading), |command, planned| {
            let rest = Arg::new("arguments")
                .action(ArgAction::Append)
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true);
            command.subcommand(
                Command::new(planned.name)
                    .about(format!("Not supported yet: {}", planned.about))
                    .after_help(format!("Meanwhile: {}.", planned.meanwhile))
                    .hide(true)
                    .arg(rest),
            )
        })
}

/// The answer of the planned command `name`; `None` when it is not a planned one.
pub(crate) fn answer(name: &str) -> Option<Failure> {
    let planned = PLANNED.iter().find(|planned| planned.name == name)?;
    Some(
        Failure::work(format!(
            "not supported yet: `alluvium {}` ({})",
            planned.name, planned.about
        ))
        .help(format!("meanwhile: {}", planned.meanwhile)),
    )
}
