//! The qrelay binary: a subcommand for each role, and the operator's commands.
//!
//! Roles are libraries; here they get their configuration, are started and stopped. The operator's commands are
//! clients of the gRPC API like any other: they know nothing that a caller with a key could not know.
//!
//! Invariant: standard output carries results and nothing else; what is said about the work goes to standard
//! error. Keys and secrets come from the environment or files, never from the command line.

mod api_error;
mod command_line;
mod demo;
mod escape;
mod failure;
mod flag_first;
mod operator;
mod output;
mod qr;
mod schema;
mod session;
mod shape;
pub mod up;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::CommandFactory as _;

use crate::{
    command_line::{Command, CommandLine, Refused},
    failure::{Exit, Failure},
};

/// A fifth of a delivery's CPU time was the C library's allocator; with this one, deliveries take a seventh less. Without huge pages
/// (`no_thp`), which would make an idle process hold 110 MiB instead of 73.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The process: reads the command line, does what it says, and tells how it went.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match command_line::parse(arguments) {
        Ok(line) => line.command,
        Err(Refused::Clap(error)) => return tell_usage(&error),
        Err(Refused::Ours(failure)) => return tell(&failure),
    };
    match execute(command) {
        Ok(code) => code,
        Err(failure) => tell(&failure),
    }
}

fn execute(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Completions { shell } => {
            completions(shell)?;
        }
        Command::Demo(args) => return demo::run(&args),
        Command::Up(flags) => return up::run(&flags),
        Command::DataPlane(flags) => return up::run_data_plane(&flags),
        Command::ControlPlane(flags) => return up::run_control_plane(&flags),
        Command::Dispatcher(flags) => return up::run_dispatcher(&flags),
        Command::Schema(args) => block_on(schema::run(args))?,
        Command::Tenant(args) => block_on(operator::tenant::run(args))?,
        Command::Key(args) => block_on(operator::key::run(args))?,
        Command::Code(args) => block_on(operator::code::run(args))?,
        Command::Endpoint(args) => block_on(operator::endpoint::run(args))?,
        Command::Delivery(args) => block_on(operator::delivery::run(args))?,
        Command::Conversion(args) => block_on(operator::conversion::run(args))?,
        Command::Replay(args) => block_on(operator::replay::run(args))?,
        Command::Event(args) => block_on(operator::event::run(args))?,
        Command::Journal(args) => block_on(operator::journal::run(args))?,
        Command::Tail(args) => block_on(operator::tail::run(*args))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs an operator's command: one connection needs no more than this thread.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::because("cannot start", &error))?;
    runtime.block_on(work)
}

fn completions(shell: clap_complete::Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "qrelay", &mut script);
    io::stdout().write_all(&script)
}

fn tell(failure: &Failure) -> ExitCode {
    // With standard error gone there is nobody left to tell.
    drop(failure.write(&mut io::stderr()));
    failure.exit.into()
}

fn tell_usage(error: &clap::Error) -> ExitCode {
    let said = error.print();
    match (error.use_stderr(), said) {
        (true, _) => Exit::Usage.into(),
        (false, Ok(())) => ExitCode::SUCCESS,
        (false, Err(error)) => tell(&error.into()),
    }
}
