//! Where the folders of worlds are, and how an abandoned one is told from one in use.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use super::record;
use crate::cgroup;
use crate::process::Process;

/// The kernel lets go of a group some time after its last process.
const CGROUPS_FREE_WITHIN: Duration = Duration::from_secs(5);

/// The folder of all of this user's worlds: in `$XDG_RUNTIME_DIR` if that is this user's, else in the temporary folder.
pub(crate) fn base() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime.filter(|dir| is_mine(dir)) {
        Some(dir) => dir.join("evercert"),
        None => std::env::temp_dir().join(format!("evercert-{}", geteuid())),
    }
}

fn is_mine(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == geteuid().as_raw())
}

/// Makes the folder `<base>/<name>-<pid>` for a new world of this process.
pub(crate) fn create(name: &str) -> Result<PathBuf> {
    let fits = !name.is_empty()
        && name.len() <= 30
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !fits {
        bail!("a world's name has 1 to 30 lower-case letters, digits and hyphens, not {name:?}");
    }
    let base = base();
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    builder
        .recursive(true)
        .create(&base)
        .with_context(|| format!("creating {}", base.display()))?;
    let meta =
        fs::symlink_metadata(&base).with_context(|| format!("reading {}", base.display()))?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() || meta.permissions().mode() & 0o022 != 0
    {
        bail!(
            "{} is not a folder that only this user can write",
            base.display()
        );
    }
    let base = fs::canonicalize(&base).with_context(|| format!("resolving {}", base.display()))?;
    let state = base.join(format!("{name}-{}", std::process::id()));
    builder.recursive(false).create(&state).with_context(|| {
        format!(
            "creating {} (one world of a name for each process)",
            state.display()
        )
    })?;
    for dir in [record::LOGS, record::PIDS] {
        builder
            .create(state.join(dir))
            .with_context(|| format!("creating {dir} of a world"))?;
    }
    Ok(state)
}

/// The folders of worlds that somebody answers for, oldest first.
pub(crate) fn all() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(base()) else {
        return Vec::new();
    };
    let mut dirs: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.metadata().ok()?.modified().ok()?,
                fs::canonicalize(entry.path()).ok()?,
            ))
        })
        .filter(|(_, dir)| record::is_supervised(dir))
        .collect();
    dirs.sort();
    dirs.into_iter().map(|(_, dir)| dir).collect()
}

/// The name that the world in this folder was given.
pub(crate) fn name_of(state: &Path) -> Option<&str> {
    state
        .file_name()?
        .to_str()?
        .rsplit_once('-')
        .map(|(name, _)| name)
}

/// Removes folders whose maker and supervisor are both gone: a machine that lost power, a supervisor that was killed.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(base()) else {
        return;
    };
    for dir in entries.flatten().map(|entry| entry.path()) {
        let maker = dir
            .file_name()
            .and_then(|name| name.to_str()?.rsplit_once('-')?.1.parse().ok());
        let Some(maker) = maker else { continue };
        if Process::of(maker).is_none() && !record::is_supervised(&dir) {
            // Worlds of other programs start at the same time; one of them may have taken it already.
            let _ = remove(&dir);
        }
    }
}

/// Removes what a world that has ended leaves: its cgroups, then its folder, which names them. No error if there is none.
pub(crate) fn remove(state: &Path) -> Result<()> {
    if let Some(subtree) = record::cgroups(state) {
        cgroup::remove(&subtree.groups, CGROUPS_FREE_WITHIN)?;
    }
    match fs::remove_dir_all(state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", state.display()))
        }
        _ => Ok(()),
    }
}
