//! The programs of a world: built once from pinned modules, kept in the user's cache folder, found by every clone.

mod build;
mod recipe;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const PARTIAL: &str = "partial-";

/// A folder that holds every program of a world, complete, never changed again.
#[derive(Clone, Debug)]
pub struct Tools {
    dir: PathBuf,
}

impl Tools {
    /// Builds the programs unless the cache has them. Gets a line for each step through `progress`; silent when nothing is to
    /// be done.
    ///
    /// The folder is `$XDG_CACHE_HOME` (or `~/.cache`) `/evercert/tools/<hash>`, where the hash is of everything that the
    /// programs come from: go.mod, go.sum, the requirements of the wheel, flags, the version of Go. It appears by one rename,
    /// and of several processes one builds while the others wait. `EVERCERT_TOOLS` names a finished folder instead.
    ///
    /// # Errors
    /// Go, Python's pip or the network is missing, or a build fails: the error has the end of its output.
    pub fn ensure(progress: &dyn Fn(&str)) -> Result<Self> {
        if let Some(dir) = std::env::var_os("EVERCERT_TOOLS") {
            return Self::at(Path::new(&dir));
        }
        let cache = cache_dir()?;
        let dir = cache.join(recipe::fingerprint(&build::go_version()?));
        if let Ok(tools) = Self::at(&dir) {
            return Ok(tools);
        }
        fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
        let lock = File::create(cache.join("lock")).context("creating the cache's lock")?;
        if lock.try_lock().is_err() {
            progress("another process builds the tools: waiting for it");
            lock.lock().context("waiting for the cache's lock")?;
        }
        if let Ok(tools) = Self::at(&dir) {
            return Ok(tools);
        }
        remove_partial(&cache);
        let started = Instant::now();
        let partial = tempfile::Builder::new()
            .prefix(PARTIAL)
            .tempdir_in(&cache)
            .context("creating a folder to build in")?;
        build::all(partial.path(), progress)?;
        if dir.exists() {
            fs::remove_dir_all(&dir)
                .with_context(|| format!("removing the incomplete {}", dir.display()))?;
        }
        fs::rename(partial.path().join("out"), &dir)
            .with_context(|| format!("moving the tools to {}", dir.display()))?;
        progress(&format!(
            "tools ready in {} s: {}",
            started.elapsed().as_secs(),
            dir.display()
        ));
        Self::at(&dir)
    }

    /// The tools in `dir`, if it has all of them.
    ///
    /// # Errors
    /// The first file that is missing, by name.
    pub fn at(dir: &Path) -> Result<Self> {
        let dir =
            fs::canonicalize(dir).with_context(|| format!("no tools in {}", dir.display()))?;
        for file in recipe::files() {
            if !dir.join(file).is_file() {
                bail!("{} has no {file}", dir.display());
            }
        }
        Ok(Self { dir })
    }

    /// The folder: fit for the front of a `PATH`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of one program, such as `kubectl`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// What a killed build left. Only the holder of the lock builds, so none of it is in use.
fn remove_partial(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            // It costs space, nothing else.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn cache_dir() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => match std::env::var_os("HOME").filter(|value| !value.is_empty()) {
            Some(home) => PathBuf::from(home).join(".cache"),
            None => bail!("neither XDG_CACHE_HOME nor HOME is set: no place for the built tools"),
        },
    };
    Ok(base.join("evercert").join("tools"))
}
