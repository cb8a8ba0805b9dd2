//! The groups of one world: made, joined, thawed, removed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Cgroups, Version, words};

const POLL: Duration = Duration::from_millis(10);
/// Below a world's group of version 2: where its own processes are, PID 1 and what that starts.
const LEAF: &str = "world";

/// The groups of one world: one in each hierarchy, in the order of these.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Subtree {
    pub(crate) cgroups: Cgroups,
    pub(crate) groups: Vec<PathBuf>,
}

impl Subtree {
    /// Makes the groups, with the controllers that a node needs.
    pub(crate) fn create(&self) -> Result<()> {
        for (hierarchy, group) in self.cgroups.hierarchies.iter().zip(&self.groups) {
            if self.cgroups.version == Version::Two {
                hand_on(&hierarchy.parent)?;
            }
            // One of this name that somebody left has no process in it, else it stays and this fails.
            remove_tree(group)
                .and_then(|()| fs::create_dir(group))
                .with_context(|| format!("creating {}", group.display()))?;
            match self.cgroups.version {
                // Without them no process can join the group (cpusets(7)).
                Version::One if hierarchy.controllers.split(',').any(|one| one == "cpuset") => {
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        copy(&hierarchy.parent.join(file), &group.join(file))?;
                    }
                }
                Version::One => {}
                Version::Two => fs::create_dir(group.join(LEAF)).context("creating a leaf")?,
            }
        }
        Ok(())
    }

    /// Moves this process, and so all that it will start. `unshare` makes its cgroup namespace, whose root the groups become.
    pub(crate) fn join(&self, unshare: impl FnOnce() -> Result<()>) -> Result<()> {
        let enter = |group: &Path| {
            let file = group.join("cgroup.procs");
            fs::write(&file, std::process::id().to_string())
                .with_context(|| format!("writing {}", file.display()))
        };
        self.groups.iter().try_for_each(|group| enter(group))?;
        unshare()?;
        if self.cgroups.version == Version::Two {
            for group in &self.groups {
                enter(&group.join(LEAF))?;
                hand_on(group)?;
            }
        }
        Ok(())
    }
}

/// Gives the groups below this one the controllers that are there and needed, and `io` where it can be had.
fn hand_on(group: &Path) -> Result<()> {
    let file = group.join("cgroup.subtree_control");
    let there = words(&fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default());
    let given = words(&fs::read_to_string(&file).unwrap_or_default());
    for name in Version::Two.needed().iter().copied().chain(["io"]) {
        let is_in = |list: &[String]| list.iter().any(|one| one == name);
        if is_in(&there) && !is_in(&given) {
            fs::write(&file, format!("+{name}"))
                .with_context(|| format!("writing +{name} to {}", file.display()))?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let text = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    fs::write(to, text).with_context(|| format!("writing {}", to.display()))
}

/// Lets frozen processes of version 1 go on: until then they do not even end (cgroup-v1/freezer-subsystem.rst).
pub(crate) fn thaw(groups: &[PathBuf]) {
    for group in groups {
        // Only groups of one hierarchy have this file.
        let _ = fs::OpenOptions::new()
            .write(true)
            .open(group.join("freezer.state"))
            .and_then(|mut file| file.write_all(b"THAWED"));
        let below: Vec<_> = fs::read_dir(group)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        thaw(&below);
    }
}

/// Removes groups with all that is below them, which succeeds as soon as the last process in them is gone.
pub(crate) fn remove(groups: &[PathBuf], within: Duration) -> Result<()> {
    thaw(groups);
    let deadline = Instant::now() + within;
    for group in groups {
        while let Err(error) = remove_tree(group) {
            if Instant::now() > deadline {
                bail!("removing {}: {error}", group.display());
            }
            thread::sleep(POLL);
        }
    }
    Ok(())
}

/// The files of a group go with it.
fn remove_tree(group: &Path) -> std::io::Result<()> {
    let gone = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    };
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) => return gone(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group).or_else(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_of_groups_goes_from_its_leaves_and_one_that_is_gone_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("evercert-x-1");
        fs::create_dir_all(group.join("kubepods/pod1/c")).unwrap();
        remove(&[group.clone(), dir.path().join("never")], Duration::ZERO).unwrap();
        assert!(!group.exists());
    }
}
