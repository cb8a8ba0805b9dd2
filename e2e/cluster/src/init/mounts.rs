//! A private copy of the machine's tree, with some places of our own.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::SCRATCH;
use crate::cgroup::Cgroups;

const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n198.18.0.1 node\n";
/// Pebble's DNS server answers there too: every program in the world resolves names as the CA does.
const RESOLVER: &str = "nameserver 198.18.0.1\noptions timeout:2 attempts:2\n";

/// Own /proc, /run, /etc/hosts and /etc/resolv.conf. What is in `keep` stays where it is, even if that is under /run.
pub(super) fn prepare(keep: &[&Path]) -> Result<()> {
    // Nothing of this may be seen outside.
    bind_flags("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE).context("making the mounts private")?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let proc = mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        plain | MsFlags::MS_NOEXEC,
        None::<&str>,
    );
    if let Err(error) = proc {
        // In a container whose /proc is masked: the pids shown are the outer ones, the rest works.
        eprintln!("own /proc: {error}");
    }
    let resolver = target("/etc/resolv.conf");
    let open =
        |path: &&Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let kept = keep
        .iter()
        .map(|path| Ok((*path, open(path)?)))
        .collect::<Result<Vec<_>>>()?;
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        plain,
        Some("mode=755"),
    )
    .context("own /run")?;
    for (path, file) in kept.iter().filter(|(path, _)| path.starts_with("/run")) {
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        bind(
            Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())),
            path,
        )?;
    }
    fs::create_dir_all(SCRATCH).context("creating the scratch folder")?;
    place(HOSTS, Path::new("/etc/hosts"))?;
    place(RESOLVER, &resolver)?;
    nix::unistd::sethostname("node").context("naming the node")
}

/// What the kubelet checks, as it wants them, in kernel(5)'s and vm(5)'s folders: they are the whole machine's, so it is shown
/// files of ours.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];
/// What kubelet and CNI write to, by names that cannot be changed.
const STATE: [(&str, &[&str]); 2] = [
    ("/var/lib", &["kubelet", "cni"]),
    ("/var/log", &["pods", "containers"]),
];

/// For a node besides: the network's own /sys, the world's own cgroups, and nothing of a kubelet's state on the machine's disk.
pub(super) fn prepare_node(cgroups: &Cgroups) -> Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let fresh = |kind: &str, point: &Path, options: &str| {
        mount(Some(kind), point, Some(kind), plain, Some(options))
            .with_context(|| format!("own {}", point.display()))
    };
    fresh("sysfs", Path::new("/sys"), "")?;
    for one in cgroups.inner_mounts() {
        fs::create_dir_all(&one.point)
            .with_context(|| format!("creating {}", one.point.display()))?;
        fresh(one.kind, &one.point, &one.options)?;
        for link in one.links {
            std::os::unix::fs::symlink(&one.point, one.point.with_file_name(link))
                .context("naming a controller")?;
        }
    }
    for (dir, own) in STATE {
        cover(Path::new(dir), own).with_context(|| format!("own folders in {dir}"))?;
    }
    for (setting, value) in SETTINGS {
        let own = Path::new(SCRATCH).join(setting.replace('/', "."));
        fs::write(&own, format!("{value}\n")).context("writing a setting")?;
        bind(&own, &Path::new("/proc/sys").join(setting))?;
    }
    // Mounts have to reach the containers that ask for them.
    bind_flags("/", MsFlags::MS_REC | MsFlags::MS_SHARED).context("sharing the mounts")
}

/// Covers a folder with one in memory that has the same entries, but for new and empty folders with the names in `own`.
fn cover(dir: &Path, own: &[&str]) -> Result<()> {
    let old = File::open(dir).context("opening it")?;
    let entries = fs::read_dir(dir)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .context("reading it")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some("mode=755")).context("covering it")?;
    let old = PathBuf::from(format!("/proc/self/fd/{}", old.as_raw_fd()));
    for entry in entries {
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let (from, to) = (old.join(&name), dir.join(&name));
        if own.iter().any(|one| name == *one) {
            continue;
        }
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&to)?;
        } else {
            File::create(&to)?;
        }
        bind(&from, &to)?;
    }
    for name in own {
        fs::create_dir(dir.join(name))?;
    }
    Ok(())
}

/// Where a link leads, one level at least; distributions have /etc/resolv.conf as a link into /run.
fn target(link: &str) -> PathBuf {
    let link = Path::new(link);
    fs::canonicalize(link)
        .or_else(|_| fs::read_link(link).map(|to| link.parent().unwrap_or(link).join(to)))
        .unwrap_or_else(|_| link.to_path_buf())
}

/// Puts a file of ours at `path`: in our own /run it is written, anywhere else it is bound over what is there.
fn place(text: &str, path: &Path) -> Result<()> {
    if path.starts_with("/run") {
        let dir = path.parent().unwrap_or(path);
        return fs::create_dir_all(dir)
            .and_then(|()| fs::write(path, text))
            .with_context(|| format!("writing {}", path.display()));
    }
    let name = path.file_name().context("a file without a name")?;
    let own = Path::new(SCRATCH).join(name);
    fs::write(&own, text).with_context(|| format!("writing {}", own.display()))?;
    if !path.exists() {
        eprintln!("{} does not exist here: left so", path.display());
        return Ok(());
    }
    bind(&own, path)
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(
        Some(from),
        to,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .with_context(|| format!("binding {} over {}", from.display(), to.display()))
}

fn bind_flags(path: &str, flags: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
}
