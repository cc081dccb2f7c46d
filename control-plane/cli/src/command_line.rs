//! The command line: which commands there are, and what is refused before any of them runs.

use std::ffi::OsString;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};
use clap_complete::Shell;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    demo,
    failure::Failure,
    operator::{code, conversion, delivery, endpoint, event, journal, key, replay, tail, tenant},
    schema, up,
};

/// What it is, for `--help`: the package's description is about the crate.
const ABOUT: &str = "Dynamic QR codes whose scans become redirects that are never lost and signed webhooks";

/// The whole command line.
#[derive(Parser, Debug)]
#[command(
    name = "qrelay",
    version,
    about = ABOUT,
    propagate_version = true,
    max_term_width = 110
)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Try everything in one process: a code, scans, verified webhooks; leaves nothing behind
    Demo(demo::Args),
    /// Run all roles in one process, on a data directory or a CQL cluster
    Up(Box<up::Flags>),
    /// Run one edge, which answers scans, on a CQL cluster that roles share
    DataPlane(Box<up::DataPlaneFlags>),
    /// Run one control plane, which is the API, on a CQL cluster that roles share
    ControlPlane(Box<up::ControlPlaneFlags>),
    /// Run one dispatcher, which delivers, on a CQL cluster that roles share
    Dispatcher(Box<up::DispatcherRoleFlags>),
    /// Make and migrate the tables of a CQL cluster
    Schema(schema::Args),
    /// Create, list and change tenants, and read their usage (admin key)
    Tenant(tenant::Args),
    /// Create, list and revoke a tenant's API keys (admin key)
    Key(key::Args),
    /// Create, list, show and change QR codes
    Code(code::Args),
    /// Create, list, test and change webhook endpoints
    Endpoint(endpoint::Args),
    /// Look at one delivery and its attempts
    Delivery(delivery::Args),
    /// Look at a replay, and end it
    Replay(replay::Args),
    /// List and look at recorded events
    Event(event::Args),
    /// Report what a scan led to
    Conversion(conversion::Args),
    /// Follow events as they are recorded
    Tail(Box<tail::Args>),
    /// Look at the journal of an edge that will not come back, ship it, or give it up
    Journal(journal::Args),
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Options whose values must not stand on a command line, and where to put them instead.
const SECRETS: [(&str, &str); 3] = [
    (
        "key",
        "set QRELAY_KEY, or put the key into a file and use --key-file",
    ),
    (
        "admin_key",
        "set QRELAY_ADMIN_KEY, or put the key into a file and use --admin-key-file",
    ),
    (
        "master_key",
        "set QRELAY_MASTER_KEY, or put the key into a file and use --master-key-file",
    ),
];

/// Why nothing runs.
#[derive(Debug)]
pub(crate) enum Refused {
    /// clap says it: wrong usage, or help and version, which are no errors.
    Clap(clap::Error),
    /// We say it.
    Ours(Failure),
}

/// Reads the command line.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<CommandLine, Refused> {
    let matches = CommandLine::command()
        .try_get_matches_from(arguments)
        .map_err(Refused::Clap)?;
    secret_in_arguments(&matches).map_err(Refused::Ours)?;
    CommandLine::from_arg_matches(&matches).map_err(Refused::Clap)
}

/// A key on the command line is readable for every process of the machine, and stays in the shell's history.
fn secret_in_arguments(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, matches)) = matches.subcommand() else {
        return Ok(());
    };
    let commands = CommandLine::command();
    let command = commands
        .find_subcommand(name)
        .expect("invariant: clap matched it");
    for (id, instead) in SECRETS {
        // Asking for what the command does not define panics.
        let defined = command.get_arguments().any(|argument| argument.get_id() == id);
        if defined && matches.value_source(id) == Some(ValueSource::CommandLine) {
            let flag = id.replace('_', "-");
            let message = format!("--{flag} is not taken from the command line, where others can read it");
            return Err(Failure::usage(message).hint(instead));
        }
    }
    proxy_password(command, matches)?;
    Ok(())
}

/// A proxy may be named on the command line, but not with a password in it.
fn proxy_password(command: &clap::Command, matches: &ArgMatches) -> Result<(), Failure> {
    const ID: &str = "egress_proxy";
    let defined = command.get_arguments().any(|argument| argument.get_id() == ID);
    if !defined || matches.value_source(ID) != Some(ValueSource::CommandLine) {
        return Ok(());
    }
    let given = matches.get_one::<SecretString>(ID);
    if given.is_some_and(|proxy| proxy.expose_secret().contains('@')) {
        let message =
            "--egress-proxy with a password is not taken from the command line, where others can read it";
        return Err(Failure::usage(message).hint("set QRELAY_EGRESS_PROXY"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> Refused {
        parse(line.split(' ').map(OsString::from)).expect_err("refused")
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_key_on_the_command_line_is_refused_wherever_it_stands() {
        for line in [
            "qrelay tenant --key qrk_x list",
            "qrelay tenant list --key qrk_x",
            "qrelay tail --key=qrk_x",
            "qrelay up --master-key=qrk_x",
        ] {
            let Refused::Ours(failure) = refused(line) else {
                panic!("{line}")
            };
            assert!(failure.hint.unwrap().contains("QRELAY_"), "{line}");
            assert!(!failure.message.contains("qrk_x"));
        }
    }

    #[test]
    fn a_proxys_password_on_the_command_line_is_refused_and_its_address_is_not() {
        let Refused::Ours(failure) = refused("qrelay up --egress-proxy http://user:hunter2@proxy:3128")
        else {
            panic!("clap took it")
        };
        assert!(failure.hint.unwrap().contains("QRELAY_EGRESS_PROXY"));
        assert!(!failure.message.contains("hunter2"));
        let line = "qrelay up --egress-proxy http://proxy:3128";
        assert!(parse(line.split(' ').map(OsString::from)).is_ok());
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "qrelay", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in CommandLine::command().get_subcommands() {
                assert!(
                    script.contains(command.get_name()),
                    "{shell}: {}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn options_stand_before_or_after_the_action() {
        for line in [
            "qrelay code --tenant ten_1 list",
            "qrelay code list --tenant ten_1 --json",
            "qrelay endpoint deliveries ep_1 --page-size 5",
            "qrelay delivery get dlv_1 --api http://[::1]:7070",
        ] {
            parse(line.split(' ').map(OsString::from))
                .unwrap_or_else(|refused| panic!("{line}: {refused:?}"));
        }
    }
}
