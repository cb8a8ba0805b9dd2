//! Images with one file in them, for a node that reaches no registry.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

/// An image FROM scratch that has one static program, run by an ordinary user (65532).
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name, such as `localhost/site:1`. A pod that uses it needs `imagePullPolicy: Never` or `IfNotPresent`.
    pub reference: String,
    /// The program; it has the same file name in the image's root folder.
    pub program: PathBuf,
    /// The arguments that a pod without `args` gets.
    pub arguments: Vec<String>,
}

impl Image {
    /// Writes it as a `docker-archive`, fit for [`World::import_image`](crate::World::import_image). The same program gives the
    /// same bytes.
    ///
    /// # Errors
    /// The program cannot be read, or the archive not written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let file =
            File::create(archive).with_context(|| format!("creating {}", archive.display()))?;
        self.write_to(file)
            .with_context(|| format!("writing the image {}", self.reference))
    }

    fn write_to(&self, archive: impl Write) -> Result<()> {
        let name = self
            .program
            .file_name()
            .context("a program without a name")?;
        let name = name.to_str().context("a program with a strange name")?;
        let program = fs::read(&self.program)
            .with_context(|| format!("reading {}", self.program.display()))?;
        let mut layer = tar::Builder::new(Vec::new());
        add(&mut layer, name, &program, 0o755)?;
        let layer = layer.into_inner().context("ending a layer")?;
        let layer_file = format!("{}.tar", hash(&layer));
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": [format!("/{name}")],
                "Cmd": self.arguments,
                "User": "65532:65532",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hash(&layer))]},
        })
        .to_string();
        let config_file = format!("{}.json", hash(config.as_bytes()));
        let manifest = json!([{
            "Config": config_file,
            "RepoTags": [self.reference],
            "Layers": [layer_file],
        }])
        .to_string();
        let mut whole = tar::Builder::new(archive);
        add(&mut whole, &config_file, config.as_bytes(), 0o644)?;
        add(&mut whole, &layer_file, &layer, 0o644)?;
        add(&mut whole, "manifest.json", manifest.as_bytes(), 0o644)?;
        whole.into_inner().context("ending an archive")?.flush()?;
        Ok(())
    }
}

fn add(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(bytes.len()).context("a file's size")?);
    header.set_mode(mode);
    archive
        .append_data(&mut header, name, bytes)
        .with_context(|| format!("adding {name}"))
}

fn hash(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// As Go calls it (the OCI image specification, `architecture`).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
