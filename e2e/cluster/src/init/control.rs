//! What PID 1 does when it is asked: it starts a component again.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::components::Components;
use crate::world::record;

/// The kernel frees what the process had before its end is seen.
const DONE_WITHIN: Duration = Duration::from_secs(30);
const DONE: &str = "done";

/// Answers requests from now on, each on a connection of its own: the name of a component, then `done` or what went wrong.
pub(super) fn listen(state: &Path, components: &Arc<Mutex<Components>>) -> Result<()> {
    let listener =
        UnixListener::bind(state.join(record::RESTARTS)).context("listening for restarts")?;
    let components = Arc::clone(components);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let components = Arc::clone(&components);
            thread::spawn(move || answer(connection, &components));
        }
    });
    Ok(())
}

fn answer(mut connection: UnixStream, components: &Mutex<Components>) {
    let mut name = String::new();
    if BufReader::new(&connection).read_line(&mut name).is_err() {
        return;
    }
    let (sender, done) = mpsc::channel();
    components
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .restart(name.trim(), &sender);
    let answer = match done.recv_timeout(DONE_WITHIN) {
        Ok(Ok(())) => DONE.to_owned(),
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("it did not end within {DONE_WITHIN:?}"),
    };
    // Whoever asked may be gone.
    let _ = writeln!(connection, "{answer}");
}

/// Asks the PID 1 of the world in `state` to end `component` by SIGKILL and to start it again.
pub(crate) fn restart(state: &Path, component: &str) -> Result<()> {
    let mut connection =
        UnixStream::connect(state.join(record::RESTARTS)).context("reaching the world's PID 1")?;
    writeln!(connection, "{component}").context("asking for a restart")?;
    let mut answer = String::new();
    BufReader::new(connection)
        .read_line(&mut answer)
        .context("waiting for a restart")?;
    if answer.trim() != DONE {
        bail!("restarting {component}: {}", answer.trim());
    }
    Ok(())
}
