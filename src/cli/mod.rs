//! The only room that knows the terminal: argument vector -> invocations -> commands -> exit code.

mod chain;
pub mod commands;
pub mod complete;
mod given;
pub mod help;
pub mod man;
pub mod parse;
pub mod plan;
pub mod python;
pub mod table;
mod timeline;
pub mod ui;
pub mod values;

use crate::cluster::keeper;
use crate::engine::rootless;
use crate::error::{Error, Result};
use crate::host::{Machine, Root};
use crate::net;
use commands::Context;
use parse::{Env, Invocation, Line, Parsed, Parser, Refusal};
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ui::Ui;

/// The exit code of a usage error.
const USAGE: u8 = 2;

/// The exit code after Ctrl-C: 128 plus the signal's number.
const INTERRUPTED: u8 = 130;

/// Runs a command line; returns the exit code.
pub fn run(args: Vec<OsString>) -> u8 {
    // Images, and what hosts and other accounts read, are not the caller's own files.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let ui = Ui::new();
    let mut words = Vec::new();
    for arg in args {
        match arg.into_string() {
            Ok(word) => words.push(word),
            Err(bad) => {
                ui.error(&Error::usage(format!("{:?} is not UTF-8", bad.to_string_lossy())));
                return USAGE;
            }
        }
    }
    let env: Env =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
    if env.contains_key("_OARDOCKER_COMPLETE") {
        ui.data(&complete::offer(&words, &commands::completion::hosts(&words)));
        return 0;
    }
    if let Some(outcome) = serve(&words, &env) {
        return match outcome {
            Ok(()) => 0,
            Err(e) => {
                ui.error(&e);
                e.exit_code()
            }
        };
    }
    match Parser::default().parse(&words, &env) {
        Ok(Parsed::Help(page)) => {
            ui.data(&help::page(page.as_deref(), ui.page_style()));
            0
        }
        Ok(Parsed::Version) => {
            ui.data(&format!("oardocker, version {}\n", env!("CARGO_PKG_VERSION")));
            0
        }
        Ok(Parsed::Run(line)) if line.global.dry_run => {
            ui.data(&format!("{:#}\n", line.to_json()));
            0
        }
        Ok(Parsed::Run(line)) => execute(&Arc::new(ui), *line),
        Err(refusal) => refuse(&ui, &refusal, &env),
    }
}

/// What an oardocker does that another one has started to stay: none if it is not one.
fn serve(words: &[String], env: &Env) -> Option<Result<()>> {
    if env.contains_key(rootless::HOLDER) {
        return Some(rootless::hold());
    }
    if let Some(orders) = env.get(net::DOOR) {
        return Some(net::keep_door(orders));
    }
    let env_id = env.get(keeper::VARIABLE)?;
    let global: Vec<OsString> = words.iter().map(OsString::from).collect();
    Some(rootless::enter("managed").and_then(|machine| keeper::keep(&machine, env_id, &global)))
}

/// Prints why a line is refused, as text or as one JSON object.
fn refuse(ui: &Ui, refusal: &Refusal, env: &Env) -> u8 {
    if env.get("OARDOCKER_USAGE_ERRORS").is_some_and(|v| v == "json") {
        let object = serde_json::json!({
            "kind": refusal.kind, "command": refusal.command, "message": refusal.message,
        });
        ui.talk(&object.to_string());
    } else if refusal.kind == "no_args" {
        ui.talk(help::page(None, ui.page_style()).trim_end());
    } else {
        let name = refusal.command.as_ref().map(|c| format!(" {c}")).unwrap_or_default();
        ui.talk(&help::usage(refusal.command.as_deref()));
        ui.talk(&format!("Try 'oardocker{name} --help' for help.\n"));
        ui.talk(&format!("{} {}", ui.paint(ui::RED, "Error:"), refusal.message));
    }
    USAGE
}

/// Runs the chain; the first command that fails ends it.
fn execute(ui: &Arc<Ui>, line: Line) -> u8 {
    // Before there are threads.
    let needed = line.chain.iter().any(|i| i.command.needs_engine());
    let machine = match if needed { rootless::enter(&line.global.docker_host) } else { Ok(Machine::new(Root::Host)) } {
        Ok(machine) => machine,
        Err(e) => {
            ui.error(&e);
            return e.exit_code();
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            ui.error(&Error::new(format!("cannot start: {e}")));
            return 1;
        }
    };
    let code = runtime.block_on(async {
        let verbose = line.global.verbose;
        let mut context = Context::new(ui.clone(), machine, line.global);
        if let Err(e) = commands::before(&context, &line.chain) {
            ui.error(&e);
            return e.exit_code();
        }
        let mut chain = line.chain.into_iter();
        while let Some(invocation) = chain.next() {
            let name = invocation.name.clone();
            let begun = Instant::now();
            let Some(outcome) = attend(ui, &mut context, invocation).await else { return INTERRUPTED };
            if verbose {
                ui.talk(&format!("{name} took {:.2} s", begun.elapsed().as_secs_f64()));
            }
            let code = match outcome {
                _ if context.cancellation().is_cancelled() => INTERRUPTED,
                Ok(0) => continue,
                Ok(code) => code,
                Err(e) => {
                    ui.progress_end();
                    ui.error(&e);
                    e.exit_code()
                }
            };
            let rest: Vec<String> = chain.map(|i| i.name).collect();
            if !rest.is_empty() {
                ui.talk(&format!("Not run: {}", rest.join(", ")));
            }
            return context.end().await.max(code);
        }
        context.end().await
    });
    // A thread that still waits for input of a terminal must not keep the program.
    runtime.shutdown_background();
    code
}

/// Runs a command. At Ctrl-C it is asked to end, and waited for: an engine may be at work for it. None after a second Ctrl-C.
async fn attend(ui: &Ui, context: &mut Context, invocation: Invocation) -> Option<Result<u8>> {
    let cancel = context.cancellation();
    let Invocation { name, command } = invocation;
    let (is_session, only_looks, aftermath) = (command.is_session(), command.only_looks(), command.aftermath(&name));
    let ended = {
        let running = commands::run(context, command);
        tokio::pin!(running);
        // A session passes its signals on instead.
        tokio::select! {
            outcome = &mut running => return Some(outcome),
            () = interrupted(), if !is_session => {}
        }
        ui.progress_end();
        if only_looks {
            return None;
        }
        ui.talk(&format!("\nInterrupted: {aftermath}"));
        cancel.cancel();
        tokio::select! {
            outcome = &mut running => Some(outcome),
            () = insisted() => None,
        }
    };
    match &ended {
        None => {
            context.abandon();
            ui.talk("Left as it is: run `oardocker stop`");
        }
        // That it was interrupted has been said; what could not be undone has not.
        Some(Err(e)) if e.exit_code() != INTERRUPTED => ui.error(e),
        _ => {}
    }
    ended
}

/// A signal that comes this soon after one is the same wish: timeout(1) sends it to the program and to its group.
const SAME: Duration = Duration::from_millis(500);

/// Ends at a second Ctrl-C or SIGTERM.
async fn insisted() {
    let first = Instant::now();
    while first.elapsed() < SAME {
        interrupted().await;
    }
}

/// Ends at Ctrl-C or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}
