//! What is left of a world: nothing, if all is well.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::record;

/// The marks by which anything that belongs to one world can be recognized after its end.
#[derive(Clone, Debug)]
pub struct Traces {
    state: PathBuf,
    /// Such as `net:[4026532345]`.
    namespaces: Vec<String>,
    cgroups: Vec<PathBuf>,
}

impl Traces {
    pub(crate) fn new(state: &Path, namespaces: Vec<String>, cgroups: Vec<PathBuf>) -> Self {
        Self {
            state: state.to_path_buf(),
            namespaces,
            cgroups,
        }
    }

    /// The state folder of the world they are of.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A line for everything that is still there: the state folder, a cgroup, a process that names it in its arguments or environment or
    /// is in one of the world's namespaces, a mount of it. Sees what this user may see; looks once, does not wait.
    #[must_use]
    pub fn remaining(&self) -> Vec<String> {
        let mut found = Vec::new();
        if fs::symlink_metadata(&self.state).is_ok() {
            found.push(format!("folder {}", self.state.display()));
        }
        let groups = self.cgroups.iter().filter(|group| group.exists());
        found.extend(groups.map(|group| format!("cgroup {}", group.display())));
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let process = entry.path();
            let is_process = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
            if is_process && let Some(why) = self.belongs(&process) {
                let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
                found.push(format!(
                    "process {} ({}): {why}",
                    entry.file_name().display(),
                    name.trim()
                ));
            }
        }
        found
    }

    fn belongs(&self, process: &Path) -> Option<String> {
        let mark = self.state.as_os_str().as_encoded_bytes();
        for file in ["cmdline", "environ", "mountinfo"] {
            // Another user's process cannot be read, and is not of a world of this user either.
            if fs::read(process.join(file)).is_ok_and(|text| contains(&text, mark)) {
                return Some(format!("names the world in its {file}"));
            }
        }
        // The kernel gives a number again when its namespace is gone, maybe to a world beside this one.
        if is_of_a_world(process) {
            return None;
        }
        let links = ["ns/net", "ns/mnt", "ns/pid"];
        let namespaces = links
            .iter()
            .filter_map(|link| fs::read_link(process.join(link)).ok());
        namespaces
            .map(|link| link.to_string_lossy().into_owned())
            .find(|name| self.namespaces.contains(name))
            .map(|name| format!("is in {name}"))
    }
}

/// Whether it, or one that it descends from, was started in a world: what a container runs has an environment of its own.
fn is_of_a_world(process: &Path) -> bool {
    let mark = format!("{}=", record::MARKER);
    let mut at = Some(process.to_path_buf());
    while let Some(process) = at {
        if fs::read(process.join("environ")).is_ok_and(|text| contains(&text, mark.as_bytes())) {
            return true;
        }
        at = parent(&process);
    }
    false
}

fn parent(process: &Path) -> Option<PathBuf> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    let pid = line.trim();
    (pid != "0").then(|| Path::new("/proc").join(pid))
}

/// A digit after it makes it the folder of another world, whose maker has a longer pid.
fn contains(text: &[u8], part: &[u8]) -> bool {
    let mut windows = text.windows(part.len()).enumerate();
    windows.any(|(at, window)| {
        window == part && !text.get(at + part.len()).is_some_and(u8::is_ascii_digit)
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Of a shell with `variable`, and of what that runs without any.
    fn shell_and_child(variable: &str) -> (std::process::Child, PathBuf) {
        let mut shell = Command::new("sh")
            .args(["-c", "env -i sleep 60 & echo $!; read end; kill $!"])
            .env(variable, "/nowhere/another-1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        let output = shell.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut pid).unwrap();
        (shell, Path::new("/proc").join(pid.trim()))
    }

    #[test]
    fn a_container_of_another_world_is_no_trace_of_one_whose_namespace_had_the_same_number() {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let namespaces = vec![own.to_string_lossy().into_owned()];
        let traces = Traces::new(Path::new("/nowhere/this-1"), namespaces, Vec::new());
        for (variable, belongs) in [(record::MARKER, false), ("UNMARKED", true)] {
            let (mut shell, child) = shell_and_child(variable);
            assert_eq!(traces.belongs(&child).is_some(), belongs, "{variable}");
            drop(shell.stdin.take());
            shell.wait().unwrap();
        }
    }
}
