//! `alluvium user add`: the lines of a user for the server file.
//!
//! Owns the asking for a password, which no argument ever carries. The file itself is edited by whoever keeps it.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
};

use alluvium_plan::{Environment, SourceFile, load_server};
use alluvium_serve::{new_token, verifier_of};
use crossterm::{
    event::{Event, KeyCode, KeyEventKind, KeyModifiers, read},
    terminal::{disable_raw_mode, enable_raw_mode},
};

use crate::{cli::UserAddArgs, failure::Failure, output::to_stdout};

/// The shortest password that is taken.
const SHORTEST: usize = 8;

/// Prints the lines of a user.
pub(crate) fn add(args: &UserAddArgs) -> Result<(), Failure> {
    // Wrong names are told before anything is asked.
    checked(&lines(args, "token", &new_token().1.to_text()), &args.roles)?;
    let (text, token) = match args.token {
        true => {
            let (token, hash) = new_token();
            (lines(args, "token", &hash.to_text()), Some(token))
        }
        false => {
            let verifier = verifier_of(&password()?);
            (lines(args, "password", &verifier.to_text()), None)
        }
    };
    checked(&text, &args.roles)?;
    let mut told = io::stderr().lock();
    if let Some(token) = token {
        writeln!(told, "The token, shown this once: {token}")?;
    }
    writeln!(
        told,
        "Put these lines into alluvium.yaml and restart the server:"
    )?;
    Ok(to_stdout(|out| out.write_all(text.as_bytes()))?)
}

fn lines(args: &UserAddArgs, key: &str, hash: &str) -> String {
    let roles: Vec<String> = args.roles.iter().map(|role| quoted(role)).collect();
    format!(
        "users:\n  {}:\n    {key}: {}\n    roles: [{}]\n",
        quoted(&args.name),
        quoted(hash),
        roles.join(", ")
    )
}

/// As a YAML text that is itself whatever it holds.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether a server file would take these lines.
fn checked(lines: &str, roles: &[String]) -> Result<(), Failure> {
    let roles: String = roles
        .iter()
        .map(|role| format!("  {}: {{tables: ['*']}}\n", quoted(role)))
        .collect();
    let text = format!("version: 1\nstorage: {{root: .}}\n{lines}roles:\n{roles}");
    let mut no_files = |_: &Path| Err(io::ErrorKind::NotFound.into());
    match load_server(
        &SourceFile::new("alluvium.yaml", &text),
        &mut no_files,
        &Environment::default(),
    ) {
        Ok(_) => Ok(()),
        Err(found) => Err(match found.0.into_iter().next() {
            Some(first) => {
                let help = first.help.unwrap_or_default();
                Failure::input(first.message).help(help)
            }
            None => Failure::input("these names cannot be used"),
        }),
    }
}

/// From the terminal twice and without echo, or the first line of whatever stdin is.
fn password() -> Result<String, Failure> {
    let password = match io::stdin().is_terminal() {
        true => {
            let first = typed("Password: ")?;
            if typed("Once more: ")? != first {
                return Err(Failure::input("the two are not the same").help("try again"));
            }
            first
        }
        false => {
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line)?;
            line.trim_end_matches(['\n', '\r']).to_owned()
        }
    };
    if password.chars().count() < SHORTEST {
        let help = format!("use at least {SHORTEST} characters");
        return Err(Failure::input("this password is too short").help(help));
    }
    Ok(password)
}

/// One line typed without echo.
fn typed(question: &str) -> Result<String, Failure> {
    /// Puts the terminal back however reading ends.
    struct Raw;
    impl Drop for Raw {
        fn drop(&mut self) {
            // A terminal that cannot be put back is gone.
            let _ = disable_raw_mode();
        }
    }
    let mut told = io::stderr().lock();
    write!(told, "{question}")?;
    told.flush()?;
    enable_raw_mode()?;
    let raw = Raw;
    let mut line = String::new();
    loop {
        let Event::Key(key) = read()? else {
            continue;
        };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match key.code {
            KeyCode::Enter => break,
            KeyCode::Backspace => drop(line.pop()),
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                drop(raw);
                writeln!(told)?;
                return Err(Failure::work("nothing was made"));
            }
            KeyCode::Char(character) if !key.modifiers.contains(KeyModifiers::CONTROL) => {
                line.push(character);
            }
            _ => {}
        }
    }
    drop(raw);
    writeln!(told)?;
    Ok(line)
}
