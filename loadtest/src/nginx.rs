//! nginx as the redirector to compare with: `return 302` and a buffered access log, one worker.

use std::{
    ffi::OsStr,
    fmt::Write,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use crate::child::{Child, Start};

/// The log buffer: nginx writes a line for each redirect, as qrelay records each scan, but in memory first, and never
/// syncs. Lost in a crash; this is what people run.
const LOG_BUFFER: &str = "64k";

/// Starts it on a core, with all its files in `folder`.
///
/// # Errors
/// When the configuration cannot be written or the process not be started.
pub fn start(
    program: &Path,
    folder: &Path,
    core: usize,
    listen: SocketAddr,
    location: &str,
) -> anyhow::Result<Child> {
    let configuration = folder.join("nginx.conf");
    fs::write(&configuration, configure(folder, listen, location)?)
        .with_context(|| format!("cannot write {}", configuration.display()))?;
    let arguments = vec!["-p".into(), folder.into(), "-c".into(), configuration.into()];
    let program: &OsStr = program.as_os_str();
    Start {
        name: "nginx",
        core: Some(core),
        program,
        arguments,
        environment: Vec::new(),
        folder,
    }
    .start()
}

/// What it says its version is.
///
/// # Errors
/// When it is not installed.
pub fn version(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program).arg("-v").output().with_context(|| {
        format!(
            "cannot run {}; install it (on Debian: apt-get install nginx)",
            program.display()
        )
    })?;
    Ok(String::from_utf8_lossy(&output.stderr)
        .trim()
        .trim_start_matches("nginx version: ")
        .to_owned())
}

fn configure(folder: &Path, listen: SocketAddr, location: &str) -> anyhow::Result<String> {
    ensure!(
        !location.contains(['"', '\\', '$', '\n']),
        "this destination has no place in nginx.conf: {location}"
    );
    let folder = PathBuf::from(folder);
    let folder = folder.display();
    let mut text = String::new();
    // One worker, as one core is all there is; connections live as long as clients want them.
    writeln!(
        text,
        "daemon off;\nworker_processes 1;\npid \"{folder}/nginx.pid\";\nerror_log stderr error;"
    )?;
    writeln!(text, "events {{ worker_connections 8192; }}\nhttp {{")?;
    for place in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "  {place}_temp_path \"{folder}/{place}\";")?;
    }
    writeln!(
        text,
        "  access_log \"{folder}/access.log\" combined buffer={LOG_BUFFER} flush=1s;"
    )?;
    writeln!(
        text,
        "  keepalive_requests 1000000000;\n  keepalive_timeout 60s;\n  server_tokens off;"
    )?;
    writeln!(
        text,
        "  server {{\n    listen {listen} backlog=4096;\n    add_header cache-control no-store always;"
    )?;
    writeln!(text, "    location / {{ return 302 \"{location}\"; }}\n  }}\n}}")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_is_on_and_buffered() {
        let listen = "127.0.0.1:8081".parse().unwrap();
        let text = configure(Path::new("/x"), listen, "https://example.com/a?b=c").unwrap();
        assert!(text.contains("access_log \"/x/access.log\" combined buffer=64k"));
        assert!(text.contains("return 302 \"https://example.com/a?b=c\";"));
        assert!(configure(Path::new("/x"), listen, "https://example.com/$uri").is_err());
    }
}
