//! A secret that a variable or a file may hold: a file named on the command line beats the variable.
//!
//! Who writes a flag means this command; a variable was set for the whole shell. When both the secret and the
//! file come from variables neither is nearer, and whoever reads them says so.

use clap::{ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

/// Arguments of which one is a secret from a variable, and another one a file that holds it.
pub(crate) trait SecretOrFile: Args {
    /// The file's argument.
    const FILE: &'static str;

    /// Takes away what the variable held.
    fn forget_secret(&mut self);
}

/// The same arguments, without the secret if the file is named on the command line.
#[derive(Clone, Debug)]
pub(crate) struct FlagFirst<T>(pub(crate) T);

impl<T: SecretOrFile> FlagFirst<T> {
    fn judge(mut given: T, matches: &ArgMatches) -> Self {
        if matches.value_source(T::FILE) == Some(ValueSource::CommandLine) {
            given.forget_secret();
        }
        Self(given)
    }
}

impl<T: SecretOrFile> FromArgMatches for FlagFirst<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        T::from_arg_matches(matches).map(|given| Self::judge(given, matches))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<T: SecretOrFile> Args for FlagFirst<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Args, Clone, Debug)]
    struct Given {
        #[arg(long, global = true)]
        secret: Option<String>,
        #[arg(long, default_value = "from elsewhere", global = true)]
        file: Option<String>,
    }

    impl SecretOrFile for Given {
        const FILE: &'static str = "file";

        fn forget_secret(&mut self) {
            self.secret = None;
        }
    }

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        given: FlagFirst<Given>,
    }

    #[test]
    fn only_a_file_named_on_the_command_line_beats_the_secret() {
        let read = |arguments: &[&str]| {
            let line = Line::try_parse_from(["x"].iter().chain(arguments)).unwrap();
            (line.given.0.secret.is_some(), line.given.0.file.unwrap())
        };
        assert_eq!(read(&["--secret=s"]), (true, "from elsewhere".to_owned()));
        assert_eq!(read(&["--secret=s", "--file=f"]), (false, "f".to_owned()));
    }
}
