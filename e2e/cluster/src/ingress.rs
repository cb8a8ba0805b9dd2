//! The ingress controller of a world, as a small file: its class, the objects that it needs, and the programs that it is.
//!
//! [`CONTROLLER`] names one of those in `e2e/controllers`, or the path of another; else it is Contour. In a file stands, for
//! instance, `$(address)`:
//!
//! | | |
//! |---|---|
//! | `$(address)` | the address at which ports 80 and 443 are to be answered |
//! | `$(class)` | the name of the IngressClass |
//! | `$(here)` | the folder of the file |
//! | `$(kubeconfig)` | the credentials of the user `ingress-controller` |
//! | `$(scratch)` | a folder of the world's own, for sockets and the like |
//! | `$(tools)` | the folder of the world's own programs |

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::process;
use crate::world::record;

/// In the environment: a name or a path.
pub const CONTROLLER: &str = "EVERCERT_INGRESS_CONTROLLER";
/// In the environment: the IngressClass that the stories use, where it is not that of the file.
pub const CLASS: &str = "EVERCERT_INGRESS_CLASS";

const DEFAULT: &str = "contour";
/// In the state folder of a world.
const FILE: &str = "ingress-controller.json";

/// An ingress controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IngressController {
    /// The name of its IngressClass, which is one of the objects.
    pub class: String,
    /// Files for `kubectl create`, before anything starts.
    #[serde(default)]
    pub objects: Vec<String>,
    /// Kinds that the API server has to serve before the first program starts.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// What is started, one after the other.
    pub programs: Vec<Program>,
    /// The folder of its file.
    #[serde(default)]
    here: PathBuf,
}

/// A program of an ingress controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Program {
    /// Of its log and its pid file.
    pub name: String,
    /// One of the world's own, one in the PATH, or an absolute path.
    pub program: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Added to its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Whether it is run to its end, and not kept running.
    #[serde(default)]
    pub once: bool,
    /// `tcp://ADDRESS:PORT` or a URL, each of which has to answer before the next program starts.
    #[serde(default)]
    pub ready: Vec<String>,
}

/// What stands for `$(NAME)`.
pub(crate) type Values<'a> = [(&'a str, String)];

impl IngressController {
    /// The one that the environment names.
    ///
    /// # Errors
    /// There is no such file, it is not right (the error names the field), or one of its programs is not there.
    pub(crate) fn chosen(tools: &Path) -> Result<Self> {
        let wanted = env::var(CONTROLLER).unwrap_or_else(|_| DEFAULT.to_owned());
        let mut found = Self::read(&find(&wanted)?)?;
        if let Ok(class) = env::var(CLASS) {
            found.class = class;
        }
        found
            .check(tools)
            .with_context(|| format!("{CONTROLLER}={wanted}"))?;
        Ok(found)
    }

    fn read(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let mut read: Self = serde_yaml_ng::from_str(&text)
            .with_context(|| format!("{} is no ingress controller's file", file.display()))?;
        read.here = file.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(read)
    }

    fn check(&self, tools: &Path) -> Result<()> {
        ensure!(
            !self.class.is_empty(),
            "`class` is empty: name its IngressClass"
        );
        ensure!(
            !self.programs.is_empty(),
            "`programs` is empty: name what is to be started"
        );
        for (index, program) in self.programs.iter().enumerate() {
            let field = |name| format!("`programs[{index}].{name}`");
            ensure!(
                program
                    .name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && !program.name.is_empty(),
                "{} is {:?}: small letters, digits and hyphens are a name",
                field("name"),
                program.name
            );
            ensure!(
                program.find(tools).is_some(),
                "{}: there is no program {:?} beside the world's own and in the PATH: install it, or write its absolute path",
                field("program"),
                program.program
            );
            for address in &program.ready {
                ensure!(
                    ["tcp://", "http://"]
                        .iter()
                        .any(|scheme| address.starts_with(scheme)),
                    "{} has {address:?}: write tcp://ADDRESS:PORT or http://ADDRESS:PORT/PATH",
                    field("ready")
                );
            }
            let known = self.values(Path::new(""), Path::new(""), Path::new(""));
            for text in program.texts() {
                fill(text, &known).with_context(|| field("args, env or ready"))?;
            }
        }
        Ok(())
    }

