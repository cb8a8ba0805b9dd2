//! The cgroups of a host, and a subtree of them for each world: what its node's pods are counted and limited in.
//!
//! Version 1 has a hierarchy for each controller, and a process has its own place in every one: a world's group is made below
//! the group of whoever brings it up. Version 2 has one hierarchy, where a group with processes cannot hand controllers on:
//! a world's group is made at the top of what is seen, and the world's own processes are in a leaf of it.

mod subtree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

pub(crate) use subtree::{Subtree, remove, thaw};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Version {
    One,
    Two,
}

impl Version {
    /// Without them no kubelet starts, or no container.
    fn needed(self) -> &'static [&'static str] {
        match self {
            Self::One => &[
                "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids",
            ],
            Self::Two => &["cpu", "cpuset", "memory", "pids"],
        }
    }
}

/// One hierarchy of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hierarchy {
    /// As /proc/self/cgroup has them: `memory`, `cpu,cpuacct`, `name=systemd`; empty in version 2.
    pub(crate) controllers: String,
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// The group below which worlds have theirs.
    pub(crate) parent: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cgroups {
    pub(crate) version: Version,
    pub(crate) hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    pub(crate) fn here() -> Result<Self> {
        let read = |file: &str| fs::read_to_string(file).with_context(|| format!("reading {file}"));
        Self::parse(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
    }

    /// From the texts of /proc/self/cgroup and /proc/self/mountinfo (cgroups(7), proc(5)).
    fn parse(own: &str, mountinfo: &str) -> Result<Self> {
        let mounts: Vec<_> = mountinfo.lines().filter_map(Mount::parse).collect();
        let lines: Vec<_> = own
            .lines()
            .filter_map(|line| {
                let (_, rest) = line.split_once(':')?;
                rest.split_once(':')
            })
            .collect();
        let has = |wanted: &str| {
            lines
                .iter()
                .any(|(controllers, _)| controllers.split(',').any(|one| one == wanted))
        };
        if has("memory") {
            let hierarchies = lines
                .iter()
                .filter(|(controllers, _)| !controllers.is_empty())
                .filter_map(|(controllers, path)| {
                    let mount = mounts.iter().find(|mount| mount.is_of(controllers))?;
                    Some(Hierarchy {
                        controllers: (*controllers).to_owned(),
                        mount: mount.point.clone(),
                        parent: mount.place_of(path)?,
                    })
                })
                .collect();
            return Ok(Self {
                version: Version::One,
                hierarchies,
            });
        }
        let mount = mounts
            .iter()
            .find(|mount| mount.kind == "cgroup2")
            .ok_or_else(|| anyhow!("no cgroups are mounted here"))?;
        Ok(Self {
            version: Version::Two,
            hierarchies: vec![Hierarchy {
                controllers: String::new(),
                mount: mount.point.clone(),
                parent: mount.point.clone(),
            }],
        })
    }

    /// Why no world can have a subtree here, a sentence for each reason.
    pub(crate) fn missing(&self) -> Vec<String> {
        let read =
            |group: &Path, file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
        let mut missing = Vec::new();
        let there: Vec<String> = match self.version {
            Version::One => self
                .hierarchies
                .iter()
                .flat_map(|one| one.controllers.split(',').map(ToOwned::to_owned))
                .collect(),
            Version::Two => self
                .hierarchies
                .iter()
                .flat_map(|one| words(&read(&one.parent, "cgroup.controllers")))
                .collect(),
        };
        for needed in self.version.needed() {
            if !there.iter().any(|one| one == needed) {
                missing.push(format!(
                    "the cgroup controller {needed} is not mounted here"
                ));
            }
        }
        for Hierarchy { parent, .. } in &self.hierarchies {
            if let Err(error) = access(parent, AccessFlags::W_OK) {
                missing.push(format!(
                    "no cgroup can be made in {}: {error}",
                    parent.display()
                ));
            }
            // Only the host's own topmost group, which has no type, may have processes and hand controllers on.
            let stuck = self.version == Version::Two
                && parent.join("cgroup.type").exists()
                && !read(parent, "cgroup.procs").trim().is_empty()
                && self.version.needed().iter().any(|needed| {
                    !words(&read(parent, "cgroup.subtree_control"))
                        .iter()
                        .any(|one| one == needed)
                });
            if stuck {
                missing.push(format!(
                    "{} has processes of its own, so it cannot hand its controllers on: move them to a group below it",
                    parent.display()
                ));
            }
        }
        missing
    }

    /// The subtree that a world with this name has, or is to have.
    pub(crate) fn subtree(self, name: &str) -> Subtree {
        let groups = self
            .hierarchies
            .iter()
            .map(|one| one.parent.join(format!("evercert-{name}")))
            .collect();
        Subtree {
            cgroups: self,
            groups,
        }
    }
}

struct Mount {
    root: PathBuf,
    point: PathBuf,
    kind: String,
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (place, source) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut source = source.split(' ');
        let kind = source.next()?;
        kind.starts_with("cgroup").then(|| Self {
            root: root.into(),
            point: point.into(),
            kind: kind.to_owned(),
            options: source.nth(1).unwrap_or_default().to_owned(),
        })
    }

    fn is_of(&self, controllers: &str) -> bool {
        let mut wanted = controllers.split(',');
        self.kind == "cgroup"
            && wanted.all(|one| self.options.split(',').any(|option| option == one))
    }

    /// Where a group is seen under this mount, which may show a part of the hierarchy only.
    fn place_of(&self, group: &str) -> Option<PathBuf> {
        let below = Path::new(group).strip_prefix(&self.root).ok()?;
        let climbs = below.components().any(|part| part.as_os_str() == "..");
        (!climbs).then(|| self.point.join(below).components().collect())
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

/// One of the mounts that show a world its own groups as if they were the machine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InnerMount {
    pub(crate) kind: &'static str,
    pub(crate) point: PathBuf,
    pub(crate) options: String,
    /// Names beside the mount that lead to it: programs look for a controller by its own name.
    pub(crate) links: Vec<String>,
}

impl Cgroups {
    /// What is mounted inside of a world, in this order.
    pub(crate) fn inner_mounts(&self) -> Vec<InnerMount> {
        let top = Path::new("/sys/fs/cgroup");
        let mount = |kind, point: PathBuf, options: &str| InnerMount {
            kind,
            point,
            options: options.to_owned(),
            links: Vec::new(),
        };
        if self.version == Version::Two {
            return vec![mount("cgroup2", top.to_path_buf(), "")];
        }
        let each = self.hierarchies.iter().map(|one| {
            let (name, options) = match one.controllers.strip_prefix("name=") {
                Some(name) => (name, format!("none,{}", one.controllers)),
                None => (one.controllers.as_str(), one.controllers.clone()),
            };
            let together = one.controllers.contains(',');
            let links = one.controllers.split(',').filter(|_| together);
            InnerMount {
                links: links.map(ToOwned::to_owned).collect(),
                ..mount("cgroup", top.join(name), &options)
            }
        });
        std::iter::once(mount("tmpfs", top.to_path_buf(), "mode=755"))
            .chain(each)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str =
        "4:memory:/user/abc\n3:cpu,cpuacct:/\n2:cpuset:/\n1:name=systemd:/init.scope\n0::/\n";
    const V1_MOUNTS: &str = "\
23 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn parents(cgroups: &Cgroups) -> Vec<&str> {
        let each = cgroups.hierarchies.iter();
        each.map(|one| one.parent.to_str().unwrap()).collect()
    }

    #[test]
    fn groups_of_version_1_are_below_the_own_group_of_each_hierarchy() {
        let cgroups = Cgroups::parse(V1, V1_MOUNTS).unwrap();
        assert_eq!(cgroups.version, Version::One);
        assert_eq!(
            parents(&cgroups),
            [
                "/sys/fs/cgroup/memory/user/abc",
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/cpuset",
                "/sys/fs/cgroup/systemd/init.scope"
            ]
        );
        let subtree = cgroups.subtree("shared-17");
        assert_eq!(
            subtree.groups.first().unwrap().to_str().unwrap(),
            "/sys/fs/cgroup/memory/user/abc/evercert-shared-17"
        );
    }

    #[test]
    fn world_of_version_1_sees_each_hierarchy_and_each_controller_by_name() {
        let mounts = Cgroups::parse(V1, V1_MOUNTS).unwrap().inner_mounts();
        let lines: Vec<_> = mounts
            .iter()
            .map(|one| {
                format!(
                    "{} {} {} {:?}",
                    one.kind,
                    one.point.display(),
                    one.options,
                    one.links
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                "tmpfs /sys/fs/cgroup mode=755 []",
                "cgroup /sys/fs/cgroup/memory memory []",
                "cgroup /sys/fs/cgroup/cpu,cpuacct cpu,cpuacct [\"cpu\", \"cpuacct\"]",
                "cgroup /sys/fs/cgroup/cpuset cpuset []",
                "cgroup /sys/fs/cgroup/systemd none,name=systemd []",
            ]
        );
    }

    #[test]
    fn group_of_version_2_is_at_the_top_of_what_is_seen() {
        let own = "0::/user.slice/user-0.slice/session-1.scope\n";
        let mounts = "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let cgroups = Cgroups::parse(own, mounts).unwrap();
        assert_eq!(cgroups.version, Version::Two);
        assert_eq!(parents(&cgroups), ["/sys/fs/cgroup"]);
        let inside = cgroups.inner_mounts();
        assert_eq!(inside.len(), 1);
        let only = inside.first().unwrap();
        assert_eq!(
            (only.kind, only.point.to_str()),
            ("cgroup2", Some("/sys/fs/cgroup"))
        );
    }

    #[test]
    fn part_of_a_hierarchy_that_a_container_sees_is_enough() {
        let own = "1:memory:/docker/abc\n";
        let seen = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(
            parents(&Cgroups::parse(own, seen).unwrap()),
            ["/sys/fs/cgroup/memory"]
        );
        let elsewhere =
            "35 31 0:32 /docker/xyz /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let unseen = Cgroups::parse(own, elsewhere).unwrap();
        assert!(unseen.hierarchies.is_empty());
        assert!(
            unseen
                .missing()
                .contains(&"the cgroup controller memory is not mounted here".to_owned())
        );
    }
}
