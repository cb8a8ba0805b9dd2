//! Pods as the API server knows them, and the programs in them as the world's own /proc shows them.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, Client, ResourceExt};

/// The last lines of a container's log that are evidence.
const LINES: i64 = 40;

/// The pods of a namespace with a label, by name.
///
/// # Errors
/// The API server does not answer.
pub async fn list(client: &Client, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut list = pods
        .list(&ListParams::default().labels(selector))
        .await?
        .items;
    list.sort_by_key(ResourceExt::name_any);
    Ok(list)
}

/// The ends of the logs of every pod in a namespace, of those before a restart too. Never fails: what cannot be read says so.
pub async fn logs(client: &Client, namespace: &str) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = match list(client, namespace, "").await {
        Ok(list) => list,
        Err(error) => return format!("# pods: {error:#}\n"),
    };
    let mut text = String::new();
    for pod in list {
        let name = pod.name_any();
        let restarts = pod
            .status
            .iter()
            .filter_map(|status| status.container_statuses.as_ref()?.first())
            .map(|container| container.restart_count)
            .sum::<i32>();
        for previous in [true, false] {
            if previous && restarts == 0 {
                continue;
            }
            let params = LogParams {
                tail_lines: Some(LINES),
                previous,
                ..LogParams::default()
            };
            let which = if previous { " before its restart" } else { "" };
            let log = match pods.logs(&name, &params).await {
                Ok(log) => log,
                Err(error) => format!("{error}\n"),
            };
            let _ = write!(text, "===== log of pod {namespace}/{name}{which}\n{log}");
        }
    }
    text
}

/// A process of this world, by its pid as this process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(pub u32);

impl Process {
    /// The first that runs `evercert ROLE`, in a container or not; `None` where none does.
    #[must_use]
    pub fn of_role(role: &str) -> Option<Self> {
        let processes = fs::read_dir("/proc").ok()?.flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .map(Self)
            .find(|process| {
                let line = process.read("cmdline").unwrap_or_default();
                let mut words = line.split('\0');
                let program = words.next().unwrap_or_default();
                program.ends_with("/evercert") && words.next() == Some(role)
            })
    }

    /// Whether it is the program of the image, which is at its root.
    #[must_use]
    pub fn is_in_a_container(self) -> bool {
        let line = self.read("cmdline").unwrap_or_default();
        line.starts_with("/evercert\0")
    }

    /// Resident memory, in bytes (proc(5), VmRSS).
    ///
    /// # Errors
    /// There is no such process.
    pub fn resident_memory(self) -> Result<u64> {
        self.memory("VmRSS")
    }

    /// The most resident memory that it ever had, in bytes (proc(5), VmHWM).
    ///
    /// # Errors
    /// There is no such process.
    pub fn peak_memory(self) -> Result<u64> {
        self.memory("VmHWM")
    }

    fn memory(self, field: &str) -> Result<u64> {
        let line = self.status(field)?;
        let kilobytes = line.trim_end_matches("kB").trim();
        Ok(kilobytes.parse::<u64>().context("a size of memory")? * 1024)
    }

    /// A field of /proc/PID/status (proc(5)), such as `Uid`.
    ///
    /// # Errors
    /// There is no such process, or no such field.
    pub fn status(self, field: &str) -> Result<String> {
        let status = self.read("status")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(line
            .with_context(|| format!("no {field} in a process's status"))?
            .trim()
            .to_owned())
    }

    /// The options of what is mounted at `/` for the process (proc(5), mountinfo), such as `ro,relatime`.
    ///
    /// # Errors
    /// There is no such process.
    pub fn root_mount(self) -> Result<String> {
        let mounts = self.read("mountinfo")?;
        let mut fields = mounts.lines().map(|line| line.split(' ').skip(4));
        fields
            .find_map(|mut mount| (mount.next()? == "/").then(|| mount.next())?)
            .map(ToOwned::to_owned)
            .context("nothing is mounted at /")
    }

    fn read(self, file: &str) -> Result<String> {
        let bytes = fs::read(format!("/proc/{}/{file}", self.0))
            .with_context(|| format!("reading the {file} of process {}", self.0))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read_from_proc() {
        let own = Process(std::process::id());
        assert!(own.resident_memory().unwrap() > 100_000);
        assert_eq!(own.status("Pid").unwrap(), own.0.to_string());
        assert!(own.root_mount().unwrap().contains('r'));
        assert!(own.status("Nothing").is_err());
    }
}