    /// What the file's words mean in a world.
    pub(crate) fn values(
        &self,
        tools: &Path,
        scratch: &Path,
        kubeconfig: &Path,
    ) -> [(&'static str, String); 6] {
        let shown = |path: &Path| path.display().to_string();
        [
            ("address", crate::address::INGRESS.to_owned()),
            ("class", self.class.clone()),
            ("here", shown(&self.here)),
            ("kubeconfig", shown(kubeconfig)),
            ("scratch", shown(scratch)),
            ("tools", shown(tools)),
        ]
    }

    /// Keeps it in the state folder of a world: whoever is in that world asks for this one.
    pub(crate) fn keep(&self, state: &Path) -> Result<()> {
        record::write_at_once(&state.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// That of a world.
    pub(crate) fn of(state: &Path) -> Result<Self> {
        let file = state.join(FILE);
        let kept = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        serde_json::from_slice(&kept).with_context(|| format!("reading {}", file.display()))
    }
}

impl Program {
    /// Where it is.
    pub(crate) fn find(&self, tools: &Path) -> Option<PathBuf> {
        // An absolute path stays what it is.
        let own = tools.join(&self.program);
        if own.is_file() {
            return Some(own);
        }
        process::find_program(&self.program)
    }

    fn texts(&self) -> impl Iterator<Item = &String> {
        self.args.iter().chain(self.env.values()).chain(&self.ready)
    }
}

/// A file of `e2e/controllers` by its name, or any by its path.
fn find(wanted: &str) -> Result<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../controllers");
    let named = ours.join(format!("{wanted}.yaml"));
    if !wanted.contains('/') && named.is_file() {
        return Ok(named);
    }
    let path = Path::new(wanted);
    if path.is_file() {
        return fs::canonicalize(path).with_context(|| format!("finding {wanted}"));
    }
    let entries = fs::read_dir(&ours).with_context(|| format!("listing {}", ours.display()))?;
    let mut known: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".yaml").map(ToOwned::to_owned))
        .filter(|name| !name.ends_with(".objects"))
        .collect();
    known.sort_unstable();
    bail!(
        "{CONTROLLER}={wanted}: there is no such file, and none of that name in e2e/controllers ({})",
        known.join(", ")
    )
}

/// `text` with what stands for each `$(NAME)` in it.
pub(crate) fn fill(text: &str, values: &Values<'_>) -> Result<String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("$(") {
        let (name, behind) = after
            .split_once(')')
            .with_context(|| format!("{text:?} has no end of $("))?;
        let Some((_, value)) = values.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = values.iter().map(|(known, _)| *known).collect();
            bail!(
                "{text:?}: nothing stands for $({name}); there are {}",
                known.join(", ")
            );
        };
        filled += before;
        filled += value;
        rest = behind;
    }
    Ok(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<IngressController> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("one.yaml");
        fs::write(&path, text)?;
        IngressController::read(&path)
    }

    #[test]
    fn every_file_of_ours_is_right_but_for_programs_that_are_not_here() {
        for name in ["contour", "traefik", "ingress-nginx", "haproxy"] {
            let mut controller = IngressController::read(&find(name).unwrap()).unwrap();
            for object in &controller.objects {
                let values = controller.values(Path::new("/tools"), Path::new(""), Path::new(""));
                let object = fill(object, &values).unwrap();
                assert!(
                    object.starts_with("/tools/") || Path::new(&object).is_file(),
                    "{object}"
                );
            }
            for program in &mut controller.programs {
                "true".clone_into(&mut program.program);
            }
            controller.check(Path::new("/nowhere")).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named_by_its_field() {
        let with = |programs: &str| format!("{{class: c, programs: [{programs}]}}");
        for (text, told) in [
            ("{programs: []}".to_owned(), "missing field `class`"),
            (
                "{class: c, programs: [], port: 1}".to_owned(),
                "unknown field `port`",
            ),
            (with(""), "`programs` is empty"),
            (
                with("{name: a, program: 'true', args: x}"),
                "programs[0].args: invalid type",
            ),
            (
                with("{name: A b, program: 'true'}"),
                "`programs[0].name` is \"A b\"",
            ),
            (
                with("{name: a, program: not-there}"),
                "`programs[0].program`: there is no program \"not-there\"",
            ),
            (
                with("{name: a, program: 'true', ready: ['https://a']}"),
                "`programs[0].ready` has \"https://a\"",
            ),
            (
                with("{name: a, program: 'true', args: ['--x=$(port)']}"),
                "nothing stands for $(port); there are address, class",
            ),
            (
                with("{name: a, program: 'true', args: ['$(address']}"),
                "has no end of $(",
            ),
        ] {
            let checked = file(&text).and_then(|c| c.check(Path::new("/nowhere")));
            let error = format!("{:#}", checked.unwrap_err());
            assert!(error.contains(told), "{text}: {error}");
        }
        let error = find("treafik").unwrap_err().to_string();
        assert!(
            error.contains("EVERCERT_INGRESS_CONTROLLER=treafik")
                && error.contains("(contour, haproxy, ingress-nginx, traefik)"),
            "{error}"
        );
    }

    #[test]
    fn words_in_a_file_are_filled_in() {
        let values = [
            ("address", "198.18.0.2".to_owned()),
            ("class", "c".to_owned()),
        ];
        assert_eq!(
            fill("$(class): $(address):80 $", &values).unwrap(),
            "c: 198.18.0.2:80 $"
        );
        assert_eq!(fill("none", &values).unwrap(), "none");
    }
}
